"""NSF-HiFiGAN, the synthesiser's decoder: HiFi-GAN (Kong et al., 2020) with an excitation added at every stage."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.nn.noise import Noise
from modules.nn.weight_norm import WeightNormConv1d, WeightNormConvTranspose1d
from vdecoder.source import SineSource

SLOPE = 0.1  # of the leaky ReLUs, except the last, which has torch's default


class NSFHiFiGAN(nn.Module):
    """Latents and f0 to audio.

    Args:
        inter_channels: channels of the latents.
        resblock: "1" (two convolutions a step) or "2" (one).
        gin_channels: channels of the speaker condition.
        sampling_rate: Hz.
    """

    def __init__(
        self,
        inter_channels: int,
        resblock: str,
        resblock_kernel_sizes: Sequence[int],
        resblock_dilation_sizes: Sequence[Sequence[int]],
        upsample_rates: Sequence[int],
        upsample_initial_channel: int,
        upsample_kernel_sizes: Sequence[int],
        gin_channels: int,
        sampling_rate: int,
    ) -> None:
        super().__init__()
        # Channels before the first stage and after each.
        self.stage_channels = [upsample_initial_channel >> stage for stage in range(len(upsample_rates) + 1)]
        self.hop_length = math.prod(upsample_rates)
        self.blocks_a_stage = len(resblock_kernel_sizes)
        self.m_source = SineSource(sampling_rate, self.hop_length)
        self.conv_pre = WeightNormConv1d(inter_channels, upsample_initial_channel, 7, padding=3)
        self.ups, self.noise_convs, self.resblocks = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        remaining = self.hop_length  # samples of audio for one of the stage's
        for i, (rate, kernel_size) in enumerate(zip(upsample_rates, upsample_kernel_sizes, strict=True)):
            padding = (kernel_size - rate + 1) // 2
            before, channels = self.stage_channels[i : i + 2]
            self.ups.append(WeightNormConvTranspose1d(before, channels, kernel_size, rate, padding))
            remaining //= rate
            self.noise_convs.append(excitation_conv(channels, remaining))
            for size, dilations in zip(resblock_kernel_sizes, resblock_dilation_sizes, strict=True):
                self.resblocks.append(self.make_block(resblock, channels, size, dilations))
        self.conv_post = WeightNormConv1d(self.stage_channels[-1], 1, 7, padding=3)
        self.cond = nn.Conv1d(gin_channels, upsample_initial_channel, 1)

    def make_block(self, kind: str, channels: int, kernel_size: int, dilations: Sequence[int]) -> nn.Module:
        """One residual block."""
        block = ResBlock1 if kind == "1" else ResBlock2
        return block(channels, kernel_size, dilations)

    def forward(self, x: Tensor, f0: Tensor, g: Tensor, noise: Noise) -> Tensor:
        """Audio [B, 1, T * hop_length] in fp32, whatever the precision of the convolutions.

        Args:
            x: latents [B, inter, T].
            f0: [B, T] in Hz, 0 where unvoiced.
            g: speaker condition [B, gin, 1] or [B, gin, T].
            noise: start phases and noise of the excitation.
        """
        dtype = self.cond.weight.dtype
        excitation = self.m_source(f0, noise).transpose(1, 2).to(dtype)
        x = self.conv_pre(x.to(dtype)) + self.cond(g.to(dtype))
        for i, (up, noise_conv) in enumerate(zip(self.ups, self.noise_convs, strict=True)):
            x = up(self.activate(i, x)) + noise_conv(excitation)
            blocks = self.resblocks[i * self.blocks_a_stage : (i + 1) * self.blocks_a_stage]
            x = sum((block(x) for block in blocks[1:]), start=blocks[0](x)) / self.blocks_a_stage
        return torch.tanh(self.conv_post(self.activate_last(x)).float())

    def activate(self, stage: int, x: Tensor) -> Tensor:
        """The activation before upsampling ``stage``."""
        return F.leaky_relu(x, SLOPE)

    def activate_last(self, x: Tensor) -> Tensor:
        """The activation before the last convolution."""
        return F.leaky_relu(x)

    def set_precision(self, dtype: torch.dtype) -> None:
        """Compute the convolutions in ``dtype``; the excitation stays in fp32."""
        self.to(dtype)
        self.m_source.float()


def excitation_conv(channels: int, stride: int) -> nn.Conv1d:
    """Brings the excitation to the rate of a stage, ``stride`` samples to one."""
    if stride == 1:
        return nn.Conv1d(1, channels, 1)
    return nn.Conv1d(1, channels, 2 * stride, stride, padding=(stride + 1) // 2)


def same_conv(channels: int, kernel_size: int, dilation: int) -> WeightNormConv1d:
    """A convolution that keeps channels and length."""
    return WeightNormConv1d(
        channels, channels, kernel_size, padding=(kernel_size - 1) * dilation // 2, dilation=dilation
    )


class ResBlock1(nn.Module):
    """Residual steps of a dilated convolution and a plain one."""

    def __init__(self, channels: int, kernel_size: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(same_conv(channels, kernel_size, dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(same_conv(channels, kernel_size, 1) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, T]."""
        for i, (dilated, plain) in enumerate(zip(self.convs1, self.convs2, strict=True)):
            x = x + plain(self.activate(2 * i + 1, dilated(self.activate(2 * i, x))))
        return x

    def activate(self, index: int, x: Tensor) -> Tensor:
        """The activation before the convolution with this index, in the order of use."""
        return F.leaky_relu(x, SLOPE)


class ResBlock2(nn.Module):
    """Residual steps of one dilated convolution."""

    def __init__(self, channels: int, kernel_size: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(same_conv(channels, kernel_size, dilation) for dilation in dilations)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, T]."""
        for i, conv in enumerate(self.convs):
            x = x + conv(self.activate(i, x))
        return x

    def activate(self, index: int, x: Tensor) -> Tensor:
        """The activation before the convolution with this index."""
        return F.leaky_relu(x, SLOPE)
