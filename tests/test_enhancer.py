"""The enhancer: the published numbers, and the range that the adaptive key moves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modules.inference.networks import TorchVocoder
from modules.inference.voice import Enhancer
from tests.parity import golden
from tests.test_mel_vocoder import GOLDENS, write_vocoder
from vdecoder.mel_vocoder import MelVocoder

RATE, HOP = 44100, 512  # of the vocoder
SEED = 77  # of the published numbers
CASES = sorted(path.stem for path in GOLDENS.glob("e_enhance*.npz"))


@pytest.fixture(scope="module")
def enhancer(tmp_path_factory: pytest.TempPathFactory) -> Enhancer:
    return Enhancer(TorchVocoder(MelVocoder.load(write_vocoder(tmp_path_factory.mktemp("vocoder")))))


@pytest.mark.parametrize("case", CASES)
def test_enhanced_audio_equals_the_published_one(enhancer: Enhancer, case: str) -> None:
    """The original can leave out a silent start; here the caller does."""
    meta, arrays = golden.load(Path(GOLDENS) / f"{case}.npz")
    inputs, call = golden.inputs(meta, arrays), meta["call"]
    audio, f0 = inputs["audio"][0], inputs["f0"].reshape(-1)
    skipped = int(call["silence_front"] * RATE / HOP)  # frames
    before = f0.copy()
    enhanced = enhancer.enhance(audio[HOP * skipped :], f0[skipped:], call["adaptive_key"], SEED)
    golden.compare(meta, arrays, "audio", np.pad(enhanced, (HOP * skipped, 0)))
    assert np.array_equal(f0, before)  # the original scales the caller's array


def test_the_vocoder_hears_lower_notes_with_an_adaptive_key_and_the_result_keeps_the_pitch(enhancer: Enhancer) -> None:
    """Partials of a tone of 1000 Hz: the vocoder sees them an octave lower at key 12."""
    seconds, frames = 1.0, 86
    tone = (0.3 * np.sin(2 * np.pi * 1000 * np.arange(int(RATE * seconds)) / RATE)).astype(np.float32)
    heard: dict[float, tuple[int, float]] = {}
    synthesise = enhancer.vocoder.synthesise

    def listen(mel: np.ndarray, f0: np.ndarray, seed: int) -> np.ndarray:
        heard[key] = int(mel.mean(0).argmax()), float(f0.mean())
        return synthesise(mel, f0, seed)

    enhancer.vocoder.synthesise = listen  # type: ignore[method-assign]
    try:
        for key in (0.0, 12.0):
            audio = enhancer.enhance(tone, np.full(frames, 1000.0, np.float32), key, SEED)
            assert abs(audio.shape[-1] - 44100) < 512
    finally:
        del enhancer.vocoder.synthesise  # type: ignore[method-assign]
    assert heard[12.0][0] < heard[0.0][0]
    np.testing.assert_allclose([heard[0.0][1], heard[12.0][1]], [1000, 500])
