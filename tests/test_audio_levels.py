"""Normalisation, limiter and envelope: levels that are met, samples that never clip or wrap."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modules.audio.loudness import (
    EnvelopeGain,
    adjust_envelope,
    envelope,
    envelope_curve,
    is_silent,
    limit,
    loudness,
    normalize_loudness,
    normalize_peak,
    to_int16,
)
from tests.parity import golden, signals

GOLDENS = Path(__file__).parent / "parity/goldens"
RATE = 44100


def sine(level: float, seconds: float = 2.0, rate: int = RATE, hz: float = 997.0) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.75])
def test_envelope_adjustment_equals_the_golden_and_keeps_its_input(rate: float) -> None:
    meta, arrays = golden.load(GOLDENS / "a_change_rms.npz")
    inputs = golden.inputs(meta, arrays)
    output = inputs["output"] * np.linspace(0.05, 1, 87040).astype(np.float32)
    before = output.copy()
    golden.compare(meta, arrays, f"rate{rate}", adjust_envelope(inputs["source"], RATE, output, RATE, rate))
    np.testing.assert_array_equal(output, before)


def test_envelope_gain_by_blocks_is_that_of_the_whole() -> None:
    source, output = signals.voice_like(16000, 3.0, seed=1), signals.voice_like(RATE, 3.0, seed=2)
    curve = envelope_curve(16000)
    for start in range(0, len(source), 7000):
        curve.push(source[start : start + 7000])
    gain = EnvelopeGain(curve.finish(), envelope(output, RATE), len(output), 0.2)
    blocks = [gain(start, min(start + 10001, len(output))) for start in range(0, len(output), 10001)]
    whole = adjust_envelope(source, 16000, output, RATE, 0.2)
    np.testing.assert_allclose(output * np.concatenate(blocks), whole, atol=1e-7)


def test_envelope_rate_one_changes_nothing_and_rate_zero_takes_the_source() -> None:
    quiet, loud = sine(0.05, 6.0), sine(0.5, 6.0)
    np.testing.assert_allclose(adjust_envelope(quiet, RATE, loud, RATE, 1.0), loud, atol=1e-6)
    middle = slice(RATE, 5 * RATE)
    np.testing.assert_allclose(adjust_envelope(quiet, RATE, loud, RATE, 0.0)[middle], quiet[middle], atol=1e-4)


@pytest.mark.parametrize("target", [-30.0, -18.0, -9.0])
def test_lufs_target_is_met(target: float) -> None:
    voice = signals.voice_like(RATE, 4.0, [200, 220, 210], seed=3)
    assert loudness(normalize_loudness(voice, RATE, target, ceiling=10.0), RATE) == pytest.approx(target, abs=0.05)


def test_loudness_follows_bs_1770() -> None:
    """A 997 Hz sine of full scale in one channel has -3.01 LUFS (ITU-R BS.1770, which defines the scale by it)."""
    assert loudness(sine(1.0), RATE) == pytest.approx(-3.01, abs=0.05)
    assert loudness(sine(0.1), 44100) == pytest.approx(-23.01, abs=0.05)


def test_loudness_of_short_and_silent_audio_is_defined() -> None:
    assert loudness(sine(0.1, 0.05), RATE) == pytest.approx(-23.0, abs=0.5)
    assert loudness(np.zeros(RATE, np.float32), RATE) == -np.inf
    assert loudness(np.zeros(0, np.float32), RATE) == -np.inf
    np.testing.assert_array_equal(normalize_loudness(np.zeros(RATE, np.float32), RATE, -18.0), 0)


@pytest.mark.parametrize("seed", range(5))
def test_limited_audio_never_exceeds_the_ceiling(seed: int) -> None:
    """(A7)"""
    rng = np.random.default_rng(seed)
    audio = (rng.standard_normal(RATE) * rng.choice([0.1, 1, 5], RATE)).astype(np.float32)
    limited = limit(audio, RATE, 0.891)
    assert np.abs(limited).max() <= np.float32(0.891)
    assert limited.dtype == np.float32


def test_limiter_turns_down_smoothly_and_leaves_the_rest_alone() -> None:
    audio = sine(0.5, 2.0)
    audio[RATE] = 2.0
    limited = limit(audio, RATE, 1.0)
    far = np.abs(np.arange(len(audio)) - RATE) > 0.011 * RATE
    np.testing.assert_allclose(limited[far], audio[far], atol=1e-6)
    assert 0.9 < limited[RATE] <= 1.0
    gain = limited / np.where(np.abs(audio) < 1e-3, np.nan, audio)
    assert np.nanmax(np.abs(np.diff(gain))) < 0.01  # no step in the gain, so no click
    np.testing.assert_array_equal(limit(sine(0.5), RATE), sine(0.5))


def test_loud_target_is_limited_not_clipped() -> None:
    voice = signals.voice_like(RATE, 3.0, [200, 220], seed=4)
    loud = normalize_loudness(voice, RATE, -5.0)
    assert np.abs(loud).max() <= 10 ** (-1 / 20) + 1e-6


def test_int16_truncates_toward_zero_and_never_wraps() -> None:
    """(A7)"""
    audio = np.array([0.0, 0.99999 / 32767, -1.9 / 32767, 0.5, 1.0, 1.2, -1.0, -7.0], np.float32)
    np.testing.assert_array_equal(to_int16(audio), [0, 0, -1, 16383, 32767, 32767, -32767, -32767])


def test_peak_normalisation_fills_full_scale_and_keeps_silence() -> None:
    assert np.abs(normalize_peak(sine(0.1), 0.98)).max() == pytest.approx(0.98)
    np.testing.assert_array_equal(normalize_peak(np.zeros(5, np.float32)), np.zeros(5))
    assert is_silent(np.zeros(0, np.float32)) and is_silent(sine(0.0009)) and not is_silent(sine(0.01))
