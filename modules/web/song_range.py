"""Does a song lie where a voice was trained? Notes by name, and the transposition that fits."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from modules.audio.io import stream_audio
from modules.config import Config
from modules.data.f0_ranges import KEY, note_range

RATE = 44100
BLOCK_SECONDS = 10.0  # the server does nothing else while Praat listens to a block
LISTEN_SECONDS = 300.0
SLACK = 1.0  # semitones that a voice goes beyond what it was trained on without harm
MOST = 24  # semitones
NAMES = ("C", "C♯", "D", "D♯", "E", "F", "F♯", "G", "G♯", "A", "A♯", "B")

Range = tuple[float, float]  # Hz


def song_range(path: Path) -> Range | None:
    """The lowest and the highest note of a song, strays left out; None where nothing is sung. Raises UserError."""
    from modules.f0.base import F0Settings
    from modules.f0.pm import PraatPredictor

    predictor = PraatPredictor(F0Settings(sample_rate=RATE))
    voiced, heard = [np.zeros(0)], 0.0
    for block in stream_audio(path, RATE, BLOCK_SECONDS):
        contour = predictor(block)
        voiced.append(contour.f0[contour.uv > 0])
        heard += len(block) / RATE
        if heard > LISTEN_SECONDS:
            break
    return note_range(np.concatenate(voiced))


def trained_range(config: Config, speaker: str) -> Range | None:
    """What the config says of a speaker's recordings; None where it says nothing."""
    ranges = (config.model_extra or {}).get(KEY)
    entry = ranges.get(speaker) if isinstance(ranges, dict) else None
    if not isinstance(entry, list) or len(entry) != 2 or not all(isinstance(edge, (int, float)) for edge in entry):
        return None
    low, high = float(entry[0]), float(entry[1])
    return (low, high) if 0 < low < high else None


def shifted(song: Range, semitones: float) -> Range:
    """A range after a transposition."""
    factor = 2 ** (semitones / 12)
    return song[0] * factor, song[1] * factor


def fits(song: Range, voice: Range) -> bool:
    """Whether a song lies in a voice's range, but for SLACK."""
    return _semitones(voice[0], song[0]) >= -SLACK and _semitones(song[1], voice[1]) >= -SLACK


def suggested_shift(song: Range, voice: Range) -> int:
    """The smallest shift in semitones that brings the song into the range; where it is too wide, middle on middle."""
    for size in range(MOST + 1):
        for shift in (size, -size):
            if fits(shifted(song, shift), voice):
                return shift
    middle = _semitones(math.sqrt(song[0] * song[1]), math.sqrt(voice[0] * voice[1]))
    return int(np.clip(round(middle), -MOST, MOST))


def describe(notes: Range) -> str:
    """110 Hz (A2) to 220 Hz (A3)."""
    return " – ".join(f"{frequency:.0f} Hz ({note_name(frequency)})" for frequency in notes)


def note_name(frequency: float) -> str:
    """The nearest note of equal temperament at 440 Hz."""
    number = round(69 + 12 * math.log2(frequency / 440))
    return f"{NAMES[number % 12]}{number // 12 - 1}"


def _semitones(low: float, high: float) -> float:
    return 12 * math.log2(high / low)
