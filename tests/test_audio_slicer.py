"""Where recordings are cut: the slicer's goldens, and clips of 5 to 15 seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest

from modules.audio.clips import split_into_clips, trim_silence
from modules.audio.loudness import envelope
from modules.audio.slicer import RmsCurve, slice_audio, slice_rms, slicing_curve
from tests.parity import golden, signals

META, ARRAYS = golden.load(Path(__file__).parent / "parity/goldens/a_slicer.npz")
CASES: dict[str, Any] = META["cases"]


def case_signal(case: dict[str, Any]) -> tuple[np.ndarray, int]:
    if isinstance(case["signal"], str):  # the stereo case is described in words
        left = signals.voice_like(16000, 9.0, [200] * 6 + [0] + [220] * 2, seed=1)
        right = signals.voice_like(16000, 9.0, [250] * 6 + [0] + [150] * 2, seed=2)
        return np.stack([left, right]), 16000
    arguments = {name: value for name, value in case["signal"].items() if name != "fn"}
    return signals.voice_like(**arguments), arguments["sr"]


@pytest.mark.parametrize("name", CASES)
def test_cuts_are_those_of_the_golden(name: str) -> None:
    audio, rate = case_signal(CASES[name])
    want = []
    for chunk in CASES[name]["chunks"].values():
        start, stop = map(int, chunk["split_time"].split(","))
        if stop > start:  # the original drops empty pieces later
            want.append((start, stop, chunk["slice"]))
    got = slice_audio(audio, rate, CASES[name]["db_thresh"])
    assert [(chunk.start, chunk.stop, chunk.silent) for chunk in got] == want


def test_a_streamed_curve_gives_the_same_cuts() -> None:
    audio, rate = case_signal(CASES["long_lead"])
    curve = slicing_curve(rate)
    for start in range(0, len(audio), 4321):
        curve.push(audio[start : start + 4321])
    assert slice_rms(curve.finish(), len(audio), rate) == slice_audio(audio, rate)


@pytest.mark.parametrize(("window", "hop"), [(3528, 882), (2048, 512), (1000, 300), (600, 800)])
@pytest.mark.parametrize("length", [1, 999, 44101])
def test_rms_curve_is_librosas(window: int, hop: int, length: int) -> None:
    audio = np.random.default_rng(0).standard_normal(length).astype(np.float32)
    curve = RmsCurve(window, hop)
    for start in range(0, length, 777):
        curve.push(audio[start : start + 777])
    want = librosa.feature.rms(y=audio, frame_length=window, hop_length=hop)[0]
    np.testing.assert_allclose(curve.finish(), want, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("offset", [0.05, -0.02])
def test_an_offset_is_not_heard_neither_by_the_slicer_nor_by_the_envelope(offset: float) -> None:
    """Also where it begins and ends, as in a take that was cut together with silence."""
    sung = signals.voice_like(16000, 6.0, [200, 220, 240], seed=1)
    audio = np.concatenate([sung, np.zeros(16000 * 14, np.float32), sung])
    assert slice_audio(audio + np.float32(offset), 16000) == slice_audio(audio, 16000)
    assert any(chunk.silent for chunk in slice_audio(audio, 16000))
    np.testing.assert_allclose(envelope(audio + np.float32(offset), 16000), envelope(audio, 16000), atol=1e-4)
    curve = RmsCurve(3528, 882, without_offset=True)
    curve.push(np.full(44100, offset, np.float32))
    assert curve.finish().max() < 1e-4


@pytest.mark.parametrize("seconds", [0.02, 0.2, 3.0, 30.0])
def test_a_silent_recording_is_one_silent_chunk(seconds: float) -> None:
    chunks = slice_audio(np.zeros(int(16000 * seconds), np.float32), 16000)
    assert [(chunk.start, chunk.stop, chunk.silent) for chunk in chunks] == [(0, int(16000 * seconds), True)]
    assert slice_audio(np.zeros(0, np.float32), 16000) == []


@pytest.mark.parametrize("seed", range(6))
def test_chunks_cover_the_recording_without_gap_or_overlap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    contour = rng.choice([0, 0, 0, 200, 230, -1], size=30).tolist() + [200]
    audio = signals.voice_like(8000, rng.uniform(10, 90), contour, seed=seed)
    chunks = slice_audio(audio, 8000)
    assert chunks[0].start == 0 and chunks[-1].stop == len(audio)
    assert all(before.stop == after.start for before, after in zip(chunks[:-1], chunks[1:], strict=True))
    assert all(len(chunk) > 0 for chunk in chunks)


def test_trimming_is_librosas(voices: Path) -> None:
    for name in ("pjs_singing/pjs001.flac", "ljspeech/LJ001-0001.flac", "ljspeech/LJ001-0004.flac"):
        audio, _ = librosa.load(voices / name, sr=None)
        padded = np.concatenate([np.zeros(30000, np.float32), audio, np.zeros(20000, np.float32)])
        np.testing.assert_array_equal(trim_silence(padded), librosa.effects.trim(padded, top_db=40)[0])


@pytest.mark.parametrize("seed", range(12))
def test_clips_last_5_to_15_seconds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    contour = rng.choice([0, 0, 200, 230, 220, -1], size=int(rng.integers(3, 30))).tolist() + [210]
    audio = signals.voice_like(8000, rng.uniform(6, 90), contour, seed=seed)
    lengths = [len(clip) / 8000 for clip in split_into_clips(audio, 8000)]
    assert max(lengths) <= 15
    assert min(lengths) >= 5 or len(lengths) == 1


def test_short_recordings_stay_whole_and_long_silences_go() -> None:
    short = signals.voice_like(8000, 3.0, [200, 210, 220], seed=1)
    np.testing.assert_array_equal(split_into_clips(short, 8000)[0], short)
    gap = np.concatenate([short, np.zeros(60 * 8000, np.float32), short])
    clips = split_into_clips(gap, 8000)
    assert len(clips) == 1 and 6.0 <= len(clips[0]) / 8000 <= 7.1


def test_quiet_recordings_are_cut_at_their_own_silences() -> None:
    contour = [200] * 8 + [0] + [220] * 8
    loud = signals.voice_like(8000, 17.0, contour, seed=2)
    bounds = [[len(clip) for clip in split_into_clips(loud * level, 8000)] for level in (1.0, 0.003)]
    assert bounds[0] == bounds[1] and len(bounds[0]) == 2


def test_a_long_held_sound_is_cut_where_it_is_quietest() -> None:
    note = signals.voice_like(8000, 20.0, [200, 200], seed=3)
    dip = int(9.5 * 8000)
    note[dip - 800 : dip + 800] *= 0.1
    clips = split_into_clips(note, 8000)
    assert len(clips) == 2 and abs(len(clips[0]) - dip) < 800
