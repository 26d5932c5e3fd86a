"""The excitation of the decoder: harmonics of f0 where there is a pitch, noise elsewhere.

Wang et al., "Neural source-filter waveform models for statistical parametric speech synthesis", 2019: the source
module, with the paper's amplitude and noise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from modules.nn.noise import Noise

SINE_AMPLITUDE = 0.1
VOICED_NOISE = 0.003  # standard deviation of the noise under the harmonics
HARMONICS = 9  # the fundamental and 8 overtones


class SineSource(nn.Module):
    """Harmonics with random start phases, mixed to one channel by a learned layer. Always in fp32.

    Args:
        sampling_rate: Hz.
        hop_length: samples a frame.
    """

    def __init__(self, sampling_rate: int, hop_length: int) -> None:
        super().__init__()
        self.sampling_rate, self.hop_length = sampling_rate, hop_length
        self.l_linear = nn.Linear(HARMONICS, 1)

    def forward(self, f0: Tensor, noise: Noise) -> Tensor:
        """f0 [B, T] in Hz, held for a frame each, 0 where unvoiced -> excitation [B, T * hop_length, 1]."""
        with torch.autocast(f0.device.type, enabled=False):
            return torch.tanh(self.l_linear(self.harmonics(f0.float(), noise)))

    @torch.no_grad()
    def harmonics(self, f0: Tensor, noise: Noise) -> Tensor:
        """The harmonics and the noise before they are mixed, [B, T * hop_length, 9]."""
        b, t = f0.shape
        start = noise.uniform((b, HARMONICS))
        start[:, 0] = 0  # the fundamental begins at a zero crossing, its overtones anywhere
        step, phase = self.cycles(f0, start)
        # Within a frame the phase is a straight line, so only whole frames have to be summed up in float64.
        sample = torch.arange(1, self.hop_length + 1, device=f0.device)[:, None]
        waves = torch.addcmul(phase[:, :, None], step[:, :, None], sample.to(step.dtype))  # [B, T, hop, 9]
        waves.mul_(2 * math.pi).sin_().mul_(SINE_AMPLITUDE)
        voiced = (f0 > 0)[:, :, None, None]
        waves *= voiced
        level = torch.where(voiced, VOICED_NOISE, SINE_AMPLITUDE / 3)
        normal = noise.normal((b, t * self.hop_length, HARMONICS), time=1)
        waves += normal.view_as(waves).mul_(level)
        return waves.view(b, t * self.hop_length, HARMONICS)

    def cycles(self, f0: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """Cycles a sample and the phase before the first sample of each frame, both [B, T, 9]; start is [B, 9]."""
        step = self._cycles_a_sample(f0)
        return step, frame_phase(step, start, self.hop_length)

    def _cycles_a_sample(self, f0: Tensor) -> Tensor:
        overtones = torch.arange(1, HARMONICS + 1, device=f0.device)
        return torch.remainder(f0[:, :, None] * overtones / self.sampling_rate, 1)


class PulseSource(nn.Module):
    """Pulses at f0 with every harmonic up to the Nyquist frequency, and white noise; both of power 1. Always in fp32.

    Args:
        sampling_rate: Hz.
        hop_length: samples a frame.
    """

    def __init__(self, sampling_rate: int, hop_length: int) -> None:
        super().__init__()
        self.sampling_rate, self.hop_length = sampling_rate, hop_length

    @torch.no_grad()
    def forward(self, f0: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """f0 [B, T] in Hz, held for a frame each, 0 where unvoiced -> pulses and noise, each [B, T * hop_length]."""
        with torch.autocast(f0.device.type, enabled=False):
            hiss = noise.normal((len(f0), f0.shape[1] * self.hop_length), time=1)
            return self.pulses(f0.float()), hiss

    def pulses(self, f0: Tensor) -> Tensor:
        """Silence where f0 is 0."""
        step = torch.remainder(f0 / self.sampling_rate, 1)[:, :, None]  # cycles a sample, [B, T, 1]
        start = torch.zeros_like(step[:, 0])
        sample = torch.arange(1, self.hop_length + 1, device=f0.device)
        turns = frame_phase(step, start, self.hop_length) + step * sample  # [B, T, hop]
        harmonics = torch.floor(0.5 / step.clamp(min=1e-6))
        wave = 2 * torch.sqrt(step) * cosine_sum(turns, harmonics)
        return torch.where(f0[:, :, None] > 0, wave, 0.0).flatten(1)


def cosine_sum(turns: Tensor, count: Tensor) -> Tensor:
    """cos(x) + cos(2x) + ... + cos(count * x) at x = 2 pi turns, by the closed form of Dirichlet's kernel."""
    half = math.pi * torch.remainder(turns + 0.5, 1) - math.pi / 2  # x / 2 within (-pi / 2, pi / 2], near 0 at a pulse
    sine = torch.sin(half)
    near = sine.abs() < 1e-4
    ratio = torch.sin((2 * count + 1) * half) / torch.where(near, 1.0, sine)
    return (torch.where(near, 2 * count + 1, ratio) - 1) / 2


def frame_phase(step: Tensor, start: Tensor, hop_length: int) -> Tensor:
    """Phase before the first sample of each frame, in cycles, [B, T, H].

    Args:
        step: cycles a sample, constant within a frame, [B, T, H].
        start: cycles before the first frame, [B, H].
    """
    if step.device.type == "mps":  # has no float64
        return frame_phase(step.cpu(), start.cpu(), hop_length).to(step.device)
    advance = step.double() * hop_length
    phase = start[:, None].double() + advance.cumsum(dim=1) - advance
    return torch.remainder(phase, 1).float()
