"""The anti-aliased periodic activation of BigVGAN (Lee et al., 2023): up twice, snake, down twice."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

RATIO = 2
TAPS = 12  # of the low-pass filter, a Kaiser-windowed sinc


class SnakeAlias(nn.Module):
    """x + sin(alpha x)^2 / beta at twice the rate, so that the harmonics it makes do not fold back.

    In fp32 where autocast does not say otherwise: the argument of the sine may be large.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.act = Snake(channels)
        self.upsample = Upsample()
        self.downsample = Downsample()

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, T]."""
        return self.downsample(self.act(self.upsample(x.float())))


class Snake(nn.Module):
    """x + sin(exp(alpha) x)^2 / exp(beta), with alpha and beta for each channel (Ziyin et al., 2020).

    Both are kept as logarithms, as in BigVGAN, so that they stay positive.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, T]."""
        frequency = torch.exp(self.alpha)[:, None]
        height = 1 / (torch.exp(self.beta)[:, None] + 1e-9)
        wave = torch.sin(x * frequency)
        return torch.addcmul(x, wave * height, wave)


class Upsample(nn.Module):
    """Twice the rate: zeros between the samples, then the low-pass filter."""

    filter: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", kaiser_sinc())

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, 2T]."""
        channels = x.shape[1]
        edge = TAPS // RATIO - 1
        taps = (RATIO * self.filter).expand(channels, -1, -1)
        x = F.conv_transpose1d(F.pad(x, (edge, edge), mode="replicate"), taps, stride=RATIO, groups=channels)
        cut = edge * RATIO + (TAPS - RATIO) // 2  # what the padding became, and the filter's delay
        return x[..., cut:-cut]


class Downsample(nn.Module):
    """Half the rate: the low-pass filter at every second sample."""

    def __init__(self) -> None:
        super().__init__()
        self.lowpass = LowPass()

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, 2T] -> [B, C, T]."""
        return self.lowpass(x)


class LowPass(nn.Module):
    """The filter of Downsample; a module of its own only for its name in released models."""

    filter: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", kaiser_sinc())

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, 2T] -> [B, C, T]."""
        channels = x.shape[1]
        x = F.pad(x, (TAPS // 2 - 1, TAPS // 2), mode="replicate")
        return F.conv1d(x, self.filter.expand(channels, -1, -1), stride=RATIO, groups=channels)


def kaiser_sinc() -> Tensor:
    """Low-pass filter [1, 1, 12] for a change of rate by 2: cut-off at 1/4 of the rate, transition 0.6 of that octave.

    The window's beta follows from the attenuation (Kaiser, 1974).
    """
    cutoff, half_width = 0.5 / RATIO, 0.6 / RATIO
    attenuation = 2.285 * (TAPS // 2 - 1) * math.pi * 4 * half_width + 7.95
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    elif attenuation >= 21:
        beta = 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    else:
        beta = 0.0
    window = torch.kaiser_window(TAPS, periodic=False, beta=beta)
    time = torch.arange(TAPS) - TAPS / 2 + 0.5
    taps = 2 * cutoff * window * torch.sinc(2 * cutoff * time)
    return (taps / taps.sum()).view(1, 1, TAPS)
