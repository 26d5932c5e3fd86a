"""The flow of a conversion, with a voice that sings what it hears: every sample must come out where it went in."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from modules.errors import UserError
from modules.inference import options as options_module
from modules.inference import pitch
from modules.inference.options import InferenceOptions
from modules.inference.pitch import PitchFinder
from modules.inference.speaker_mix import SpeakerMix
from modules.inference.svc import Cancelled, Svc
from tests.disk import small_disk
from tests.parity import signals
from tests.standin_voice import HOP, RATE, Harmonics, identity_svc, sine

CUTS = [
    {},
    {"clip": 1.3},
    {"clip": 1.3, "linear_gradient": 0.4},
    {"clip": 1.3, "linear_gradient": 0.4, "linear_gradient_retain": 1.0},
    {"clip": 1.3, "linear_gradient": 0.4, "linear_gradient_retain": 0.0, "pad_seconds": 0.0},
]
CUT_NAMES = ["whole", "clips", "overlap", "all_faded", "nothing_faded"]


def song(seconds: float = 7.0, rate: int = RATE) -> np.ndarray:
    """Notes with a silence that the slicer cuts at and one at the end."""
    return signals.voice_like(rate, seconds, [200, 220, 240, 230, 220, 200, 0, 190, 210, 0, 0], seed=1)


def write(path: Path, audio: np.ndarray, rate: int, channels: int = 1, subtype: str = "FLOAT") -> Path:
    frames = audio if channels == 1 else np.stack([1.5 * audio, 0.5 * audio], axis=1)
    soundfile.write(path, frames, rate, subtype=subtype)
    return path


@pytest.mark.parametrize("cut", CUTS, ids=CUT_NAMES)
@pytest.mark.parametrize("channels", [1, 2], ids=["mono", "stereo"])
@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000, 96000])
def test_the_result_is_as_long_as_the_song_to_the_sample(
    tmp_path: Path, rate: int, channels: int, cut: dict[str, float]
) -> None:
    """(A3, A4) And, with the identity for a model, it is the song."""
    frames = int(2.37 * rate) + 1
    audio = 0.5 * signals.sine_sweep(rate, 2.4, 100, 1500)[:frames]
    source, target = write(tmp_path / "in.wav", audio, rate, channels), tmp_path / "out.wav"
    svc, _ = identity_svc()
    report = svc.convert_file(source, target, "alice", InferenceOptions(**cut))
    got, got_rate = soundfile.read(target)
    assert got_rate == RATE
    assert len(got) == round(frames * RATE / rate) == round(report.seconds * RATE)
    want = soxr.resample(audio, rate, RATE, quality="HQ")
    np.testing.assert_allclose(got[: len(want)], want[: len(got)], atol=2e-4)


@pytest.mark.parametrize("cut", CUTS, ids=CUT_NAMES)
def test_a_tone_goes_over_every_joint_without_a_jump(cut: dict[str, float]) -> None:
    """Also over the joints that the program makes by itself in long notes."""
    tone = sine(32)
    svc, voice = identity_svc()
    got, _ = svc.convert(tone, "alice", InferenceOptions(**cut))
    assert len(voice.heard) > 2
    np.testing.assert_allclose(got, tone, atol=1e-6)


def test_tones_between_silences_begin_and_end_softly_and_silence_is_silent() -> None:
    """(A5) No step at the edge of a silence is higher than within the tone; nothing sounds in the silence."""
    tone = sine(6, level=0.5)
    silence = np.zeros(12 * RATE, np.float32)  # of which up to 5 s on both sides stay with the sound
    audio = np.concatenate([tone, silence, tone])
    audio = audio + 1e-4 * np.sin(np.arange(len(audio), dtype=np.float32))  # -80 dB of noise: silent, not zero
    svc, voice = identity_svc()
    got, _ = svc.convert(audio.astype(np.float32), "alice")
    assert len(got) == len(audio)
    assert not got[int(11.1 * RATE) : int(12.9 * RATE)].any()
    assert np.abs(np.diff(got)).max() <= np.abs(np.diff(tone)).max() * 1.01
    np.testing.assert_allclose(got[RATE : 5 * RATE], audio[RATE : 5 * RATE], atol=1e-6)
    assert len(voice.heard) == 2


@pytest.mark.parametrize("seconds", [0.1, 1.0, 9.0])
def test_silent_file_converts_to_silence(seconds: float) -> None:
    svc, voice = identity_svc()
    got, report = svc.convert(np.zeros(round(seconds * RATE), np.float32), "alice")
    assert len(got) == round(seconds * RATE)
    assert not got.any()
    assert not voice.heard
    assert report.peak == 0


@pytest.mark.parametrize("pad", [0.0, 0.5])
@pytest.mark.parametrize("samples", [200, 4410])
def test_a_very_short_song_is_converted(samples: int, pad: float) -> None:
    tone = sine(1)[1000 : 1000 + samples]
    svc, voice = identity_svc()
    got, _ = svc.convert(tone, "alice", InferenceOptions(pad_seconds=pad))
    np.testing.assert_allclose(got, tone, atol=1e-6)
    assert len(voice.heard[0].audio) >= 0.29 * RATE


def test_a_file_at_44_1_khz_after_one_at_48_khz_keeps_its_pitch(tmp_path: Path) -> None:
    """(A2) The original pushes it through the resampler of the file before."""
    svc, _ = identity_svc()
    for rate in (48000, 44100, 22050, 44100):
        source, target = write(tmp_path / "in.wav", sine(1.5, rate=rate), rate), tmp_path / "out.wav"
        svc.convert_file(source, target, "alice")
        got = soundfile.read(target)[0]
        spectrum = np.abs(np.fft.rfft(got * np.hanning(len(got))))
        assert abs(np.argmax(spectrum) * RATE / len(got) - 440) < 1


def test_nothing_is_rounded_to_16_bits_on_the_way(tmp_path: Path) -> None:
    """(A6) A tone at -90 dBFS under a loud one survives, and so does what is over full scale on its way in."""
    loud, faint = sine(2, 300, level=0.5), sine(2, 5000, level=3e-5)
    source, target = write(tmp_path / "in.wav", loud + faint, RATE), tmp_path / "out.flac"
    svc, voice = identity_svc()
    svc.convert_file(source, target, "alice")
    got = soundfile.read(target)[0]
    np.testing.assert_allclose(got, loud + faint, atol=1.5 * 2.0**-23)
    svc.convert(3 * loud, "alice")
    assert voice.heard[-1].audio.max() > 1.4


def test_a_result_over_full_scale_is_reported(tmp_path: Path) -> None:
    svc, _ = identity_svc()
    source, target = write(tmp_path / "in.wav", sine(1, level=1.4), RATE), tmp_path / "out.wav"
    report = svc.convert_file(source, target, "alice")
    assert report.peak == pytest.approx(1.4, abs=0.01)
    assert any("over full scale" in warning for warning in report.warnings)
    assert np.abs(soundfile.read(target)[0]).max() <= 1.0


@pytest.mark.parametrize("extension", options_module.WAV_FORMATS)
def test_every_format_is_written_whole(tmp_path: Path, extension: str) -> None:
    svc, _ = identity_svc()
    source, target = write(tmp_path / "in.wav", sine(2), RATE), tmp_path / f"out.{extension}"
    svc.convert_file(source, target, "alice")
    got, rate = soundfile.read(target)
    assert rate == RATE
    assert abs(len(got) - 2 * RATE) <= (0 if extension in ("wav", "flac") else 2304)
    assert 0.35 < np.abs(got).max() < 0.45


def test_a_long_voiced_song_goes_through_in_short_windows() -> None:
    """Without -cl, so that attention stays cheap and Whisper's 30 s need no flag."""
    svc, voice = identity_svc()
    svc.convert(sine(50), "alice")
    lengths = [len(window.audio) / RATE for window in voice.heard]
    assert max(lengths) <= 15.1
    assert sum(lengths) < 1.3 * 50


