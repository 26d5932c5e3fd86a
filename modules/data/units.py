"""Units of the speech encoder brought from 50 frames a second to the frames of f0."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

StretchMode = Literal["left", "nearest", "linear"]


def stretch_units(units: Tensor, n_frames: int, mode: StretchMode | str = "left") -> Tensor:
    """Stretch units along time.

    Args:
        units: [C, F].
        n_frames: frames wanted.
        mode: ``left`` (what 4.0 models were trained with) repeats each source frame until the next one begins;
            ``nearest`` and ``linear`` are torch's interpolation.

    Returns:
        [C, n_frames].

    Raises:
        ValueError: an unknown mode, or no frames to stretch.
    """
    if units.shape[-1] == 0:
        raise ValueError("there are no frames of units to stretch")
    if mode == "left":
        return units[:, _left_index(units.shape[-1], n_frames, units.device)]
    if mode in ("nearest", "linear"):
        return F.interpolate(units.unsqueeze(0), size=n_frames, mode=mode)[0]
    raise ValueError(f"unit_interpolate_mode is {mode!r}; it may be left, nearest or linear")


def _left_index(source: int, target: int, device: torch.device) -> Tensor:
    """Source frame of each target frame, int64 [target].

    Source frame k begins at target frame ceil(k * target / source), that bound taken in float32 as the trained
    models saw it. A target frame moves at most one source frame on, so a target shorter than the source takes
    its first frames.
    """
    bounds = torch.arange(source + 1, dtype=torch.int64) * target
    bounds = (bounds.float() / source)[1:]
    index = torch.searchsorted(bounds, torch.arange(target, dtype=torch.float32), right=True)
    return torch.minimum(index, torch.arange(target)).clamp_(max=source - 1).to(device)
