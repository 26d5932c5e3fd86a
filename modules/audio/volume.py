"""Loudness of each frame, as the volume embedding and the diffusion model take it."""

from __future__ import annotations

import numpy as np


def volume(audio: np.ndarray, hop_length: int) -> np.ndarray:
    """RMS of each hop.

    Frame i is the mean of the squared samples from (i - 1/2) * hop to (i + 1/2) * hop, the signal reflected at its
    ends.

    Args:
        audio: [T] or [..., T] in [-1, 1].
        hop_length: samples a frame.

    Returns:
        float32 [..., T // hop_length].
    """
    audio = np.asarray(audio, dtype=np.float32)
    frames = audio.shape[-1] // hop_length
    if frames == 0:
        return np.zeros((*audio.shape[:-1], 0), dtype=np.float32)
    ends = [(0, 0)] * (audio.ndim - 1) + [(hop_length // 2, (hop_length + 1) // 2)]
    power = np.square(np.pad(audio, ends, mode="reflect")[..., : frames * hop_length])
    return np.sqrt(power.reshape(*audio.shape[:-1], frames, hop_length).mean(axis=-1))
