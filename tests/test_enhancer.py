"""The enhancer: the published numbers, and the range that the adaptive key moves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from modules.inference.enhancer import Enhancer
from tests.parity import golden
from tests.test_mel_vocoder import GOLDENS, seeded, write_vocoder
from vdecoder.mel_vocoder import MelVocoder

CASES = sorted(path.stem for path in GOLDENS.glob("e_enhance*.npz"))


@pytest.fixture(scope="module")
def enhancer(tmp_path_factory: pytest.TempPathFactory) -> Enhancer:
    return Enhancer(MelVocoder.load(write_vocoder(tmp_path_factory.mktemp("vocoder"))))


@pytest.mark.parametrize("case", CASES)
def test_enhanced_audio_equals_the_published_one(enhancer: Enhancer, case: str) -> None:
    meta, arrays = golden.load(Path(GOLDENS) / f"{case}.npz")
    inputs = {name: torch.from_numpy(value) for name, value in golden.inputs(meta, arrays).items()}
    call = meta["call"]
    f0 = inputs["f0"].squeeze(-1)
    before = f0.clone()
    audio = enhancer.enhance(inputs["audio"], f0, call["adaptive_key"], call["silence_front"], seeded())
    golden.compare(meta, arrays, "audio", audio[0].numpy())
    assert torch.equal(f0, before)  # the original scales the caller's array


def test_the_vocoder_hears_lower_notes_with_an_adaptive_key_and_the_result_keeps_the_pitch(enhancer: Enhancer) -> None:
    """Partials of a tone of 1000 Hz: the vocoder sees them an octave lower at key 12."""
    seconds, frames = 1.0, 86
    tone = 0.3 * torch.sin(2 * torch.pi * 1000 * torch.arange(int(44100 * seconds)) / 44100).unsqueeze(0)
    heard: dict[float, tuple[int, float]] = {}
    synthesise = enhancer.vocoder.synthesise

    def listen(mel: torch.Tensor, f0: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        heard[key] = int(mel[0].mean(0).argmax()), float(f0.mean())
        return synthesise(mel, f0, generator)

    enhancer.vocoder.synthesise = listen  # type: ignore[method-assign]
    try:
        for key in (0.0, 12.0):
            audio = enhancer.enhance(tone, torch.full((1, frames), 1000.0), key, generator=seeded())
            assert abs(audio.shape[-1] - 44100) < 512
    finally:
        del enhancer.vocoder.synthesise  # type: ignore[method-assign]
    assert heard[12.0][0] < heard[0.0][0]
    np.testing.assert_allclose([heard[0.0][1], heard[12.0][1]], [1000, 500])
