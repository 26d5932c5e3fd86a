"""Change of sampling rate, with the numbers of librosa's default resampler (soxr, high quality)."""

from __future__ import annotations

import numpy as np
import soxr

SPEECH_RATE = 16000  # Hz, of what speech encoders, neural f0 predictors and speaker encoders read
RATE_GRID = 100  # Hz; a coarse grid of rates keeps the resampling filters short


def output_length(frames: int, from_rate: int, to_rate: int) -> int:
    """Samples that ``frames`` samples become: round(frames * to_rate / from_rate)."""
    return round(frames * to_rate / from_rate)


def resample(audio: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Audio at another rate.

    Args:
        audio: float [T].
        from_rate, to_rate: Hz.

    Returns:
        float32 [round(T * to_rate / from_rate)]; equal rates give the samples as they are.
    """
    audio = np.asarray(audio, dtype=np.float32)
    if from_rate == to_rate:
        return audio
    out = soxr.resample(audio, from_rate, to_rate, quality="HQ")
    length = output_length(len(audio), from_rate, to_rate)
    return out[:length] if len(out) >= length else np.pad(out, (0, length - len(out)))


def shifted_rate(rate: int, semitones: float) -> int:
    """The rate in Hz that lies ``semitones`` above another, on a grid of RATE_GRID."""
    return RATE_GRID * round(rate * 2 ** (semitones / 12) / RATE_GRID)
