"""Spectrogram, mel, volume and stretched units: the goldens, and what keeps them apart in one process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from modules.audio.spectrogram import mel_basis, mel_spectrogram, spec_to_mel, spectrogram
from modules.audio.volume import volume
from modules.data.units import stretch_units
from tests.parity import golden, signals

GOLDENS = Path(__file__).parent / "parity/goldens"
MEL = {"n_fft": 2048, "n_mels": 80, "sample_rate": 44100, "fmin": 0, "fmax": 22050}
CPU = torch.device("cpu")


def test_spectrogram_and_mel_equal_the_golden() -> None:
    meta, arrays = golden.load(GOLDENS / "a_mel.npz")
    audio = torch.from_numpy(golden.inputs(meta, arrays)["y"])
    spec = spectrogram(audio, 2048, 512, 2048)
    golden.compare(meta, arrays, "spec", spec)
    golden.compare(meta, arrays, "mel_from_spec", spec_to_mel(spec, **MEL))
    golden.compare(meta, arrays, "mel", mel_spectrogram(audio, hop_length=512, win_length=2048, **MEL))
    golden.compare(meta, arrays, "mel_basis", mel_basis(2048, 80, 44100, 0, 22050, CPU))


def test_filters_of_other_sizes_are_told_apart() -> None:
    """The original kept one basis per fmax, whatever the other sizes were."""
    shapes = [mel_basis(n_fft, n_mels, 44100, 0, 22050, CPU).shape for n_fft, n_mels in ((2048, 80), (1024, 40))]
    assert [tuple(shape) for shape in shapes] == [(80, 1025), (40, 513)]
    assert not torch.equal(mel_basis(2048, 80, 44100, 0, 22050, CPU), mel_basis(2048, 80, 48000, 0, 22050, CPU))


def test_autocast_does_not_lower_the_precision() -> None:
    audio = torch.from_numpy(signals.voice_like(44100, 0.5, [200, 0], seed=1))[None]
    want = mel_spectrogram(audio, hop_length=512, win_length=2048, **MEL)
    with torch.autocast("cpu", torch.bfloat16):
        got = mel_spectrogram(audio, hop_length=512, win_length=2048, **MEL)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want)


def test_filters_first_made_in_inference_mode_can_be_trained_with() -> None:
    mel_basis.cache_clear()
    audio = torch.randn(1, 4096) * 0.1
    with torch.inference_mode():
        mel_spectrogram(audio, hop_length=512, win_length=2048, **MEL)
    audio.requires_grad_()
    mel_spectrogram(audio, hop_length=512, win_length=2048, **MEL).sum().backward()
    assert audio.grad is not None and torch.isfinite(audio.grad).all()


@pytest.mark.parametrize("samples", [100, 512, 700, 768, 769, 4410, 44100])
def test_frames_are_samples_by_hop_whatever_the_length(samples: int) -> None:
    audio = torch.randn(2, samples)
    assert spectrogram(audio, 2048, 512, 2048).shape == (2, 1025, samples // 512)
    assert volume(audio.numpy(), 512).shape == (2, samples // 512)
    assert np.isfinite(volume(audio.numpy(), 512)).all()


@pytest.mark.parametrize("name", ["len22050", "len22327"])
def test_volume_equals_the_golden(name: str) -> None:
    meta, arrays = golden.load(GOLDENS / "a_volume.npz")
    audio = golden.inputs(meta, arrays)[name]
    got = volume(audio, 512)
    assert isinstance(got, np.ndarray) and got.dtype == np.float32
    golden.compare(meta, arrays, f"vol_{name}", got)


def test_stretched_units_equal_the_golden() -> None:
    meta, arrays = golden.load(GOLDENS / "a_repeat_expand_2d.npz")
    content = golden.inputs(meta, arrays)["content"]
    for name in meta["outputs"]:
        mode, frames = name.split("_")
        golden.compare(meta, arrays, name, stretch_units(content, int(frames), mode))


@pytest.mark.parametrize(("source", "target"), [(1, 7), (2, 3), (50, 86), (100, 37), (499, 861), (1500, 2583), (5, 5)])
def test_left_stretching_follows_its_rule_frame_by_frame(source: int, target: int) -> None:
    bounds = torch.arange(source + 1) * target / source
    want, current = [], 0
    for frame in range(target):
        if frame >= bounds[current + 1]:
            current += 1
        want.append(float(current))
    got = stretch_units(np.arange(source, dtype=np.float32)[None], target, "left")
    assert got[0].tolist() == want


def test_unknown_mode_and_missing_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="'cubic'; it may be left, nearest or linear"):
        stretch_units(np.zeros((1, 3)), 5, "cubic")
    with pytest.raises(ValueError, match="no frames"):
        stretch_units(np.zeros((1, 0)), 5, "left")


def test_stretching_and_volume_do_in_numpy_what_torch_does() -> None:
    rng = np.random.default_rng(0)
    for source, target in [(50, 86), (149, 259), (7, 5), (1, 9), (100, 100), (333, 574)]:
        units = rng.standard_normal((3, source)).astype(np.float32)
        for mode in ("nearest", "linear"):
            expected = torch.nn.functional.interpolate(torch.from_numpy(units)[None], size=target, mode=mode)[0].numpy()
            got = stretch_units(units, target, mode)
            assert np.array_equal(got, expected) if mode == "nearest" else np.abs(got - expected).max() < 1e-6
    audio = torch.from_numpy(rng.standard_normal(5000).astype(np.float32))
    padded = torch.nn.functional.pad(audio[None], (256, 256), mode="reflect")[0, : 9 * 512]
    expected = padded.square().unflatten(0, (9, 512)).mean(1).sqrt().numpy()
    assert np.abs(volume(audio.numpy(), 512) - expected).max() < 1e-6
