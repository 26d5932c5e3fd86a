"""The notes of each speaker's recordings are written into the config."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from modules.config import load_config
from modules.data import f0_ranges, features
from modules.data.features import FeaturePaths


def write_f0(wav: Path, low: float, high: float) -> Path:
    wav.parent.mkdir(parents=True, exist_ok=True)
    f0 = np.geomspace(low, high, 200)
    voiced = np.ones(200)
    f0[:5], f0[-5:] = 9.0, 4000.0  # what is not voiced does not count
    voiced[:5] = voiced[-5:] = 0
    features.save_f0(FeaturePaths.of(wav).f0, f0, voiced)
    return wav


def test_the_range_of_a_speaker_is_that_of_its_voiced_frames(tmp_path: Path) -> None:
    wavs = [write_f0(tmp_path / f"alice/{n}.wav", 200, 400) for n in range(3)]
    wavs += [write_f0(tmp_path / "bob/0.wav", 80, 160), tmp_path / "carol/none.wav"]
    ranges = f0_ranges.speaker_ranges(wavs)
    assert set(ranges) == {"alice", "bob"}
    np.testing.assert_allclose(ranges["alice"], (200, 400), rtol=0.06)
    np.testing.assert_allclose(ranges["bob"], (80, 160), rtol=0.06)


def test_a_few_stray_frames_do_not_widen_the_range() -> None:
    voiced = np.concatenate([np.full(980, 220.0), np.full(10, 55.0), np.full(10, 1000.0)])
    assert f0_ranges.note_range(voiced) == (220.0, 220.0)
    assert f0_ranges.note_range(voiced[:5]) is None


def test_recording_keeps_everything_else_in_the_config(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"train": {"batch_size": 3, "mine": "知"}, "spk": {"alice": 0}}', encoding="utf-8")
    f0_ranges.record(path, {"alice": (200.04, 399.96)})
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "train": {"batch_size": 3, "mine": "知"},
        "spk": {"alice": 0},
        "f0_range": {"alice": [200.0, 400.0]},
    }
    written = path.stat().st_mtime_ns
    f0_ranges.record(path, {"alice": (200.0, 400.0)})
    assert path.stat().st_mtime_ns == written
    assert load_config(path).model_extra == {"f0_range": {"alice": [200.0, 400.0]}}
