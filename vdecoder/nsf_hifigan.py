"""NSF-HiFiGAN, the synthesiser's decoder: HiFi-GAN with the excitation of a neural source-filter model.

Kong et al., "HiFi-GAN", 2020, section 2.2: transposed convolutions, each followed by residual blocks of several kernel
sizes whose outputs are averaged. Wang et al., "Neural source-filter waveform models", 2019: harmonics of f0, here
brought to the rate of every stage and added there, so that the pitch is given and not learned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.nn.noise import Noise
from modules.nn.weight_norm import WeightNormConv1d, WeightNormConvTranspose1d
from vdecoder import DecoderSizes
from vdecoder.source import SineSource

SLOPE = 0.1  # of the leaky ReLUs, except the last, which has torch's default

# In bfloat16 only residual blocks at least this wide are computed, and only inside their branches. Each rounding of
# the main path costs as much as -54 dB of noise; done everywhere they add up to -39 dB, done so to -46 dB, and these
# blocks take three quarters of the time (measured on the default model with the parity pack's weights).
BF16_CHANNELS = 32


class NSFHiFiGAN(nn.Module):
    """Latents [B, inter, T] and f0 [B, T] to audio [B, 1, T * hop_length].

    What variants change are the hooks ``make_source``, ``make_block``, ``activate`` and ``activate_last``.
    """

    def __init__(self, sizes: DecoderSizes) -> None:
        super().__init__()
        rates, width = sizes.upsample_rates, sizes.upsample_initial_channel
        self.stage_channels = [width >> stage for stage in range(len(rates) + 1)]  # before the first stage, after each
        self.hop_length = math.prod(rates)
        self.blocks_a_stage = len(sizes.resblock_kernel_sizes)
        self.m_source = self.make_source(sizes.sampling_rate)
        # Optimizers count parameters in the order in which they are registered: here that of released models.
        self.noise_convs = nn.ModuleList()
        self.conv_pre = WeightNormConv1d(sizes.inter_channels, width, 7, padding=3)
        self.ups, self.resblocks = nn.ModuleList(), nn.ModuleList()
        remaining = self.hop_length  # samples of audio for one of the stage's
        for i, (rate, kernel_size) in enumerate(zip(rates, sizes.upsample_kernel_sizes, strict=True)):
            overlap = kernel_size - rate
            before, channels = self.stage_channels[i : i + 2]
            # Padding up to half the overlap gives ``rate`` samples for one, also where the overlap is odd.
            self.ups.append(
                WeightNormConvTranspose1d(before, channels, kernel_size, rate, (overlap + 1) // 2, overlap % 2)
            )
            remaining //= rate
            self.noise_convs.append(excitation_conv(channels, remaining))
            for size, dilations in zip(sizes.resblock_kernel_sizes, sizes.resblock_dilation_sizes, strict=True):
                self.resblocks.append(self.make_block(sizes.resblock, channels, size, dilations))
        self.conv_post = WeightNormConv1d(self.stage_channels[-1], 1, 7, padding=3)
        if sizes.gin_channels is not None:
            self.cond = nn.Conv1d(sizes.gin_channels, width, 1)

    def make_source(self, sampling_rate: int) -> SineSource:
        """The excitation."""
        return SineSource(sampling_rate, self.hop_length)

    def make_block(self, kind: str, channels: int, kernel_size: int, dilations: Sequence[int]) -> nn.Module:
        """One residual block."""
        block = ResBlock1 if kind == "1" else ResBlock2
        return block(channels, kernel_size, dilations)

    def forward(self, x: Tensor, f0: Tensor, g: Tensor | None, noise: Noise) -> Tensor:
        """Audio [B, 1, T * hop_length] in fp32, whatever the precision of the convolutions.

        Args:
            x: latents [B, inter, T].
            f0: [B, T] in Hz, 0 where unvoiced.
            g: speaker condition [B, gin, 1] or [B, gin, T]; None where the decoder has none.
            noise: start phases and noise of the excitation.
        """
        dtype = next(self.conv_post.parameters()).dtype  # of the main path; wide blocks alone may have another
        excitation = self.m_source(f0, noise).transpose(1, 2).to(dtype)
        x = self.conv_pre(x.to(dtype))
        if g is not None:
            x = x + self.cond(g.to(dtype))
        for i, (up, noise_conv) in enumerate(zip(self.ups, self.noise_convs, strict=True)):
            x = up(fitting(self.activate(i, x), up)) + noise_conv(excitation)
            blocks = self.resblocks[i * self.blocks_a_stage : (i + 1) * self.blocks_a_stage]
            x = sum((block(x) for block in blocks[1:]), start=blocks[0](x)) / self.blocks_a_stage
        return torch.tanh(self.conv_post(fitting(self.activate_last(x), self.conv_post)).float())

    def activate(self, stage: int, x: Tensor) -> Tensor:
        """The activation before upsampling ``stage``."""
        return F.leaky_relu(x, SLOPE)

    def activate_last(self, x: Tensor) -> Tensor:
        """The activation before the last convolution."""
        return F.leaky_relu(x)

    def set_precision(self, dtype: torch.dtype) -> None:
        """Compute the convolutions in ``dtype``, those of them that bear it; the excitation stays in fp32."""
        coarse = dtype == torch.bfloat16
        self.to(torch.float32 if coarse else dtype)
        self.m_source.float()
        if coarse:
            for block in self.resblocks:
                if isinstance(block, ResBlock) and block.channels >= BF16_CHANNELS:
                    block.set_precision(dtype)


def fitting(x: Tensor, conv: nn.Module) -> Tensor:
    """``x`` in the type of the convolution's parameters; as it is where autocast sees to that."""
    return x if torch.is_autocast_enabled(x.device.type) else x.to(next(conv.parameters()).dtype)


