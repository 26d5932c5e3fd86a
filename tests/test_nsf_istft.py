"""The decoder nsf-istft: its pulses, its spectra, and what filters make of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import models
from modules.errors import UserError
from modules.nn.noise import Noise, RowNoise
from modules.onnx.export.generator import generator_graph
from modules.onnx.export.graph import export
from tests.onnx_tools import run
from tests.synthesiser import ISTFT_SIZES, small_synthesiser, song
from tests.tiny_voice import tiny_config
from vdecoder import DecoderSizes
from vdecoder.nsf_istft import NSFISTFT, ShortTimeSpectrum
from vdecoder.source import PulseSource, cosine_sum

CPU = torch.device("cpu")
RATE, HOP = 44100, 512


def decoder(**changes: Any) -> NSFISTFT:
    torch.manual_seed(0)
    sizes = {**ISTFT_SIZES, **changes}
    del sizes["vocoder_name"]
    return NSFISTFT(DecoderSizes(inter_channels=16, resblock="1", gin_channels=8, sampling_rate=RATE, **sizes))


def decode(vocoder: NSFISTFT, f0: torch.Tensor, seed: int = 3) -> torch.Tensor:
    """Audio [T * HOP] of latents that are the same in every frame."""
    generator = torch.Generator().manual_seed(1)
    x, g = torch.randn(1, 16, 1, generator=generator), torch.randn(1, 8, 1, generator=generator)
    noise = RowNoise(CPU, seed, [len(f0)])
    with torch.inference_mode():
        return vocoder(x.expand(-1, -1, len(f0)), f0[None], g, noise)[0, 0]


def test_the_closed_form_is_the_sum_of_cosines() -> None:
    turns = torch.cat((torch.linspace(-1.3, 1.3, 997), torch.tensor([0.0, 1.0, 1e-6])))
    brute = sum(torch.cos(2 * math.pi * k * turns.double()) for k in range(1, 31))
    torch.testing.assert_close(cosine_sum(turns, torch.tensor(30.0)).double(), brute, atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("f0", [65.0, 220.0, 987.0])
def test_pulses_have_all_harmonics_at_one_level_and_nothing_between(f0: float) -> None:
    pulses = PulseSource(RATE, HOP).pulses(torch.full((1, 180), f0))[0].double()
    second = pulses[: RATE]  # whole hertz: every harmonic falls on a bin
    power = torch.fft.rfft(second).abs().square() / RATE
    bins = torch.arange(1, int(RATE / 2 // f0) + 1) * round(f0)
    level = power[bins]
    assert (level.max() / level.min()).item() == pytest.approx(1, abs=0.01)
    assert power[bins].sum() / power.sum() > 0.9999
    assert pulses.square().mean().item() == pytest.approx(1, rel=0.02)  # as loud as the noise beside them


def test_pulses_keep_their_pitch_for_minutes_and_rest_where_unvoiced() -> None:
    f0 = torch.full((1, 60 * RATE // HOP), 440.0)
    f0[:, :100] = 0
    pulses = PulseSource(RATE, HOP).pulses(f0)[0]
    assert not pulses[: 100 * HOP].any()
    last = pulses[-RATE:].double()
    spectrum = torch.fft.rfft(last * torch.hann_window(RATE, dtype=torch.float64)).abs()
    assert spectrum[:600].argmax().item() == 440


def test_noise_is_drawn_for_each_row_as_it_would_be_alone() -> None:
    vocoder = decoder()
    f0 = torch.stack((torch.full((12,), 200.0), torch.full((12,), 300.0)))
    x, g = torch.randn(2, 16, 12), torch.randn(2, 8, 1)
    with torch.inference_mode():
        both = vocoder(x, f0, g, RowNoise(CPU, 5, [12, 12]))
        alone = vocoder(x[1:], f0[1:], g[1:], RowNoise(CPU, 5, [12]))
    torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("n_fft", "hop"), [(1024, 256), (512, 256), (1024, 128)])
def test_spectrum_and_back_is_the_same_audio_up_to_its_ends(n_fft: int, hop: int) -> None:
    stft = ShortTimeSpectrum(n_fft, hop)
    audio = torch.randn(2, 20 * hop)
    spectrum = stft.spectrum(audio)
    assert spectrum.shape == (2, n_fft // 2 + 1, 20)
    torch.testing.assert_close(stft.audio(spectrum), audio, atol=1e-5, rtol=1e-4)


def test_filters_set_the_level_of_each_band_of_pulses_and_noise() -> None:
    stft = ShortTimeSpectrum(1024, 256)
    noise = torch.randn(2, 1, 200 * 256, generator=torch.Generator().manual_seed(0))
    filters = torch.full((1, 3 * stft.bins, 200), -30.0)  # nothing
    filters[:, stft.bins : 2 * stft.bins] = 0  # phases
    filters[:, 100:200] = 5.0  # of the pulses: bins 100 to 199 at a gain of 1
    audio = stft.filtered(noise[0], noise[1], filters)
    kept = stft.spectrum(audio).abs().square().mean(dim=(0, 2))
    source = stft.spectrum(noise[0]).abs().square().mean(dim=(0, 2))
    assert (kept[105:195] / source[105:195]).numpy() == pytest.approx(1.0, rel=0.1)
    assert kept[:95].max() < 1e-3 * source.mean() and kept[205:].max() < 1e-3 * source.mean()


def test_a_constant_song_is_a_tone_of_its_f0_as_long_as_its_frames() -> None:
    audio = decode(decoder(), torch.full((100,), 350.0))
    assert audio.shape == (100 * HOP,)
    spectrum = torch.fft.rfft((audio[: RATE] * torch.hann_window(RATE)).double()).abs()
    peaks = spectrum[:2000].topk(12).indices
    assert all(min(int(peak) % 350, -int(peak) % 350) <= 2 for peak in peaks)


def tone_at_32_khz(vocoder_name: str) -> tuple[models.SynthesizerTrn, torch.Tensor]:
    """A model whose config says 32 kHz, and a second of a note of 330 Hz by it."""
    sizes = ISTFT_SIZES if vocoder_name == "nsf-istft" else {"vocoder_name": vocoder_name}
    config = tiny_config(model=sizes)
    config.data.sampling_rate = 32000
    torch.manual_seed(1)
    model = models.prepare_for_inference(models.build(config, with_posterior=False), "cpu", "fp32")
    return model, torch.full((1, 63), 330.0)


def loudest(audio: torch.Tensor, rate: int = 32000) -> float:
    """Hz of the strongest partial under 500 Hz."""
    second = audio.flatten()[:rate].double()
    return float(torch.fft.rfft(second * torch.hann_window(rate)).abs()[50:500].argmax()) + 50


@pytest.mark.parametrize("vocoder_name", ["nsf-hifigan", "nsf-snake-hifigan"])
def test_the_excitation_has_the_rate_of_the_config(vocoder_name: str) -> None:
    model, f0 = tone_at_32_khz(vocoder_name)
    waves = model.dec.m_source.harmonics(f0, Noise(CPU))
    assert loudest(waves[..., 0]) == pytest.approx(330, abs=1)


def test_a_model_of_another_rate_sings_at_pitch_and_so_does_its_graph(tmp_path: Path) -> None:
    model, f0 = tone_at_32_khz("nsf-istft")
    frames = f0.shape[1]
    units, uv, noise = torch.zeros(1, frames, 16), torch.ones(1, frames), torch.zeros(1, 16, frames)
    audio, _ = model.infer(units.mT, f0, uv, torch.tensor([0]))
    assert loudest(audio) == pytest.approx(330, abs=1)
    export(generator_graph(model), tmp_path / "model.onnx")
    sid = torch.tensor([[1.0, 0.0]]).expand(frames, -1)
    mel2ph = torch.arange(1, frames + 1)[None]
    sung = run(tmp_path / "model.onnx", c=units, f0=f0, mel2ph=mel2ph, uv=uv, noise=noise, sid=sid)
    assert loudest(torch.from_numpy(sung)) == pytest.approx(330, abs=1)


def test_every_parameter_learns() -> None:
    vocoder = decoder()
    x, g = torch.randn(2, 16, 20), torch.randn(2, 8, 1)
    vocoder(x, torch.full((2, 20), 200.0), g, Noise(CPU)).square().mean().backward()
    without = [name for name, p in vocoder.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert without == []


def test_it_trains_under_autocast_in_fp32_where_rounding_would_be_heard() -> None:
    vocoder = decoder()
    with torch.autocast("cpu", torch.bfloat16):
        audio = vocoder(torch.randn(2, 16, 10), torch.full((2, 10), 220.0), torch.randn(2, 8, 1), Noise(CPU))
    assert audio.dtype == torch.float32
    audio.square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in vocoder.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_conversions_in_half_precision_leave_it_in_fp32(dtype: torch.dtype) -> None:
    vocoder = decoder()
    f0 = torch.full((20,), 220.0)
    before = decode(vocoder, f0)
    vocoder.set_precision(dtype)
    assert torch.equal(decode(vocoder, f0), before)


def test_synthesiser_sings_with_it_and_repeats_itself() -> None:
    model = small_synthesiser("default", **ISTFT_SIZES)
    x = song(30, model.ssl_dim)
    first, second = (model.infer(x["c"], x["f0"], x["uv"], x["g"])[0] for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (1, 1, 30 * HOP) and first.isfinite().all() and first.std() > 1e-4


@pytest.mark.parametrize(
    "changes",
    [
        {"upsample_rates": [512]},
        {"resblock_kernel_sizes": [7, 4]},
        {"upsample_kernel_sizes": [5, 1024]},
        {"upsample_kernel_sizes": [4, 258]},
        {"resblock_dilation_sizes": [[1, 3, 5]] * 3},
    ],
)
def test_sizes_that_do_not_fit_are_named(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"resblock|upsample"):
        decoder(**changes)
