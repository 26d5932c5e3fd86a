"""Copies of clips at another pitch: the note moves, the voice stays, and no copy helps a model to pass its exam."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import parselmouth
import pytest
import pyworld
import soundfile
import soxr

import preprocess_flist_config
import resample
from modules.audio.io import load_audio
from modules.audio.pitch_shift import copy_stem, original_stem, shift_pitch
from tests.parity import signals

RATE = 44100
SONGS = ("pjs_singing/pjs002.flac", "nit_song070_f001/nitech_jp_song070_f001_004.flac")


def f0(audio: np.ndarray) -> np.ndarray:
    """Praat's f0 every 10 ms; 0 is unvoiced."""
    sound = parselmouth.Sound(audio.astype(np.float64), RATE)
    return sound.to_pitch_ac(0.01, 50, 15, False, 0.03, 0.6, 0.01, 0.35, 0.14, 1400).selected_array["frequency"]


def formant_scale(before: np.ndarray, after: np.ndarray) -> float:
    """The factor that all formants have moved by: how far the mean envelope has to be stretched to meet the other."""
    tested = 2 ** (np.linspace(-10, 10, 201) / 12)
    hz = np.geomspace(400, 6000, 400)
    want, got = envelope(before), envelope(after)
    bins = np.linspace(0, RATE / 2, len(want))
    fits = [np.corrcoef(np.interp(hz, bins, want), np.interp(hz * scale, bins, got))[0, 1] for scale in tested]
    assert max(fits) > 0.98
    return float(tested[int(np.argmax(fits))])


def envelope(audio: np.ndarray) -> np.ndarray:
    """WORLD's spectral envelope in dB, which does not follow the harmonics; the mean over voiced frames."""
    audio = audio.astype(np.float64)
    pitch, times = pyworld.dio(audio, RATE, f0_floor=60, f0_ceil=1400)
    pitch = pyworld.stonemask(audio, pitch, times, RATE)
    power = pyworld.cheaptrick(audio, pitch, times, RATE, f0_floor=60)[pitch > 0]
    return (10 * np.log10(power + 1e-12)).mean(axis=0)


@pytest.mark.parametrize("semitones", [-4, 4, 8])
@pytest.mark.parametrize("song", SONGS)
def test_the_note_moves_and_the_voice_stays(voices: Path, song: str, semitones: int) -> None:
    audio, _ = load_audio(voices / song, RATE)
    audio = audio[: 5 * RATE + 7]
    shifted = shift_pitch(audio, RATE, semitones)
    assert len(shifted) == len(audio) and shifted.dtype == np.float32 and np.abs(shifted).max() <= 1
    before, after = f0(audio), f0(shifted)
    both = (before > 0) & (after > 0)
    assert both.sum() > 0.9 * (before > 0).sum()
    cents = 1200 * np.log2(after[both] / before[both]) - 100 * semitones
    assert abs(np.median(cents)) < 15 and np.percentile(np.abs(cents), 80) < 15
    assert formant_scale(audio, shifted) == pytest.approx(1, abs=0.05)
    played_faster = soxr.resample(audio, RATE * 2 ** (semitones / 12), RATE)
    assert formant_scale(audio, played_faster) == pytest.approx(2 ** (semitones / 12), rel=0.02), "the measure is blind"


def test_without_a_voice_nothing_changes() -> None:
    noise = 0.3 * np.random.default_rng(1).standard_normal(RATE).astype(np.float32)
    for audio in (np.zeros(RATE, np.float32), np.clip(noise, -1, 1), noise[:0], noise[:300]):
        np.testing.assert_array_equal(shift_pitch(audio, RATE, 4), audio)


