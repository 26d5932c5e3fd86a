"""The synthesiser's decoders: excitation, snake activation, NSF-HiFiGAN and its precisions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from modules.errors import UserError
from modules.nn.noise import Noise, RowNoise
from modules.nn.weight_norm import fold_weight_norm
from tests.parity import golden
from tests.synthesiser import GOLDENS, filled, golden_inputs, read_manifest, snr_db
from vdecoder import DecoderSizes, get_vocoder
from vdecoder.nsf_hifigan import NSFHiFiGAN
from vdecoder.snake_alias import SnakeAlias
from vdecoder.source import SineSource

CPU = torch.device("cpu")
RATE, HOP = 44100, 512
HIFIGANS = ("nsf-hifigan", "nsf-snake-hifigan")  # nsf-istft has tests/test_nsf_istft.py


# --- excitation ----------------------------------------------------------------------------------------------


def fundamental(f0: torch.Tensor) -> torch.Tensor:
    """The first harmonic of the excitation, [T * HOP]."""
    source = SineSource(RATE, HOP)
    return source.harmonics(f0[None], RowNoise(CPU, 1, [len(f0)]))[0, :, 0]


def test_excitation_has_the_frequency_of_f0_for_minutes() -> None:
    frames = 60 * RATE // HOP
    wave = fundamental(torch.full((frames,), 440.0)).double()
    time = torch.arange(1, len(wave) + 1, dtype=torch.float64) / RATE
    expected = 0.1 * torch.sin(2 * math.pi * 440 * time)
    last_second = slice(len(wave) - RATE, None)
    assert (wave - expected)[last_second].std() < 0.004  # 0.003 of it is the noise that belongs there


def test_excitation_runs_through_a_change_of_pitch_without_a_jump() -> None:
    f0 = torch.cat((torch.full((20,), 200.0), torch.full((20,), 300.0)))
    step = fundamental(f0).diff().abs().max()
    assert step < 0.1 * 2 * math.pi * 300 / RATE + 6 * 0.003 * 2**0.5


def test_unvoiced_frames_are_noise_and_voiced_ones_nearly_none() -> None:
    f0 = torch.cat((torch.zeros(40), torch.full((40,), 220.0)))
    excitation = SineSource(RATE, HOP).harmonics(f0[None], RowNoise(CPU, 1, [80]))[0]
    unvoiced, voiced = excitation.split(40 * HOP)
    assert unvoiced.std().item() == pytest.approx(0.1 / 3, rel=0.02)
    assert (unvoiced.double() ** 3).mean().abs() < 1e-6  # symmetric: no tone left
    assert voiced.std(0).numpy() == pytest.approx([0.1 / 2**0.5] * 9, rel=0.02)


def test_overtones_start_at_random_phases_and_the_fundamental_at_zero() -> None:
    class StartsOnly(Noise):
        def normal(self, shape: tuple[int, ...], time: int | None = None) -> torch.Tensor:
            return torch.zeros(shape)

    noise = StartsOnly(CPU, torch.Generator().manual_seed(2))
    phases = torch.rand(1, 9, generator=torch.Generator().manual_seed(2))[0]
    phases[0] = 0
    first = SineSource(RATE, HOP).harmonics(torch.full((1, 3), 100.0), noise)[0, 0]
    cycles = phases + 100 / RATE * torch.arange(1, 10)
    torch.testing.assert_close(first, 0.1 * torch.sin(2 * math.pi * cycles), atol=1e-6, rtol=1e-5)


# --- snake ---------------------------------------------------------------------------------------------------


def test_snake_equals_the_golden() -> None:
    meta, arrays, x = golden_inputs(GOLDENS / "a_snake_alias.npz")
    snake = SnakeAlias(6)
    snake.load_state_dict({"act.alpha": x["alpha"], "act.beta": x["beta"]}, strict=False)
    golden.compare(meta, arrays, "up_filter", snake.upsample.filter.numpy())
    golden.compare(meta, arrays, "down_filter", snake.downsample.lowpass.filter.numpy())
    golden.compare(meta, arrays, "upsampled", snake.upsample(x["x"]).numpy())
    golden.compare(meta, arrays, "y", snake(x["x"]).detach().numpy())


# --- decoders ------------------------------------------------------------------------------------------------


def decoder(name: str, initial_channels: int = 256, upsample_rates: tuple[int, ...] = (8, 8, 2, 2, 2)) -> NSFHiFiGAN:
    """A decoder with the pack's weights, folded."""
    sizes = [2 * rate for rate in upsample_rates]
    vocoder = get_vocoder(name)(
        DecoderSizes(32, "1", [3, 7, 11], [[1, 3, 5]] * 3, upsample_rates, initial_channels, sizes, 48, RATE)
    )
    manifest = read_manifest(GOLDENS / f"manifests/b_{'snake' if 'snake' in name else 'default'}.json")
    entries = [[key.removeprefix("dec."), *rest] for key, *rest in manifest["entries"] if key.startswith("dec.")]
    filled(vocoder, entries)
    fold_weight_norm(vocoder)
    return vocoder


