"""Which notes each speaker's recordings hold (kept in config.json), and whether a song lies there."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from modules.audio.io import stream_audio
from modules.config import Config
from modules.data import features
from modules.data.features import FeaturePaths
from modules.errors import UserError
from modules.files import write_text
from modules.text_formats import parse_json, read_text

KEY = "f0_range"  # in config.json: speaker -> [lowest, highest] in Hz
STRAYS = 2.0  # percent of the voiced frames at either end that say nothing about the voice
MOST_CLIPS = 500  # of a speaker; more say nothing new
LEAST_FRAMES = 10  # voiced
RATE = 44100  # that songs are read at
BLOCK_SECONDS = 10.0  # a server does nothing else while Praat works on a block
MOST_SECONDS = 300.0  # of a song
SLACK = 1.0  # semitones that a voice goes beyond what it was trained on without harm
MOST_SHIFT = 24  # semitones
NOTES = ("C", "C♯", "D", "D♯", "E", "F", "F♯", "G", "G♯", "A", "A♯", "B")

Range = tuple[float, float]  # Hz, lowest and highest


def note_range(voiced: np.ndarray) -> Range | None:
    """Hz of the lowest and the highest note among voiced frames [T], strays left out; None of too few frames."""
    if len(voiced) < LEAST_FRAMES:
        return None
    low, high = np.percentile(voiced, [STRAYS, 100 - STRAYS])
    return float(low), float(high)


def speaker_ranges(wavs: Iterable[Path]) -> dict[str, Range]:
    """The range of each speaker (the folder of a wav) from the f0 files beside the wavs; those without are left out."""
    by_speaker: dict[str, list[Path]] = {}
    for wav in wavs:
        path = FeaturePaths.of(wav).f0
        if path.is_file():
            by_speaker.setdefault(wav.parent.name, []).append(path)
    ranges = {}
    for speaker, paths in by_speaker.items():
        step = -(-len(paths) // MOST_CLIPS)
        found = note_range(np.concatenate([_voiced(path) for path in paths[::step]]))
        if found is not None:
            ranges[speaker] = found
    return ranges


def record(config: Path, ranges: Mapping[str, Range]) -> None:
    """Write the ranges into a config.json; everything else in it stays."""
    values = parse_json(read_text(config))
    rounded = {speaker: [round(edge, 1) for edge in ranges[speaker]] for speaker in sorted(ranges)}
    if values.get(KEY) != rounded:
        values[KEY] = rounded
        write_text(config, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def _voiced(path: Path) -> np.ndarray:
    try:
        f0, uv = features.load_f0(path)
    except UserError:  # the clip was reported when its features were made
        return np.zeros(0)
    return np.asarray(f0)[np.asarray(uv) > 0]


def song_range(path: Path) -> Range | None:
    """The lowest and the highest note of a song, strays left out; None where nothing is sung. Raises UserError."""
    from modules.f0.base import F0Settings
    from modules.f0.pm import PraatPredictor

    predictor = PraatPredictor(F0Settings(sample_rate=RATE))
    voiced, seconds = [np.zeros(0)], 0.0
    for block in stream_audio(path, RATE, BLOCK_SECONDS):
        contour = predictor(block)
        voiced.append(contour.f0[contour.uv > 0])
        seconds += len(block) / RATE
        if seconds > MOST_SECONDS:
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
    for size in range(MOST_SHIFT + 1):
        for shift in (size, -size):
            if fits(shifted(song, shift), voice):
                return shift
    middle = _semitones(math.sqrt(song[0] * song[1]), math.sqrt(voice[0] * voice[1]))
    return int(np.clip(round(middle), -MOST_SHIFT, MOST_SHIFT))


def describe(notes: Range) -> str:
    """110 Hz (A2) to 220 Hz (A3)."""
    return " – ".join(f"{frequency:.0f} Hz ({note_name(frequency)})" for frequency in notes)


def note_name(frequency: float) -> str:
    """The nearest note of equal temperament at 440 Hz."""
    number = round(69 + 12 * math.log2(frequency / 440))
    return f"{NOTES[number % 12]}{number // 12 - 1}"


def _semitones(low: float, high: float) -> float:
    return 12 * math.log2(high / low)
