"""Units of the speech encoder brought from 50 frames a second to the frames of f0."""

from __future__ import annotations

from typing import Literal

import numpy as np

StretchMode = Literal["left", "nearest", "linear"]


def stretch_units(units: np.ndarray, n_frames: int, mode: StretchMode | str = "left") -> np.ndarray:
    """Stretch units along time.

    Args:
        units: float32 [C, F].
        n_frames: frames wanted.
        mode: ``left`` (what 4.0 models were trained with) repeats each source frame until the next one begins;
            ``nearest`` and ``linear`` are torch's interpolation.

    Returns:
        float32 [C, n_frames].

    Raises:
        ValueError: an unknown mode, or no frames to stretch.
    """
    source = units.shape[-1]
    if source == 0:
        raise ValueError("there are no frames of units to stretch")
    if mode == "left":
        return units[:, _left_index(source, n_frames)]
    if mode == "nearest":
        return units[:, _nearest_index(source, n_frames)]
    if mode == "linear":
        return _interpolate(units, n_frames)
    raise ValueError(f"unit_interpolate_mode is {mode!r}; it may be left, nearest or linear")


def _left_index(source: int, target: int) -> np.ndarray:
    """Source frame of each target frame, int64 [target].

    Source frame k begins at target frame ceil(k * target / source), that bound taken in float32 as the trained
    models saw it. A target frame moves at most one source frame on, so a target shorter than the source takes
    its first frames.
    """
    bounds = (np.arange(1, source + 1) * target).astype(np.float32) / np.float32(source)
    index = np.searchsorted(bounds, np.arange(target, dtype=np.float32), side="right")
    return np.minimum(np.minimum(index, np.arange(target)), source - 1)


def _nearest_index(source: int, target: int) -> np.ndarray:
    """Source frame of each target frame, int64 [target]; positions in float32, as torch has them."""
    position = np.arange(target, dtype=np.float32) * np.float32(source / target)
    return np.minimum(position.astype(np.int64), source - 1)


def _interpolate(units: np.ndarray, target: int) -> np.ndarray:
    """Units [C, F] linearly at the middles of the target frames, [C, target]."""
    source = units.shape[-1]
    # torch rounds to float32 once after the product and the sum, as a fused multiply-add does
    position = (np.arange(target) + 0.5) * np.float64(np.float32(source / target)) - 0.5
    position = np.maximum(position, 0).astype(np.float32)
    left = np.minimum(position.astype(np.int64), source - 1)
    right = np.minimum(left + 1, source - 1)
    share = position - left.astype(np.float32)
    return units[:, left] * (1 - share) + units[:, right] * share
