"""What the runner computes besides the graphs, in numpy."""

from __future__ import annotations

import numpy as np


def unit_frames(source: int, target: int, mode: str) -> np.ndarray:
    """Which frame of the units each target frame takes, int64 [target]; as modules.data.units has it.

    Args:
        mode: left or nearest.
    """
    if mode == "nearest":
        scale = np.float32(source / target)
        return np.minimum((np.arange(target, dtype=np.float32) * scale).astype(np.int64), source - 1)
    bounds = ((np.arange(1, source + 1) * target).astype(np.float32) / np.float32(source)).astype(np.float32)
    index = np.searchsorted(bounds, np.arange(target, dtype=np.float32), side="right")
    return np.minimum(np.minimum(index, np.arange(target)), source - 1)


def interpolate(units: np.ndarray, target: int) -> np.ndarray:
    """Units [F, dim] linearly at the middles of ``target`` frames, float32 [target, dim]."""
    source = len(units)
    scale = np.float32(source / target)  # in float32, as torch has it
    position = np.clip((np.arange(target, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5), 0, None)
    left = np.minimum(position.astype(np.int64), source - 1)
    right = np.minimum(left + 1, source - 1)
    share = (position - left.astype(np.float32))[:, None]
    return units[left] * (1 - share) + units[right] * share


def frame_rms(audio: np.ndarray, hop_length: int) -> np.ndarray:
    """RMS of each hop of audio [T], float32 [T // hop_length]; as modules.audio.volume has it."""
    frames = len(audio) // hop_length
    padded = np.pad(audio, (hop_length // 2, (hop_length + 1) // 2), mode="reflect")
    power = np.square(padded[: frames * hop_length], dtype=np.float32)
    return np.sqrt(power.reshape(frames, hop_length).mean(axis=1))
