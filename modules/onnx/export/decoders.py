"""What in a decoder has to be said another way before it can become a graph.

REWRITES knows parts by their class, wherever in a decoder they are. A new decoder needs an entry for each part that
ONNX has no node for (random draws, Fourier transforms, convolutions with weights that are computed), and none for the
rest.

ONNX has random nodes, but they give other numbers in every runtime and at every call. So noise is a hash of the
sample's index and of a seed, int64 [1], with which a source is called where it takes its noise otherwise: the same
graph, seed and f0 give the same audio everywhere, and torch can be given the same numbers to compare with.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.onnx.export.spectra import spectrum_kernel
from vdecoder.nsf_istft import ShortTimeSpectrum, gains
from vdecoder.snake_alias import RATIO, TAPS, SnakeAlias, Upsample
from vdecoder.source import HARMONICS, SINE_AMPLITUDE, VOICED_NOISE, PulseSource, SineSource

PRIME = (1 << 31) - 1  # of the hash's field; products of two numbers below it fit into int64
MULTIPLIERS = (1_103_515_245, 1_664_525, 747_796_405)  # from generators in wide use


def make_exportable(decoder: nn.Module) -> None:
    """Replace, in place, every part of a decoder that REWRITES knows, by its class or the nearest base."""
    for parent in list(decoder.modules()):
        if isinstance(parent, EXPORTED):
            continue  # what it was made from is inside
        for name, part in list(parent.named_children()):
            rewrite = next((REWRITES[kind] for kind in type(part).__mro__ if kind in REWRITES), None)
            if rewrite is not None:
                setattr(parent, name, rewrite(part))


class ExportSource(nn.Module):
    """Stands in for the source of a decoder; takes a seed where that takes its noise.

    The layer that mixes the nine harmonics also mixes their nine noises, and a weighted sum of normal numbers is
    one normal number as large as the weights' norm. So one is drawn where the source draws nine.

    Args:
        source: with its weights.
    """

    mix: Tensor
    spread: Tensor

    def __init__(self, source: SineSource) -> None:
        super().__init__()
        self.source = source
        weight = source.l_linear.weight.detach()[0]
        self.register_buffer("mix", weight[:, None].clone())
        self.register_buffer("spread", weight.norm())

    def forward(self, f0: Tensor, seed: Tensor) -> Tensor:
        """f0 [1, T] Hz and a seed, int64 [1] -> excitation [1, T * hop_length, 1]."""
        hop = self.source.hop_length
        t = f0.shape[1]
        step, phase = self.source.cycles(f0, start_phases(seed))
        sample = torch.arange(1, hop + 1, dtype=f0.dtype)[:, None]
        turns = phase[:, :, None] + step[:, :, None] * sample  # [1, T, hop, 9]
        voiced = (f0 > 0)[:, :, None]
        waves = torch.matmul(torch.sin(turns * (2 * math.pi)), self.mix * SINE_AMPLITUDE)[..., 0] * voiced
        level = torch.where(voiced, VOICED_NOISE, SINE_AMPLITUDE / 3) * self.spread
        noise = normal(torch.arange(t * hop), seed).view(1, t, hop)
        mixed = waves + level * noise + self.source.l_linear.bias
        return torch.tanh(mixed).reshape(1, t * hop, 1)


def start_phases(seed: Tensor) -> Tensor:
    """Where the harmonics start, in cycles, [1, 9]; the fundamental at 0."""
    index = torch.arange(HARMONICS)
    return (uniform(index, seed, key=2) * (index > 0))[None]


def normal(index: Tensor, seed: Tensor) -> Tensor:
    """Standard normal numbers of int64 indices, by the method of Box and Muller."""
    radius = torch.sqrt(-2 * torch.log(uniform(index, seed, key=0)))
    return radius * torch.cos(2 * math.pi * uniform(index, seed, key=1))


def uniform(index: Tensor, seed: Tensor, key: int) -> Tensor:
    """Numbers in (0, 1] of int64 indices; another key gives another stream.

    A polynomial over a prime field: what is quadratic mixes, where products and sums alone keep the distances between
    neighbours. fmod because nothing is negative, and what rounds towards minus infinity takes eight nodes in ONNX.
    """
    first, second, third = MULTIPLIERS
    start = torch.fmod(torch.fmod(seed, PRIME) * third, PRIME) + (key * first + 12_345)
    mixed = torch.fmod(index * second + start, PRIME)
    for multiplier in MULTIPLIERS:
        mixed = torch.fmod(mixed * torch.fmod(mixed + multiplier, PRIME) + multiplier, PRIME)
    return (mixed.to(torch.float32) + 1) / PRIME


class ExportPulseSource(nn.Module):
    """Stands in for the source; takes a seed where that takes its noise."""

    def __init__(self, source: PulseSource) -> None:
        super().__init__()
        self.source = source

    def forward(self, f0: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
        """f0 [1, T] Hz and a seed, int64 [1] -> pulses and noise, each [1, T * hop_length]."""
        hiss = normal(torch.arange(f0.shape[1] * self.source.hop_length), seed)
        return self.source.pulses(f0), hiss[None]


class ExportSpectrum(nn.Module):
    """Stands in for ShortTimeSpectrum, without complex numbers."""

    forward_kernel: Tensor
    inverse_kernel: Tensor
    envelope: Tensor

    def __init__(self, stft: ShortTimeSpectrum) -> None:
        super().__init__()
        self.hop, self.edge = stft.hop, stft.edge
        kernel = spectrum_kernel(stft.window)  # [2 * bins, 1, n_fft]
        twice = torch.full((stft.bins, 1, 1), 2.0)  # every bin but the first and the last stands for its mirror too
        twice[0] = twice[-1] = 1
        self.register_buffer("forward_kernel", kernel)
        self.register_buffer("inverse_kernel", kernel * twice.repeat(2, 1, 1) / stft.n_fft)
        self.register_buffer("envelope", stft.window.square()[None, None])

    def filtered(self, pulses: Tensor, hiss: Tensor, filters: Tensor) -> Tensor:
        """As that of ShortTimeSpectrum, [1, N]."""
        gain, phase, noise_gain = gains(filters)
        sources = F.pad(torch.cat([pulses, hiss])[:, None], (self.edge, self.edge))
        real, imaginary = F.conv1d(sources, self.forward_kernel, stride=self.hop).chunk(2, dim=1)  # [2, bins, frames]
        cosine, sine = gain * torch.cos(phase), gain * torch.sin(phase)
        summed = torch.cat(
            [
                real[:1] * cosine - imaginary[:1] * sine + real[1:] * noise_gain,
                real[:1] * sine + imaginary[:1] * cosine + imaginary[1:] * noise_gain,
            ],
            dim=1,
        )
        weight = torch.ones_like(summed[:, :1])
        audio = self._overlap(summed, self.inverse_kernel) / self._overlap(weight, self.envelope)
        return audio[:, 0]

    def _overlap(self, frames: Tensor, kernel: Tensor) -> Tensor:
        return F.conv_transpose1d(frames, kernel, stride=self.hop, padding=self.edge)


def rewrite_snake(snake: SnakeAlias) -> SnakeAlias:
    """The same snake with filters that say how many channels they have."""
    if isinstance(snake.upsample, Upsample):
        channels = len(snake.act.alpha)
        lowpass = snake.downsample.lowpass.filter
        setattr(snake, "upsample", ExportUpsample(channels, snake.upsample.filter))  # noqa: B010 (another type)
        setattr(snake, "downsample", ExportDownsample(channels, lowpass))  # noqa: B010
    return snake


class ExportUpsample(nn.Module):
    """Upsample with one filter a channel: ONNX needs to know the weights of a convolution."""

    taps: Tensor

    def __init__(self, channels: int, lowpass: Tensor) -> None:
        super().__init__()
        self.register_buffer("taps", (RATIO * lowpass).repeat(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, 2T]."""
        edge = TAPS // RATIO - 1
        x = repeat_ends(x, edge, edge)
        cut = edge * RATIO + (TAPS - RATIO) // 2
        return F.conv_transpose1d(x, self.taps, stride=RATIO, padding=cut, groups=len(self.taps))


class ExportDownsample(nn.Module):
    """Downsample with one filter a channel."""

    taps: Tensor

    def __init__(self, channels: int, lowpass: Tensor) -> None:
        super().__init__()
        self.register_buffer("taps", lowpass.repeat(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, 2T] -> [B, C, T]."""
        x = repeat_ends(x, TAPS // 2 - 1, TAPS // 2)
        return F.conv1d(x, self.taps, stride=RATIO, groups=len(self.taps))


def repeat_ends(x: Tensor, before: int, after: int) -> Tensor:
    """[B, C, T] with its first and last frame repeated."""
    return torch.cat([*[x[..., :1]] * before, x, *[x[..., -1:]] * after], dim=-1)


EXPORTED = (ExportSource, ExportPulseSource, ExportSpectrum, ExportUpsample, ExportDownsample)
REWRITES: dict[type[nn.Module], Callable[..., nn.Module]] = {
    SineSource: ExportSource,
    PulseSource: ExportPulseSource,
    ShortTimeSpectrum: ExportSpectrum,
    SnakeAlias: rewrite_snake,
}
