"""Which notes each speaker's recordings hold: written into config.json, so that a song can be compared with them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from modules.data import features
from modules.data.features import FeaturePaths
from modules.errors import UserError
from modules.files import write_text

KEY = "f0_range"  # in config.json: speaker -> [lowest, highest] in Hz
STRAYS = 2.0  # percent of the voiced frames at either end that say nothing about the voice
MOST_CLIPS = 500  # of a speaker; more say nothing new
LEAST_FRAMES = 10  # voiced


def note_range(voiced: np.ndarray) -> tuple[float, float] | None:
    """Hz of the lowest and the highest note among voiced frames [T], strays left out; None of too few frames."""
    if len(voiced) < LEAST_FRAMES:
        return None
    low, high = np.percentile(voiced, [STRAYS, 100 - STRAYS])
    return float(low), float(high)


def speaker_ranges(wavs: Iterable[Path]) -> dict[str, tuple[float, float]]:
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


def record(config: Path, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Write the ranges into a config.json; everything else in it stays."""
    values = json.loads(config.read_text(encoding="utf-8"))
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