def test_silence_between_notes_stays_silent_and_loud_voices_do_not_clip() -> None:
    note = signals.voice_like(RATE, 1.0, [180, 220, 200], seed=1)
    note /= np.abs(note).max()
    silence = np.zeros(RATE // 2, np.float32)
    shifted = shift_pitch(np.concatenate([note, silence, note]), RATE, 7)
    assert np.abs(shifted).max() <= 1 and np.abs(shifted).max() > 0.5
    assert not shifted[RATE + 1000 : RATE + RATE // 2 - 1000].any()


def test_names_of_copies_lead_back_to_the_clip() -> None:
    for semitones in (-4, 4, 0.5, -11.25):
        name = copy_stem("song_003", semitones)
        assert original_stem(name) == "song_003" and re.fullmatch(r"[A-Za-z0-9_.]+", name)
    assert copy_stem("a", -4) != copy_stem("a", 4)
    assert [original_stem(name) for name in ("song_003", "_shift_p4", "shift_p4", "a_shift_p4_001")] == [None] * 4


def record(path: Path, seconds: float = 1.0, seed: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, signals.voice_like(22050, seconds, [180, 220, 200], seed=seed), 22050)


def clips(folder: Path) -> dict[str, int]:
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.glob("*/[!.]*.wav")}


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("processes", [1, 2])
def test_resample_writes_the_copies_beside_each_clip_and_keeps_what_is_done(
    workplace: Path, capsys: pytest.CaptureFixture[str], processes: int
) -> None:
    flags = ["--num_processes", str(processes)]
    for index in range(2):
        record(Path(f"dataset_raw/a/{index}.wav"), seed=index)
    assert resample.main(flags) == 0
    plain = clips(Path("dataset/44k"))
    assert resample.main(flags) == 0 and clips(Path("dataset/44k")) == plain

    assert resample.main([*flags, "--pitch_shift", "-4", "4"]) == 0
    shifted = clips(Path("dataset/44k"))
    assert sorted(shifted) == [f"a/{index}{mark}.wav" for index in (0, 1) for mark in ("", "_shift_m4", "_shift_p4")]
    original, copy = (soundfile.read(f"dataset/44k/a/0{mark}.wav", dtype="int16")[0] for mark in ("", "_shift_p4"))
    assert len(original) == len(copy) and np.median(f0(copy)[20:60]) == pytest.approx(
        np.median(f0(original)[20:60]) * 2 ** (4 / 12), rel=0.01
    )
    assert resample.main([*flags, "--pitch_shift", "-4", "4"]) == 0 and clips(Path("dataset/44k")) == shifted

    Path("dataset/44k/a/1_shift_p4.wav").unlink()
    assert resample.main([*flags, "--pitch_shift", "-4", "4"]) == 0
    again = clips(Path("dataset/44k"))
    assert sorted(again) == sorted(shifted) and again["a/0_shift_p4.wav"] == shifted["a/0_shift_p4.wav"]

    assert resample.main(flags) == 0
    assert sorted(clips(Path("dataset/44k"))) == sorted(plain)


def test_slices_and_unvoiced_recordings(workplace: Path) -> None:
    record(Path("dataset_raw/a/long.wav"), 24.0)
    noise = 0.1 * np.random.default_rng(1).standard_normal(22050)
    soundfile.write("dataset_raw/a/breath.wav", noise, 22050)
    record(Path("dataset_raw/a/take_shift_p4.wav"))  # a recording, though named like a copy
    assert resample.main(["--slice", "--pitch_shift", "3", "--num_processes", "1"]) == 0
    names = sorted(path.name for path in Path("dataset/44k/a").glob("[!.]*.wav"))
    pairs = [name for name in names if name.startswith("long")]
    assert len(pairs) >= 4 and {original_stem(name[:-4]) for name in pairs if original_stem(name[:-4])} == {
        name[:-4] for name in pairs if not original_stem(name[:-4])
    }
    assert [name for name in names if name.startswith("breath")] == ["breath_000.wav"]
    assert [original_stem(name[:-4]) for name in names if name.startswith("take")] == [None, "take_shift_p4_wav_000"]


@pytest.mark.parametrize("value", ["0", "13", "-12.5", "nan"])
def test_senseless_shifts_are_refused(workplace: Path, capsys: pytest.CaptureFixture[str], value: str) -> None:
    record(Path("dataset_raw/a/x.wav"))
    assert resample.main(["--pitch_shift", "4", value]) == 2
    assert "--pitch_shift" in capsys.readouterr().err and not Path("dataset").exists()


def lists() -> tuple[list[str], list[str]]:
    train, val = (Path(f"filelists/{name}.txt").read_text().splitlines() for name in ("train", "val"))
    return [Path(line).name for line in train], [Path(line).name for line in val]


def silent_clip(path: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(44100, np.int16), 44100, format="WAV")


def test_no_copy_validates_and_none_of_a_validation_clip_trains(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(6):
        silent_clip(f"dataset/44k/a/{index:02d}.wav")
    assert preprocess_flist_config.main([]) == 0
    before = lists()
    for index in range(6):
        for mark in ("_shift_p4", "_shift_m4", "_shift_p8"):
            silent_clip(f"dataset/44k/a/{index:02d}{mark}.wav")
    capsys.readouterr()
    assert preprocess_flist_config.main([]) == 0
    train, val = lists()
    assert val == before[1], "copies must not change who validates"
    held_out = {Path(name).stem for name in val}
    expected = {f"{stem}{mark}.wav" for stem in (f"{index:02d}" for index in range(6)) if stem not in held_out
                for mark in ("", "_shift_p4", "_shift_m4", "_shift_p8")}
    assert set(train) == expected and len(train) == 16
    out, err = capsys.readouterr()
    assert "12 of them are copies at another pitch; 6 more are of clips that validate, and left out" in out and not err


def test_copies_do_not_make_a_speaker_rich(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for mark in ("", "_shift_p4", "_shift_m4"):
        silent_clip(f"dataset/44k/a/one{mark}.wav")
        silent_clip(f"dataset/44k/b/one{mark}.wav")
        silent_clip(f"dataset/44k/b/two{mark}.wav")
    assert preprocess_flist_config.main([]) == 0
    train, val = lists()
    assert len(val) == 1 and sorted(train).count("one.wav") + sorted(train).count("two.wav") == 2
    err = capsys.readouterr().err
    assert "a has only 1 clip(s): 0 of them" in err and "b has only 2 clip(s): 1 of them" in err


def test_copies_alone_are_refused(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    silent_clip("dataset/44k/a/one_shift_p4.wav")
    assert preprocess_flist_config.main([]) == 2
    assert "every clip is a copy" in capsys.readouterr().err
