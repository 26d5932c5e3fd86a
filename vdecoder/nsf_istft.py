"""A source-filter decoder in the short-time spectrum, for voices that are trained and converted without a GPU.

Pulses at f0 and white noise go through filters that change from frame to frame, as in DDSP (Engel et al., 2020); the
filters come from ConvNeXt blocks and the spectrum goes back to audio by an inverse STFT, as in Vocos (Siuzdak, 2023).
Nothing is computed at the rate of the samples but the source itself, so a frame costs a tenth of NSF-HiFiGAN's, and
the pitch is that of the pulses from the first step of training on.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.errors import UserError
from modules.nn.noise import Noise
from vdecoder import DecoderSizes
from vdecoder.source import PulseSource

EXPANSION = 3  # of a block's width between its two layers
LAYER_SCALE = 0.1  # a block's share of the sum at the start
QUIET = -5.0  # log gain of both filters at the start: about the level of speech
MAX_LOG_GAIN = 5.0
F0_CENTRE = 5.3  # log of 200 Hz


class NSFISTFT(nn.Module):
    """Latents and f0 to audio.

    The sizes of NSF-HiFiGAN size this decoder too, but ``resblock`` is not used. Each rate but the last belongs to a
    stage of upsampling, before and after which blocks stand; the last one is the hop of the inverse STFT, and the last
    kernel its window. The residual blocks' kernel sizes are those of the depthwise convolutions, one for each run of
    blocks, with a dilation for each block; all blocks have ``upsample_initial_channel`` channels.

    Raises:
        UserError: the sizes do not fit together.
    """

    def __init__(self, sizes: DecoderSizes) -> None:
        super().__init__()
        _check_sizes(sizes)
        rates, kernel_sizes = sizes.upsample_rates, sizes.upsample_kernel_sizes
        channels = sizes.upsample_initial_channel
        self.hop_length = math.prod(rates)
        self.m_source = PulseSource(sizes.sampling_rate, self.hop_length)
        self.stft = ShortTimeSpectrum(kernel_sizes[-1], rates[-1])
        self.conv_pre = nn.Conv1d(sizes.inter_channels, channels, 7, padding=3)
        self.f0_pre = nn.Conv1d(1, channels, 7, padding=3)
        if sizes.gin_channels is not None:
            self.cond = nn.Conv1d(sizes.gin_channels, channels, 1)
        self.runs = nn.ModuleList(
            nn.Sequential(*(Block(channels, size, dilation) for dilation in dilations))
            for size, dilations in zip(sizes.resblock_kernel_sizes, sizes.resblock_dilation_sizes, strict=True)
        )
        self.ups = nn.ModuleList(
            nn.ConvTranspose1d(channels, channels, size, rate, (size - rate) // 2)
            for size, rate in zip(kernel_sizes[:-1], rates[:-1], strict=True)
        )
        self.norm = nn.LayerNorm(channels)
        self.filters = nn.Linear(channels, 3 * self.stft.bins)
        nn.init.normal_(self.filters.weight, std=0.01)
        nn.init.zeros_(self.filters.bias)

    def forward(self, x: Tensor, f0: Tensor, g: Tensor | None, noise: Noise) -> Tensor:
        """Audio [B, 1, T * hop_length] in fp32.

        Args:
            x: latents [B, inter, T].
            f0: [B, T] in Hz, 0 where unvoiced.
            g: speaker condition [B, gin, 1] or [B, gin, T]; None where the decoder has none.
            noise: the noise of the source.
        """
        pulses, hiss = self.m_source(f0, noise)  # each [B, T * hop_length]
        x = self.conv_pre(x) + self.f0_pre(_log_pitch(f0)[:, None])
        if g is not None:
            x = x + self.cond(g)
        x = self.runs[0](x)
        for up, run in zip(self.ups, self.runs[1:], strict=True):
            x = run(up(x))
        x = self.norm(x.transpose(1, 2))
        with torch.autocast(x.device.type, enabled=False):
            filters = self.filters(x.float()).transpose(1, 2)  # [B, 3 * bins, frames]
            return torch.tanh(self.stft.filtered(pulses, hiss, filters))[:, None]

    def set_precision(self, dtype: torch.dtype) -> None:
        """Stays in fp32: it is never what a conversion waits for, and log gains and phases bear no rounding."""


def _log_pitch(f0: Tensor) -> Tensor:
    """Octaves or so from 200 Hz, 0 where unvoiced."""
    return torch.where(f0 > 0, torch.log(f0.clamp(min=1.0)) - F0_CENTRE, torch.zeros_like(f0))


class Block(nn.Module):
    """A ConvNeXt block: mixes neighbouring frames channel by channel, then the channels of each frame.

    Args:
        channels: in and out.
        kernel_size: odd, frames.
        dilation: frames.
    """

    def __init__(self, channels: int, kernel_size: int, dilation: int) -> None:
        super().__init__()
        padding = (kernel_size - 1) * dilation // 2
        self.frames = nn.Conv1d(
            channels, channels, kernel_size, padding=padding, dilation=dilation, groups=channels
        )
        self.norm = nn.LayerNorm(channels)
        self.widen = nn.Linear(channels, EXPANSION * channels)
        self.narrow = nn.Linear(EXPANSION * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), LAYER_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, T]."""
        # LayerNorm and the pointwise layers want channels last: [B, T, C] between the two transposes.
        branch = self.norm(self.frames(x).transpose(1, 2))
        branch = self.narrow(F.gelu(self.widen(branch))) * self.scale
        return x + branch.transpose(1, 2)


