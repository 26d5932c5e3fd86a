"""Loudness of each frame, as the volume embedding and the diffusion model take it."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Audio = TypeVar("Audio", np.ndarray, Tensor)


def volume(audio: Audio, hop_length: int) -> Audio:
    """RMS of each hop.

    Frame i is the mean of the squared samples from (i - 1/2) * hop to (i + 1/2) * hop, the signal reflected at its
    ends.

    Args:
        audio: [T] or [..., T] in [-1, 1].
        hop_length: samples a frame.

    Returns:
        float32 [..., T // hop_length], of the same kind (array or tensor) and on the same device.
    """
    if isinstance(audio, Tensor):
        return _volume(audio.float(), hop_length)
    tensor = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32))
    return _volume(tensor, hop_length).numpy()


def _volume(audio: Tensor, hop_length: int) -> Tensor:
    frames = audio.shape[-1] // hop_length
    if frames == 0:
        return audio.new_zeros((*audio.shape[:-1], 0))
    flat = audio.reshape(1, -1, audio.shape[-1])
    power = F.pad(flat, (hop_length // 2, (hop_length + 1) // 2), mode="reflect").square_()
    means = power[..., : frames * hop_length].unflatten(-1, (frames, hop_length)).mean(-1)
    return means.sqrt().reshape(*audio.shape[:-1], frames)
