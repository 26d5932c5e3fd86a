"""The parts of the decoder nsf-istft as a graph can have them: its noise by a hash, its spectra by convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.onnx.export_source import normal
from modules.onnx.spectra import spectrum_kernel
from vdecoder.nsf_istft import ShortTimeSpectrum, gains
from vdecoder.source import PulseSource


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