def excitation_conv(channels: int, stride: int) -> nn.Conv1d:
    """[B, 1, T * stride] -> [B, channels, T]: brings the excitation to the rate of a stage."""
    if stride == 1:
        return nn.Conv1d(1, channels, 1)
    return nn.Conv1d(1, channels, 2 * stride, stride, padding=(stride + 1) // 2)


def same_conv(channels: int, kernel_size: int, dilation: int) -> WeightNormConv1d:
    """A convolution that keeps channels and length."""
    return WeightNormConv1d(
        channels, channels, kernel_size, padding=(kernel_size - 1) * dilation // 2, dilation=dilation
    )


class ResBlock(nn.Module):
    """Residual steps, each an activation before each of its convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    @property
    def steps(self) -> list[tuple[nn.Module, ...]]:
        """The convolutions of each step."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, T]; only the branches are in the precision of the convolutions."""
        index = 0
        for step in self.steps:
            branch = x
            for conv in step:
                branch = conv(fitting(self.activate(index, branch), conv))
                index += 1
            x = x + branch
        return x

    def activate(self, index: int, x: Tensor) -> Tensor:
        """The activation before the convolution with this index, in the order of use."""
        return F.leaky_relu(x, SLOPE)

    def set_precision(self, dtype: torch.dtype) -> None:
        """Compute the convolutions in ``dtype``."""
        for step in self.steps:
            for conv in step:
                conv.to(dtype)


class ResBlock1(ResBlock):
    """Steps of a dilated convolution and a plain one."""

    def __init__(self, channels: int, kernel_size: int, dilations: Sequence[int]) -> None:
        super().__init__(channels)
        self.convs1 = nn.ModuleList(same_conv(channels, kernel_size, dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(same_conv(channels, kernel_size, 1) for _ in dilations)

    @property
    def steps(self) -> list[tuple[nn.Module, ...]]:
        return list(zip(self.convs1, self.convs2, strict=True))


class ResBlock2(ResBlock):
    """Steps of one dilated convolution."""

    def __init__(self, channels: int, kernel_size: int, dilations: Sequence[int]) -> None:
        super().__init__(channels)
        self.convs = nn.ModuleList(same_conv(channels, kernel_size, dilation) for dilation in dilations)

    @property
    def steps(self) -> list[tuple[nn.Module, ...]]:
        return [(conv,) for conv in self.convs]
