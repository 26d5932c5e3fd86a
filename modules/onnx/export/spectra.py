"""Spectra as convolutions with sines and cosines: every runtime has those, and few have a good STFT."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def spectrum_kernel(window: Tensor) -> Tensor:
    """Windowed cosines, then sines, [2 * bins, 1, n_fft]."""
    n_fft = len(window)
    bins = n_fft // 2 + 1
    turns = torch.outer(torch.arange(bins, dtype=torch.float64), torch.arange(n_fft, dtype=torch.float64)) / n_fft
    angles = 2 * math.pi * torch.remainder(turns, 1)
    waves = torch.cat([angles.cos(), -angles.sin()]) * window.double()
    return waves.float()[:, None]


def power_spectrum(audio: Tensor, kernel: Tensor, hop_length: int) -> Tensor:
    """[1, bins, frames] of audio [1, 1, n], not centred."""
    both = F.conv1d(audio, kernel, stride=hop_length)
    real, imaginary = both.chunk(2, dim=1)
    return real.square() + imaginary.square()


def reflect(audio: Tensor, left: int, right: int) -> Tensor:
    """Audio [1, 1, n] with its ends mirrored; n is more than either."""
    before, after = audio[:, :, 1 : left + 1].flip(2), audio[:, :, -right - 1 : -1].flip(2)
    return torch.cat([before, audio, after], dim=2)