class ShortTimeSpectrum(nn.Module):
    """To the short-time spectrum, through filters, and back.

    Args:
        n_fft: samples of the Hann window.
        hop: samples from frame to frame.
    """

    window: Tensor

    def __init__(self, n_fft: int, hop: int) -> None:
        super().__init__()
        self.n_fft, self.hop, self.bins = n_fft, hop, n_fft // 2 + 1
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    @property
    def edge(self) -> int:
        """Samples by which the first window begins before the audio, and the last one ends after it."""
        return (self.n_fft - self.hop) // 2

    def filtered(self, pulses: Tensor, hiss: Tensor, filters: Tensor) -> Tensor:
        """Audio [B, N] of two sources [B, N] and their filters.

        Args:
            filters: [B, 3 * bins, frames]: log gain and phase for the pulses, log gain for the noise; a frame for
                each hop of N.
        """
        gain, phase, noise_gain = gains(filters)
        voiced = self.spectrum(pulses) * torch.polar(gain, phase)
        return self.audio(voiced + self.spectrum(hiss) * noise_gain)

    def spectrum(self, audio: Tensor) -> Tensor:
        """[B, N] -> complex [B, bins, N / hop]."""
        padded = F.pad(audio, (self.edge, self.edge))
        return torch.stft(padded, self.n_fft, self.hop, window=self.window, center=False, return_complex=True)

    def audio(self, spectrum: Tensor) -> Tensor:
        """Complex [B, bins, frames] -> [B, frames * hop]: overlapping frames added, over what windows add up to."""
        frames = torch.fft.irfft(spectrum, self.n_fft, dim=1) * self.window[:, None]
        return self.overlap(frames) / self.overlap(self.window.square()[None, :, None].expand(1, -1, frames.shape[2]))

    def overlap(self, frames: Tensor) -> Tensor:
        """Add frames [B, n_fft, T] up at their places and cut the edges, [B, T * hop]."""
        length = (frames.shape[2] - 1) * self.hop + self.n_fft
        summed = F.fold(frames, (1, length), (1, self.n_fft), stride=(1, self.hop))[:, 0, 0]
        return summed[:, self.edge : length - self.edge]


def gains(filters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gain and phase for the pulses, and gain for the noise: each a third of [B, 3 * bins, frames]."""
    log_gain, phase, log_noise = filters.chunk(3, dim=1)
    gain, noise_gain = (torch.exp((x + QUIET).clamp(max=MAX_LOG_GAIN)) for x in (log_gain, log_noise))
    return gain, phase, noise_gain


def _check_sizes(sizes: DecoderSizes) -> None:
    kernel_sizes, dilations = sizes.resblock_kernel_sizes, sizes.resblock_dilation_sizes
    rates, up_kernels = sizes.upsample_rates, sizes.upsample_kernel_sizes
    where = "config.json: model"
    fix = "take the values of configs_template/config_micro_template.json"
    if not len(kernel_sizes) == len(dilations) == len(rates) == len(up_kernels):
        raise UserError(
            "nsf-istft needs as many resblock_kernel_sizes, resblock_dilation_sizes and upsample_kernel_sizes as "
            f"upsample_rates; there are {len(kernel_sizes)}, {len(dilations)}, {len(up_kernels)} and {len(rates)}",
            where,
            fix,
        )
    if any(size % 2 == 0 for size in kernel_sizes):
        raise UserError(f"resblock_kernel_sizes have to be odd, not {list(kernel_sizes)}", where, fix)
    if any((size - rate) % 2 or size < rate for size, rate in zip(up_kernels, rates, strict=True)):
        raise UserError(
            f"upsample_kernel_sizes {list(up_kernels)} have to exceed upsample_rates {list(rates)} by even numbers",
            where,
            fix,
        )
    if up_kernels[-1] < 2 * rates[-1]:
        raise UserError(
            f"the window {up_kernels[-1]} (last of upsample_kernel_sizes) has to be at least twice the hop {rates[-1]}",
            where,
            fix,
        )
