"""The report on recordings: figures that agree with other measurements, and each fault found where it was put."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

import resample
from modules.audio.io import load_audio
from modules.audio.loudness import loudness
from modules.data.recordings_measure import BLOCK_SECONDS, measure, measure_folder
from modules.data.recordings_report import (
    MEANINGS,
    FileReport,
    PitchCounts,
    RecordingsReport,
    print_report,
    problem_groups,
)
from modules.errors import UserError
from modules.f0 import get_predictor
from tests.conftest import ROOT

RATE = 44100
SONG = ROOT / "demo" / "voices" / "sinsy" / "twinkle.flac"
MAN = ROOT / "demo" / "voices" / "taro" / "sakura.flac"


def song(seconds: float = 6.0) -> np.ndarray:
    """The beginning of a real song, float32 [T]."""
    return load_audio(SONG)[0][: round(seconds * RATE)]


def written(path: Path, audio: np.ndarray, rate: int = RATE, subtype: str = "PCM_24") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, rate, subtype=subtype)
    return path


def kinds(report: FileReport) -> set[str]:
    return {problem.kind for problem in report.problems}


def whole(folder: Path, speakers: tuple[str, ...] = ()) -> RecordingsReport:
    *_, report = measure_folder(folder, speakers)
    assert isinstance(report, RecordingsReport)
    return report


def test_the_figures_of_a_good_song_agree_with_other_measurements() -> None:
    report = measure(SONG, "sinsy")
    audio, _ = load_audio(SONG)
    assert report.problems == () and report.usable
    assert report.seconds == pytest.approx(len(audio) / RATE)
    assert report.lufs == pytest.approx(loudness(audio, RATE), abs=0.01)
    assert report.peak_db == pytest.approx(20 * np.log10(np.abs(audio).max()), abs=0.01)
    contour = get_predictor("harvest")(audio)
    harvest = np.percentile(contour.f0[contour.uv > 0.5], [5, 50, 95])
    assert np.abs(12 * np.log2(np.array(report.pitch.range) / harvest)).max() < 0.6  # semitones


def test_a_long_file_is_read_in_blocks_and_gives_the_same_figures(tmp_path) -> None:
    short = song(8.0)
    repeats = round(BLOCK_SECONDS / 8 * 1.5)
    long = measure(written(tmp_path / "long.wav", np.tile(short, repeats), subtype="PCM_16"))
    one = measure(written(tmp_path / "one.wav", short, subtype="PCM_16"))
    assert long.seconds == pytest.approx(8 * repeats) and long.seconds > BLOCK_SECONDS
    assert long.lufs == pytest.approx(one.lufs, abs=0.3)
    assert long.silence_share == pytest.approx(one.silence_share, abs=0.02)
    assert np.array(long.pitch.range) == pytest.approx(np.array(one.pitch.range), rel=0.02)


def test_the_clips_are_as_many_as_slicing_makes(tmp_path) -> None:
    rest = np.zeros(3 * RATE, np.float32)
    pieces = [song(7), rest, song(4), rest, song(9), load_audio(MAN)[0], rest, np.tile(song(8), 3)]
    written(tmp_path / "raw" / "alice" / "long.wav", np.concatenate(pieces), subtype="PCM_16")
    expected = whole(tmp_path / "raw").speakers[0].clips
    assert resample.main(["--slice", "--in_dir", str(tmp_path / "raw"), "--out_dir2", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out" / "alice").glob("*.wav"))) == expected >= 5


def _stereo(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.stack([left, right], axis=1)


def _with_nan(audio: np.ndarray) -> np.ndarray:
    audio = audio.copy()
    audio[RATE] = np.nan
    return audio


FAULTS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], int, str]] = {
    "not_finite": (_with_nan, RATE, "FLOAT"),
    "silent": (lambda audio: np.zeros_like(audio), RATE, "PCM_16"),
    "too_short": (lambda audio: audio[RATE : RATE + 8000], RATE, "PCM_16"),
    "out_of_phase": (lambda audio: _stereo(audio, -0.9 * audio), RATE, "PCM_16"),
    "clipped": (lambda audio: np.clip(30 * audio, -1, 1), RATE, "PCM_16"),
    "quiet": (lambda audio: audio / 30, RATE, "PCM_24"),
    "noisy": (lambda audio: audio + 0.01 * np.random.default_rng(1).standard_normal(len(audio)), RATE, "PCM_16"),
    "low_rate": (lambda audio: audio[::4], RATE // 4, "PCM_16"),
    "mostly_silent": (lambda audio: np.pad(audio, (0, 2 * len(audio))), RATE, "PCM_16"),
    "unvoiced": (lambda audio: 0.1 * np.random.default_rng(2).standard_normal(len(audio)), RATE, "PCM_16"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_found(kind: str, tmp_path) -> None:
    change, rate, subtype = FAULTS[kind]
    report = measure(written(tmp_path / "fault.wav", change(song()), rate, subtype))
    allowed = {"unvoiced": {"noisy"}}.get(kind, set())
    assert kind in kinds(report) and kinds(report) - {kind} <= allowed
    assert report.usable == (kind not in {"not_finite", "silent", "too_short"})
    detail = next(problem for problem in report.problems if problem.kind == kind)
    assert "{}" not in str(detail) and (detail.detail or "{}" not in MEANINGS[kind])


def test_quiet_peaks_and_loud_songs_are_not_called_clipped(tmp_path) -> None:
    loud = song() / np.abs(song()).max()
    assert "clipped" not in kinds(measure(written(tmp_path / "loud.wav", loud, subtype="PCM_16")))
    turned_down = 0.5 * np.clip(30 * song(), -1, 1)  # clipped first, made quieter after
    assert "clipped" in kinds(measure(written(tmp_path / "down.wav", turned_down, subtype="PCM_16")))


def test_an_mp3_of_a_clipped_song_is_clipped_too(tmp_path) -> None:
    path = tmp_path / "clipped.mp3"
    soundfile.write(path, np.clip(30 * song(), -1, 1), RATE)
    assert "clipped" in kinds(measure(path))


def test_stereo_in_phase_is_fine(tmp_path) -> None:
    assert kinds(measure(written(tmp_path / "both.wav", _stereo(song(), 0.7 * song())))) == set()


def test_a_folder_is_put_together_by_speaker_and_copies_are_named(tmp_path) -> None:
    for speaker, path in (("alice", SONG), ("bob", MAN)):
        (tmp_path / speaker).mkdir()
        shutil.copy(path, tmp_path / speaker)
    written(tmp_path / "bob" / "zcopy.wav", load_audio(SONG)[0], subtype="FLOAT")
    written(tmp_path / "bob" / "quiet.wav", song() / 10)
    (tmp_path / "bob" / "broken.flac").write_bytes(b"no audio")
    (tmp_path / "bob" / "notes.txt").write_text("no audio")
    report = whole(tmp_path)
    alice, bob = report.speakers
    assert (alice.name, len(alice.files), bob.name, len(bob.files)) == ("alice", 1, "bob", 4)
    found = {(group.speaker, group.kind): group for group in problem_groups(report)}
    assert found["bob", "duplicate"].files == ("zcopy.wav",) and "alice/twinkle.flac" in str(found["bob", "duplicate"])
    assert found["bob", "unreadable"].files == ("broken.flac",)
    assert {("alice", "little_sound"), ("bob", "little_sound"), ("bob", "uneven")} <= found.keys()
    assert next(iter(found)) == ("bob", "unreadable")  # what is of no use comes first
    assert [path.name for path, _ in report.left_out] == ["notes.txt"]
    assert bob.seconds == pytest.approx(sum(file.seconds for file in bob.files))
    assert alice.pitch.range[1] > 1.5 * measure(MAN).pitch.range[1]


def test_the_json_holds_all_of_the_report(tmp_path) -> None:
    written(tmp_path / "alice" / "a.wav", song())
    written(tmp_path / "alice" / "silent.wav", np.zeros(RATE))
    (tmp_path / "bob").mkdir()
    (tmp_path / "bob" / "broken.flac").write_bytes(b"no audio")
    (tmp_path / "stray.txt").write_text("")
    report = whole(tmp_path)
    again = RecordingsReport.from_json(report.to_json())
    assert again.to_json() == report.to_json()
    assert again.speakers[0].pitch == report.speakers[0].pitch and again.left_out == report.left_out
    assert list(map(str, problem_groups(again))) == list(map(str, problem_groups(report)))
    with pytest.raises(UserError, match="no report"):
        RecordingsReport.from_json("[]")


def test_pitches_of_several_files_add_up() -> None:
    low, high = PitchCounts.of(np.full(100, 110.0)), PitchCounts.of(np.array([440.0] * 300 + [0.0] * 50))
    both = low + high
    assert (low.frames, high.frames, both.frames) == (100, 300, 400)
    assert both.range == pytest.approx((110, 440, 440), rel=1e-3)
    assert PitchCounts().range == (0, 0, 0)


def test_the_command_line_prints_the_report_and_writes_json_and_nothing_else(tmp_path, capsys) -> None:
    raw = tmp_path / "raw"
    written(raw / "alice" / "a.wav", song())
    written(raw / "alice" / "b.wav", _with_nan(song()), subtype="FLOAT")
    flags = ["--in_dir", str(raw), "--out_dir2", str(tmp_path / "out"), "--num_processes", "1"]
    assert resample.main([*flags, "--report", str(tmp_path / "report.json")]) == 1
    text = capsys.readouterr().out
    assert "alice" in text and "b.wav holds 1 samples that are not numbers" in text
    speaker = json.loads((tmp_path / "report.json").read_text())["speakers"][0]
    assert speaker["seconds"] == pytest.approx(6.0) and speaker["files"][0]["lufs"] == pytest.approx(
        loudness(song(), RATE), abs=0.01
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw", "report.json"]


def test_only_the_named_speakers_are_read_and_resampled(tmp_path, capsys) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    for name in ("alice", "bob"):
        written(raw / name / "a.wav", song(3))
    flags = ["--in_dir", str(raw), "--out_dir2", str(out), "--num_processes", "1", "--speakers"]
    assert [speaker.name for speaker in whole(raw, ("bob",)).speakers] == ["bob"]
    assert resample.main([*flags, "bob"]) == 0
    assert [path.name for path in out.iterdir()] == ["bob"]
    assert resample.main([*flags, "carol"]) == 2
    assert "alice, bob" in capsys.readouterr().err


def test_an_empty_folder_and_a_missing_one_are_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="no recordings"):
        whole(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        whole(tmp_path / "missing")


def test_a_report_without_problems_says_so(capsys, tmp_path) -> None:
    print_report(RecordingsReport(tmp_path, ()))
    assert "none" in capsys.readouterr().out