def decode(vocoder: NSFHiFiGAN, frames: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x, g = torch.randn(1, 32, frames, generator=generator), torch.randn(1, 48, 1, generator=generator)
    f0 = torch.linspace(150, 500, frames)[None]
    with torch.inference_mode():
        return vocoder(x, f0, g, RowNoise(CPU, 1, [frames]))


@pytest.mark.parametrize("name", HIFIGANS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_within_45_db_of_fp32(name: str, dtype: torch.dtype) -> None:
    vocoder = decoder(name, 256 if name == "nsf-hifigan" else 64)
    frames = 20 if dtype == torch.bfloat16 else 4  # float16 is slow on CPUs
    reference = decode(vocoder, frames)
    assert reference.std() > 0.05
    vocoder.set_precision(dtype)
    assert vocoder.m_source.l_linear.weight.dtype == torch.float32
    audio = decode(vocoder, frames)
    assert audio.dtype == torch.float32
    assert snr_db(reference, audio) > 45
    vocoder.set_precision(torch.float32)
    assert {parameter.dtype for parameter in vocoder.parameters()} == {torch.float32}


def test_bf16_computes_the_wide_blocks_in_bf16() -> None:
    vocoder = decoder("nsf-hifigan")
    vocoder.set_precision(torch.bfloat16)
    in_bf16 = [block.convs1[0].weight.dtype == torch.bfloat16 for block in vocoder.resblocks]
    assert in_bf16 == [True] * 9 + [False] * 6  # 128, 64 and 32 channels, then 16 and 8


@pytest.mark.parametrize("name", HIFIGANS)
@pytest.mark.parametrize("kind", ["1", "2"])
def test_decoders_train_under_autocast(name: str, kind: str) -> None:
    vocoder = get_vocoder(name)(DecoderSizes(8, kind, [3, 5], [[1, 2], [1, 3]], [4, 2], 16, [8, 4], 6, RATE))
    with torch.autocast("cpu", torch.bfloat16):
        audio = vocoder(torch.randn(2, 8, 10), torch.full((2, 10), 220.0), torch.randn(2, 6, 1), Noise(CPU))
    assert audio.shape == (2, 1, 80)
    assert audio.dtype == torch.float32
    audio.square().mean().backward()
    for key, parameter in vocoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


def test_a_decoder_with_odd_rates_gives_whole_frames() -> None:
    assert decode(decoder("nsf-hifigan", 64, (5, 3, 2)), 11).shape == (1, 1, 11 * 30)


def test_an_unknown_vocoder_is_named_with_those_there_are() -> None:
    with pytest.raises(UserError, match="nsf-snake-hifigan") as error:
        get_vocoder("hifigan")
    assert "hifigan" in error.value.what


def test_the_excitation_reaches_the_audio() -> None:
    """A decoder that sings 220 Hz has its energy at multiples of 220 Hz."""
    vocoder = decoder("nsf-hifigan", 64)
    with torch.inference_mode():
        audio = vocoder(torch.zeros(1, 32, 172), torch.full((1, 172), 220.0), torch.zeros(1, 48, 1),
                        RowNoise(CPU, 1, [172]))[0, 0]  # fmt: skip
    power = np.abs(np.fft.rfft(audio.numpy() * np.hanning(len(audio)))) ** 2
    frequency = np.fft.rfftfreq(len(audio), 1 / RATE)
    near = np.abs(frequency / 220 - np.round(frequency / 220)) * 220 < 3
    heard = (frequency > 100) & (frequency < 2100)
    assert power[heard & near].sum() > 0.95 * power[heard].sum()
