"""Singing at another pitch with the same voice: Praat's PSOLA, and the names of the copies made with it.

Overlap-add of single periods (Moulines and Charpentier 1990) sets the periods closer together or further apart and
leaves each as it is, so the formants, and with them the singer, stay. A model of a low voice learns high notes from it.
"""

from __future__ import annotations

import re

import numpy as np

F0_MIN, F0_MAX = 60.0, 1100.0  # Hz
_PERIODS_PER_WINDOW = 3  # Praat refuses sounds that are shorter than its window
_TIME_STEP = 0.005  # seconds between the points of the pitch tier
_COPY = re.compile(r"(?P<original>.+)_shift_[pm]\d+(\.\d+)?")


def copy_stem(original: str, semitones: float) -> str:
    """The file stem of the copy of a clip: song, -4 -> song_shift_m4."""
    return f"{original}_shift_{'m' if semitones < 0 else 'p'}{abs(semitones):g}"


def original_stem(stem: str) -> str | None:
    """The stem of the clip that this one is a shifted copy of; None for a clip that is none."""
    match = _COPY.fullmatch(stem)
    return match["original"] if match else None


def shift_pitch(
    audio: np.ndarray, sample_rate: int, semitones: float, f0_min: float = F0_MIN, f0_max: float = F0_MAX
) -> np.ndarray:
    """Move the f0 of a voice and keep its formants, its timing and its unvoiced sounds.

    Args:
        audio: float [T] in [-1, 1].
        semitones: how far; up is positive.
        f0_min, f0_max: the range of the voice before the shift, Hz.

    Returns:
        float32 [T], no louder than full scale. Audio in which nothing is voiced comes back as it is.
    """
    import parselmouth
    from parselmouth.praat import call

    audio = np.asarray(audio, np.float32)
    if semitones == 0 or len(audio) < _PERIODS_PER_WINDOW / f0_min * sample_rate + 1:
        return audio
    manipulation = call(
        parselmouth.Sound(audio.astype(np.float64), sample_rate), "To Manipulation", _TIME_STEP, f0_min, f0_max
    )
    tier = call(manipulation, "Extract pitch tier")
    if call(tier, "Get number of points") == 0:
        return audio
    call(tier, "Multiply frequencies", 0, len(audio) / sample_rate, 2 ** (semitones / 12))
    call([tier, manipulation], "Replace pitch tier")
    shifted = call(manipulation, "Get resynthesis (overlap-add)").values[0]
    shifted = np.pad(shifted[: len(audio)], (0, max(0, len(audio) - len(shifted))))
    shifted = (shifted + audio.mean(dtype=np.float64)).astype(np.float32)  # Praat takes the mean out
    return shifted / max(1.0, float(np.abs(shifted).max()))  # periods that overlap can add up to more