def test_windows_of_a_held_note_go_on_in_phase() -> None:
    """At their joints two windows sound together; out of phase they would cancel each other."""
    voice = Harmonics()
    got, _ = Svc(voice, PitchFinder(RATE, HOP)).convert(sine(60, 221.3), "alice", InferenceOptions(trans=-1.7))
    assert len(voice.heard) > 4
    loudness = np.sqrt(np.square(got[: len(got) // 882 * 882]).reshape(-1, 882).mean(axis=1))  # 20 ms each
    assert loudness[50:-50].min() > 0.9 * np.median(loudness)


def test_transposition_moves_the_pitch_that_the_model_gets() -> None:
    svc, voice = identity_svc()
    svc.convert(song(2), "alice", InferenceOptions(trans=0))
    svc.convert(song(2), "alice", InferenceOptions(trans=-5.5))
    low, high = voice.heard[1].f0, voice.heard[0].f0
    np.testing.assert_allclose(low, high * 2 ** (-5.5 / 12), rtol=1e-6)
    assert np.median(high) == pytest.approx(220, abs=30)


def test_the_pitch_of_a_long_piece_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found in windows; the joints may not show. Praat centres its frames, hence half a frame of difference."""
    monkeypatch.setattr(pitch, "WINDOW_SECONDS", 3.0)
    audio = signals.voice_like(RATE, 10.0, [180, 300, 240, -1, 200, 260, 0, 220, 400, 210], seed=3)
    finder = PitchFinder(RATE, HOP)
    n_frames = len(audio) // HOP
    got = finder.contour(lambda a, b: audio[a:b], n_frames, len(audio), InferenceOptions(), lambda: None)
    want = finder.predictor(InferenceOptions())(audio, n_frames)
    both = (got.uv > 0) & (want.uv > 0)
    assert (got.uv == want.uv).mean() > 0.99
    cents = 1200 * np.abs(np.log2(got.f0[both] / want.f0[both]))
    assert np.median(cents) < 5
    assert np.quantile(cents, 0.99) < 25
    assert (got.f0 > 0).all()


def test_a_changed_threshold_takes_effect_at_once() -> None:
    """(A20) The predictor is remembered by all of its parameters."""
    finder = PitchFinder(RATE, HOP)
    base = finder.predictor(InferenceOptions())
    assert finder.predictor(InferenceOptions(noise_scale=1.0)) is base
    for change in ({"f0_filter_threshold": 0.3}, {"f0_min": 60.0}, {"f0_max": 900.0}, {"f0_predictor": "dio"}):
        assert finder.predictor(InferenceOptions(**change)) is not base
    assert finder.predictor(InferenceOptions(f0_filter_threshold=0.3)).threshold == 0.3
    assert finder.predictor(InferenceOptions()).threshold == 0.05


def test_a_song_above_the_range_is_reported_with_what_to_do() -> None:
    svc, _ = identity_svc()
    high = signals.voice_like(RATE, 3.0, [900, 1200, 1300, 1250, 1300, 1200], seed=2)
    _, report = svc.convert(high, "alice")
    assert any("1100 Hz" in warning for warning in report.warnings)
    _, report = svc.convert(high, "alice", InferenceOptions(f0_max=1500.0))
    assert not report.warnings
    _, report = svc.convert(song(), "alice")
    assert not report.warnings


@pytest.mark.parametrize("speaker,expected", [("alice", 0), ("bob", 1), ("1", 1), (0, 0), (1, 1)])
def test_speakers_are_known_by_name_and_by_id(speaker: str | int, expected: int) -> None:
    """(B6) 0 is an id like any other."""
    svc, voice = identity_svc()
    svc.convert(song(1), speaker)
    assert voice.heard[0].speaker == expected


@pytest.mark.parametrize("speaker", ["carol", "2", 2, -1, 3, 1000, ""])
def test_an_unknown_speaker_is_refused_with_those_there_are(speaker: str | int) -> None:
    """(B6) The original takes negative ids and one too many."""
    svc, _ = identity_svc()
    with pytest.raises(UserError, match=r"alice \(0\), bob \(1\)"):
        svc.convert(song(1), speaker)


@pytest.mark.parametrize("cut", CUTS[:3], ids=CUT_NAMES[:3])
def test_a_speaker_mix_runs_on_the_time_line_of_the_song(cut: dict[str, float]) -> None:
    """(A21) Pads and overlaps do not count; each frame has the shares of its own moment."""
    svc, voice = identity_svc()
    mix = SpeakerMix.from_map({"alice": [[0, 1, 1, 0]], "bob": [[0, 1, 0, 1]]}, svc.speakers, svc.n_speakers)
    ramp = np.linspace(0.2, 0.9, 7 * RATE, dtype=np.float32)  # the level tells the moment
    svc.convert(ramp, mix, InferenceOptions(pad_seconds=0.3, slice_db=-120.0, **cut))
    checked = 0
    for window in voice.heard:
        assert isinstance(window.speaker, np.ndarray)
        assert window.speaker.shape == (len(window.f0), 3)
        level = window.audio[: len(window.f0) * HOP].reshape(-1, HOP)
        whole = (level > 0.19).all(axis=1)
        moment = (level[whole].mean(axis=1) - 0.2) / 0.7
        np.testing.assert_allclose(window.speaker[whole, 1], moment, atol=1e-4)
        np.testing.assert_allclose(window.speaker.sum(axis=1), 1, atol=1e-6)
        checked += whole.sum()
    assert checked > 580


@pytest.mark.parametrize(("down_db", "said"), [(0, None), (30, "100% of what"), (60, "100% of what"), (120, None)])
def test_a_song_that_is_too_quiet_is_not_silent_without_a_word(down_db: float, said: str | None) -> None:
    quiet = song() * np.float32(10 ** (-down_db / 20))
    svc, voice = identity_svc()
    got, report = svc.convert(quiet, "alice")
    if said is None:
        assert report.warnings == []
        return
    (warning,) = report.warnings
    assert warning.startswith(said) and "--slice_db -40" in warning and not got.any()
    lower = float(warning.rpartition("-sd ")[2])
    again, report = svc.convert(quiet, "alice", InferenceOptions(slice_db=lower))
    assert report.warnings == [] and np.square(again).sum() > 0.95 * np.square(quiet).sum()


def test_a_quiet_verse_that_is_left_out_is_told_of() -> None:
    verse = np.float32(0.3) * np.tile(song(3), 5)
    svc, _ = identity_svc()
    _, report = svc.convert(np.concatenate([verse, verse * np.float32(0.05), verse]), "alice")
    (warning,) = report.warnings
    assert "left silent" in warning and not warning.startswith("100%")


def test_progress_only_grows_and_ends_at_the_whole() -> None:
    shares: list[float] = []
    svc, _ = identity_svc()
    svc.convert(sine(40), "alice", progress=shares.append)
    assert len(shares) > 2
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)


class Broken(RuntimeError):
    pass


@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt])
def test_a_conversion_that_breaks_off_leaves_nothing_and_keeps_an_older_result(
    tmp_path: Path, error: type[BaseException]
) -> None:
    source = write(tmp_path / "in.wav", sine(40), RATE)
    target = tmp_path / "results" / "out.wav"
    target.parent.mkdir()
    target.write_bytes(b"older")
    svc, voice = identity_svc()
    sing, count = voice.render, 0

    def break_off(window: object, options: InferenceOptions) -> np.ndarray:
        nonlocal count
        count += 1
        if count == 3:
            raise error
        return sing(window, options)  # type: ignore[arg-type]

    voice.render = break_off  # type: ignore[method-assign]
    with pytest.raises(error):
        svc.convert_file(source, target, "alice")
    assert [path.name for path in target.parent.iterdir()] == ["out.wav"]
    assert target.read_bytes() == b"older"


def test_a_conversion_can_be_cancelled(tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.wav", sine(40), RATE), tmp_path / "results" / "out.wav"
    svc, voice = identity_svc()
    cancel = threading.Event()
    with pytest.raises(Cancelled):
        svc.convert_file(source, target, "alice", progress=lambda share: cancel.set(), cancel=cancel)
    assert len(voice.heard) == 1
    assert not list(target.parent.iterdir())


def bad_files(folder: Path) -> dict[str, Path]:
    tone = sine(2)
    write(folder / "nan.wav", np.where(np.arange(len(tone)) == 5000, np.nan, tone), RATE)
    write(folder / "whole.wav", tone, RATE, subtype="PCM_16")
    (folder / "truncated.wav").write_bytes((folder / "whole.wav").read_bytes()[:50000])
    (folder / "text.wav").write_text("this is no audio")
    (folder / "empty.wav").write_bytes(b"")
    write(folder / "no_samples.wav", tone[:0], RATE)
    return {name: folder / f"{name}.wav" for name in ("nan", "truncated", "text", "empty", "no_samples", "missing")}


@pytest.mark.parametrize("name", ["nan", "truncated", "text", "empty", "no_samples", "missing"])
def test_a_bad_file_is_named_and_leaves_no_result(tmp_path: Path, name: str) -> None:
    source = bad_files(tmp_path)[name]
    svc, _ = identity_svc()
    with pytest.raises(UserError, match=source.name):
        svc.convert_file(source, tmp_path / "results" / "out.wav", "alice")
    assert not list((tmp_path / "results").iterdir())


def test_a_full_disk_is_said_to_be_full_and_gets_nothing_half(tmp_path: Path) -> None:
    noise = 0.5 * np.random.default_rng(0).standard_normal(14 * RATE).clip(-1, 1).astype(np.float32)
    source = write(tmp_path / "in.wav", noise, RATE)
    svc, _ = identity_svc()
    with small_disk(tmp_path / "results") as results:
        with pytest.raises(OSError) as caught:
            svc.convert_file(source, results / "out.wav", "alice")
        assert caught.value.errno == errno.ENOSPC
        assert not list(results.iterdir())


@pytest.mark.parametrize(
    "change,flag",
    [
        ({"slice_db": 3.0}, "--slice_db"),
        ({"clip": -1.0}, "--clip"),
        ({"clip": 0.01}, "--clip"),
        ({"clip": 1.0, "linear_gradient": 2.0}, "--linear_gradient"),
        ({"linear_gradient_retain": 1.5}, "--linear_gradient_retain"),
        ({"pad_seconds": float("nan")}, "--pad_seconds"),
        ({"f0_predictor": "ear"}, "--f0_predictor"),
        ({"f0_min": 900.0, "f0_max": 300.0}, "--f0_max"),
        ({"cluster_infer_ratio": 2.0}, "--cluster_infer_ratio"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_flag(change: dict[str, float], flag: str) -> None:
    svc, _ = identity_svc()
    with pytest.raises(UserError) as caught:
        svc.convert(sine(0.5), "alice", InferenceOptions(**change))
    assert flag in caught.value.where
