"""pm, dio, harvest and crepe against the goldens, the range, and what holds for every predictor."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from modules.audio.io import load_audio
from modules.errors import UserError
from modules.f0 import (
    PREDICTORS,
    F0Contour,
    F0Predictor,
    cached_predictor,
    check_range,
    clear_cache,
    get_predictor,
    needs_no_file,
)
from modules.f0.range_check import RangeReport
from tests.parity import golden, signals

GOLDENS = Path(__file__).parent / "parity" / "goldens"
RATE, HOP = 44100, 512
CPU_ONLY = ("pm", "dio", "harvest")


def tone(hz: float, seconds: float, rate: int = RATE) -> np.ndarray:
    """A tone with four harmonics, float32."""
    times = np.arange(int(seconds * rate)) / rate
    return sum(0.2 / h * np.sin(2 * np.pi * h * hz * times) for h in range(1, 5)).astype(np.float32)


def cents(value: np.ndarray, reference: np.ndarray | float) -> np.ndarray:
    return np.abs(1200 * np.log2(value / reference))


@pytest.fixture(scope="module")
def predictors() -> dict[str, F0Predictor]:
    """Every predictor that needs no file, built once."""
    return {name: get_predictor(name) for name in needs_no_file()}


@pytest.mark.parametrize("n_frames, name", [(None, "f0_uv"), (260, "f0_uv_plen260")])
@pytest.mark.parametrize("predictor", CPU_ONLY)
def test_contour_equals_the_golden(predictor: str, n_frames: int | None, name: str) -> None:
    meta, arrays = golden.load(GOLDENS / f"g_{predictor}.npz")
    contour = get_predictor(predictor)(golden.inputs(meta, arrays)["wav"], n_frames)
    golden.compare(meta, arrays, name, contour.f0)
    golden.compare(meta, arrays, f"{name}_flags", contour.uv)
    assert contour.f0.dtype == np.float64 and contour.uv.dtype == np.float32


@pytest.mark.parametrize("predictor", ["pm", "dio"])
def test_one_frame_less_equals_the_golden(predictor: str) -> None:
    meta, arrays = golden.load(GOLDENS / f"g_{predictor}.npz")
    contour = get_predictor(predictor)(golden.inputs(meta, arrays)["wav"], 257)
    golden.compare(meta, arrays, "f0_only_plen257", contour.f0)


def test_crepe_equals_the_golden_and_leaves_the_global_generators_alone() -> None:
    meta, arrays = golden.load(GOLDENS / "g_crepe.npz")
    wav = golden.inputs(meta, arrays)["wav"]
    np.random.seed(7)
    before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()
    predictor = get_predictor("crepe")
    track = predictor.raw_track(wav)
    assert np.array_equal(before, np.random.get_state()[1])
    assert torch.equal(torch_before, torch.get_rng_state())
    predictor.raw_track = lambda audio: track  # the network is slow; only the frame grid differs below
    for n_frames, name in ((None, "f0_uv"), (260, "f0_uv_plen260")):
        contour = predictor(wav, n_frames)
        golden.compare(meta, arrays, name, contour.f0)
        golden.compare(meta, arrays, f"{name}_flags", contour.uv)


class ToyCrepe(torch.nn.Module):
    """A cheap stand-in for the network: random but smooth functions of the spectrum of each frame."""

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        spectrum = torch.fft.rfft(frames * torch.hann_window(1024)).abs()[:, 1:361]
        return torch.sigmoid(spectrum / spectrum.amax(dim=1, keepdim=True).clamp(min=1e-3) * 8 - 4)


def test_crepe_gives_in_windows_what_it_gives_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = get_predictor("crepe")
    predictor.model = ToyCrepe()
    audio = signals.voice_like(RATE, 6.0, seed=3)
    whole = predictor.raw_track(audio)
    monkeypatch.setattr("modules.f0.crepe.WINDOW_FRAMES", 150)
    windowed = predictor.raw_track(audio)
    assert (whole > 0).mean() > 0.5 and len(np.unique(whole)) > 100
    np.testing.assert_allclose(windowed, whole, rtol=1e-5)


@pytest.mark.parametrize("predictor", ["pm", "dio", "crepe", "fcpe"])
def test_silence_equals_the_golden(predictor: str, predictors: dict[str, F0Predictor]) -> None:
    """All unvoiced: zeros in both arrays, and always a contour (A24)."""
    meta, arrays = golden.load(GOLDENS / "g_silence.npz")
    contour = predictors[predictor](np.zeros(RATE, np.float32))
    golden.compare(meta, arrays, f"{predictor}_f0", contour.f0)
    golden.compare(meta, arrays, f"{predictor}_uv", contour.uv)


def test_noise_near_silence_gives_finite_numbers(predictors: dict[str, F0Predictor]) -> None:
    """The networks and WORLD see it, unlike digital silence; whatever they think of it, no NaN comes out."""
    noise = np.random.default_rng(0).normal(0, 1e-5, 13000).astype(np.float32)
    for name, predictor in predictors.items():
        contour = predictor(noise)
        assert np.isfinite(contour.f0).all() and len(contour.f0) == 25, name


def test_one_voiced_frame_fills_the_whole_contour() -> None:
    """(A23)"""
    contour = F0Contour.from_track(np.array([0.0, 0.0, 220.0, 0.0]))
    np.testing.assert_array_equal(contour.f0, 220.0)
    np.testing.assert_array_equal(contour.uv, [0, 0, 1, 0])


def test_gaps_are_filled_linearly_and_ends_hold() -> None:
    contour = F0Contour.from_track(np.array([0.0, 100.0, 0.0, np.nan, 130.0, 0.0]))
    np.testing.assert_allclose(contour.f0, [100, 100, 110, 120, 130, 130])
    np.testing.assert_array_equal(contour.uv, [0, 1, 0, 0, 1, 0])


@pytest.mark.parametrize("predictor", ["pm", "dio"])
def test_a_note_above_the_ceiling_is_found_in_a_wider_range_and_reported(predictor: str) -> None:
    """(A23) By default they halve it, or lose it."""
    note = tone(1320.0, 0.5)
    middle = slice(10, 30)
    assert cents(get_predictor(predictor, f0_max=2200.0)(note).f0[middle], 1320.0).max() < 10
    report = check_range(note)
    assert report.above > 0.9 and abs(report.highest - 1320) < 10
    assert "above 1100 Hz" in report.message
    if predictor == "pm":
        assert cents(get_predictor("pm")(note).f0[middle], 660.0).max() < 10


def test_notes_inside_the_range_are_not_reported() -> None:
    for hz in (60.0, 220.0, 1050.0):
        assert check_range(tone(hz, 0.5)).message == ""
    assert "below 50 Hz" in check_range(tone(40.0, 0.5)).message


def test_a_low_voice_with_strong_formants_is_not_reported(voices: Path) -> None:
    """Praat alone takes the formants of this singer for notes up to 2200 Hz in 1 to 3 % of his voice."""
    import soundfile

    for number in (1, 2, 3):
        audio, rate = soundfile.read(voices / f"pjs_singing/pjs00{number}.flac")
        assert check_range(audio, rate).message == ""


def test_the_cache_tells_all_parameters_apart() -> None:
    """(A20)"""
    clear_cache()
    first = cached_predictor("pm", threshold=0.05)
    assert cached_predictor("pm", threshold=0.05) is first
    for other in (
        {"threshold": 0.1},
        {"threshold": 0.05, "f0_max": 2000.0},
        {"threshold": 0.05, "hop_length": 256},
    ):
        assert cached_predictor("pm", **other) is not first
    clear_cache()
    assert cached_predictor("pm", threshold=0.05) is not first


@pytest.mark.parametrize("predictor", CPU_ONLY)
@pytest.mark.parametrize("rate, hop", [(16000, 160), (22050, 256), (48000, 512)])
def test_other_rates_and_hops_give_the_same_hertz(predictor: str, rate: int, hop: int) -> None:
    """harvest took the hop for the sampling rate (B13)."""
    contour = get_predictor(predictor, sample_rate=rate, hop_length=hop)(tone(300.0, 0.6, rate))
    assert len(contour.f0) == int(0.6 * rate) // hop
    assert contour.uv[10:-10].all() and cents(contour.f0[10:-10], 300.0).max() < 10


def test_any_sensible_frame_count_is_met_without_shifting_the_frames(predictors: dict[str, F0Predictor]) -> None:
    audio = tone(220.0, 0.5)
    expected = len(audio) // HOP
    for name in ("pm", "dio", "harvest", "fcpe"):
        for n_frames in (0, expected - 20, expected - 4, expected - 3, expected + 1, expected + 3, expected + 60):
            contour = predictors[name](audio, n_frames)
            assert len(contour.f0) == len(contour.uv) == n_frames, name
            if n_frames > expected + 3:
                assert not contour.uv[expected:].any()
        with pytest.raises(UserError, match="belong together"):
            predictors[name](audio, 10 * expected)


def test_praat_giving_more_frames_than_wanted_is_cut_on_both_sides() -> None:
    """A short hop makes Praat give far more frames than T // hop - 3; the original's padding went negative."""
    predictor = get_predictor("pm", f0_min=400.0)
    audio = tone(440.0, 0.5)
    for n_frames in range(len(audio) // HOP - 3, len(audio) // HOP + 4):
        contour = predictor(audio, n_frames)
        assert len(contour.f0) == n_frames and cents(contour.f0, 440.0).max() < 10


@pytest.mark.parametrize("samples", [0, 1, 100, 511, 512, 700, 1100, 2205])
def test_short_audio_gives_a_contour(samples: int, predictors: dict[str, F0Predictor]) -> None:
    for name, predictor in predictors.items():
        contour = predictor(tone(440.0, 0.1)[:samples])
        assert len(contour.f0) == len(contour.uv) == samples // HOP, name
        assert np.isfinite(contour.f0).all(), name


def test_broken_audio_is_refused_with_a_reason(predictors: dict[str, F0Predictor]) -> None:
    with pytest.raises(UserError, match="NaN"):
        predictors["pm"](np.array([0.0, np.nan] * 4000))
    with pytest.raises(UserError, match="mono"):
        predictors["pm"](np.zeros((2, 4000)))


def test_impossible_parameters_are_refused_with_a_reason() -> None:
    with pytest.raises(UserError, match="pm, dio, harvest, crepe, rmvpe, fcpe"):
        get_predictor("swipe")
    with pytest.raises(UserError, match="500.0 to 100.0"):
        get_predictor("pm", f0_min=500, f0_max=100)
    with pytest.raises(UserError, match="from 0 to 1"):
        get_predictor("crepe", threshold=2.0)
    with pytest.raises(UserError, match="no device"):
        get_predictor("crepe", device="gpu9")


def test_the_registry_imports_nothing_heavy() -> None:
    code = "import sys, modules.f0; print([m for m in ('numpy', 'torch', 'parselmouth') if m in sys.modules])"
    root = Path(__file__).parent.parent
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
    assert list(PREDICTORS) == ["pm", "dio", "harvest", "crepe", "rmvpe", "fcpe"]


def test_predictors_agree_on_a_real_singer(voices: Path, predictors: dict[str, F0Predictor]) -> None:
    import soundfile

    audio, rate = soundfile.read(voices / "pjs_singing/pjs001.flac", start=2 * RATE, frames=4 * RATE)
    assert rate == RATE
    contours = {name: predictors[name](audio) for name in ("pm", "dio", "harvest", "fcpe")}
    for name, contour in contours.items():
        both = (contour.uv > 0) & (contours["pm"].uv > 0)
        assert both.mean() > 0.4, name
        difference = cents(contour.f0[both], contours["pm"].f0[both])
        assert np.median(difference) < 15 and (difference < 100).mean() > 0.9, name


def test_predictors_that_know_no_range_are_not_warned_about() -> None:
    """A warning that says "use fcpe" helps nobody who does."""
    assert get_predictor("pm", f0_max=1500).reach == get_predictor("dio", f0_max=1500).reach == (50, 1500)
    assert get_predictor("fcpe", f0_max=1500).reach == (50, 1100)  # its weights were trained on no more


SONG = Path(__file__).parent.parent / "demo" / "held_out" / "sinsy" / "greensleeves.flac"


@pytest.mark.parametrize("decibels", [0, -20])
def test_crepe_hears_quiet_singing(decibels: float) -> None:
    """Its gate is an absolute level, and lost three frames of four of this song, which peaks at -13 dBFS."""
    audio, _ = load_audio(SONG, 44100)
    audio = audio[3 * 44100 : 5 * 44100]
    reference = get_predictor("pm")(audio)
    contour = get_predictor("crepe")(audio * np.float32(10 ** (decibels / 20)))
    both = (contour.uv > 0) & (reference.uv > 0)
    assert both.sum() > 0.9 * reference.uv.sum()
    assert np.median(np.abs(1200 * np.log2(contour.f0[both] / reference.f0[both]))) < 20


def test_crepe_takes_nothing_for_a_voice_in_a_silent_room() -> None:
    noise = np.random.default_rng(3).normal(0, 1e-4, 44100).astype(np.float32)  # -80 dBFS
    assert get_predictor("crepe")(noise).uv.mean() < 0.1


@pytest.mark.parametrize("limits", [{"f0_min": 25}, {"f0_max": 2500}], ids=str)
def test_crepe_follows_the_voice_in_a_wider_range(limits: dict[str, float]) -> None:
    """Under 31.7 Hz every bin was masked; over 2000 Hz silence led the path to the last bin, where it stayed."""
    audio, _ = load_audio(SONG, 44100)
    audio = np.pad(audio[3 * 44100 : 5 * 44100], 22050)
    plain, wide = (get_predictor("crepe", **values)(audio) for values in ({}, limits))
    voiced = (plain.uv > 0) & (wide.uv > 0)
    assert voiced.sum() > 0.95 * plain.uv.sum()
    assert np.median(np.abs(1200 * np.log2(wide.f0[voiced] / plain.f0[voiced]))) < 10


def test_the_range_message_names_what_finds_the_notes() -> None:
    report = RangeReport(above=0.3, below=0.0, highest=1380.0, lowest=0.0, f0_min=50, f0_max=1100)
    assert "--f0_predictor pm or harvest with --f0_max 1600" in report.message
    report = RangeReport(above=0.0, below=0.3, highest=0.0, lowest=31.0, f0_min=50, f0_max=1100)
    assert "--f0_min 25" in report.message and "--f0_max" not in report.message


def test_what_a_network_has_found_is_no_note_beyond_it() -> None:
    """Praat takes a formant of a low voice for a high note now and then; a network that found the voice says no."""
    high = tone(1400.0, 1.0)
    frames = len(high) // 512
    assert check_range(high, found=np.zeros(frames)).above > 0.5
    assert check_range(high, found=np.ones(frames)).message == ""
    audio, _ = load_audio(SONG.parent.parent / "taro" / "scarborough_fair.flac", 44100)
    contour = get_predictor("fcpe")(audio)
    assert check_range(audio, found=contour.uv).message == ""
