"""The excitation of the decoders as a graph can compute it: without a generator of random numbers.

ONNX has random nodes, but they give other numbers in every runtime and at every call. So the noise is a hash of the
sample's index and of a seed: the same graph, seed and f0 give the same audio everywhere, and torch can be given the
same numbers to compare with.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vdecoder.source import HARMONICS, SINE_AMPLITUDE, VOICED_NOISE, SineSource

PRIME = (1 << 31) - 1  # of the hash's field; products of two numbers below it fit into int64
MULTIPLIERS = (1_103_515_245, 1_664_525, 747_796_405)  # from generators in wide use


class ExportSource(nn.Module):
    """Stands in for the source of a decoder; takes a seed where that takes its noise.

    The layer that mixes the nine harmonics also mixes their nine noises, and a weighted sum of normal numbers is
    one normal number as large as the weights' norm. So one is drawn where the source draws nine.

    Args:
        source: with its weights.
    """

    def __init__(self, source: SineSource) -> None:
        super().__init__()
        self.source = source
        weight = source.l_linear.weight.detach()[0]
        self.register_buffer("mix", weight[:, None].clone())
        self.register_buffer("spread", weight.norm())

    mix: Tensor
    spread: Tensor

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
