"""Small parts that several networks share: masks, channel norm, depthwise-separable convolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.nn.weight_norm import WeightNormConv1d


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """``x`` [B, C, T] with padding zeroed by ``mask`` [B, 1, T]; no mask means there is no padding."""
    return x if mask is None else x * mask


class ChannelNorm(nn.Module):
    """Layer norm over the channels of [B, C, T]; its parameters are called gamma and beta."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.channels, self.eps = channels, eps
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        normal = F.layer_norm(x.transpose(1, 2), (self.channels,), self.gamma, self.beta, self.eps)
        return normal.transpose(1, 2)


class DepthwiseSeparableConv1d(nn.Module):
    """A convolution over time within each channel, then one over the channels within each frame."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, padding: int = 0, dilation: int = 1
    ) -> None:
        super().__init__()
        self.depth_conv = WeightNormConv1d(
            in_channels, in_channels, kernel_size, padding=padding, dilation=dilation, groups=in_channels
        )
        self.point_conv = WeightNormConv1d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.point_conv(self.depth_conv(x))
