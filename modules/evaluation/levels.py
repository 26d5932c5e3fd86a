"""Levels of frames, and which of them count as sound and as silence."""

from __future__ import annotations

import numpy as np

from modules.evaluation.recording import HOP, Recording

FLOOR_DB = -120.0
QUIETEST_SOUND_DB = -55.0  # a recording whose loudest frames lie under it holds no sound at all
SOUND_DB = 30.0  # under the loudest frames is still sound
SILENCE_DB = 50.0  # under the loudest frames is silence; what lies between is neither
LOUDEST_PERCENTILE = 95


def frame_levels(recording: Recording) -> np.ndarray:
    """RMS of each frame of HOP samples and its two neighbours, [frames] in dB of full scale."""
    return recording.remember("levels", lambda: _frame_levels(recording.audio))


def _frame_levels(audio: np.ndarray) -> np.ndarray:
    frames = audio[: len(audio) // HOP * HOP].reshape(-1, HOP)
    power = np.square(frames, dtype=np.float64).mean(axis=1)
    padded = np.pad(power, 1, mode="edge") if len(power) else np.zeros(2)
    power = (padded[:-2] + padded[1:-1] + padded[2:]) / 3
    return 10 * np.log10(np.maximum(power, 10 ** (FLOOR_DB / 10)))


def loudest(levels: np.ndarray) -> float:
    """The level that sound is compared with, dB."""
    return max(float(np.percentile(levels, LOUDEST_PERCENTILE)) if len(levels) else FLOOR_DB, QUIETEST_SOUND_DB)


def sounds(levels: np.ndarray, top: float, under: float = SOUND_DB) -> np.ndarray:
    """bool [frames]: at most ``under`` dB below ``top``."""
    return levels > top - under


def is_silent(levels: np.ndarray, top: float) -> np.ndarray:
    """bool [frames]: over SILENCE_DB below ``top``."""
    return levels < top - SILENCE_DB
