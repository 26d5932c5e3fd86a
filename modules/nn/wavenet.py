"""WaveNet blocks: gated convolutions over time with residual and skip connections (van den Oord et al., 2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modules.nn.attention import gated
from modules.nn.convolutions import DepthwiseSeparableConv1d, masked
from modules.nn.weight_norm import WeightNormConv1d


class WaveNet(nn.Module):
    """A stack of gated convolutions, each conditioned on ``g``; not causal.

    Args:
        depthwise: depthwise-separable convolutions in the gates (the tiny models).
    """

    def __init__(
        self,
        hidden_channels: int,
        kernel_size: int,
        n_layers: int,
        gin_channels: int,
        dilation_rate: int = 1,
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        self.hidden_channels = hidden_channels
        conv = DepthwiseSeparableConv1d if depthwise else WeightNormConv1d
        self.in_layers = nn.ModuleList()
        self.res_skip_layers = nn.ModuleList()
        for i in range(n_layers):
            dilation = dilation_rate**i
            padding = (kernel_size - 1) * dilation // 2
            self.in_layers.append(
                conv(hidden_channels, 2 * hidden_channels, kernel_size, padding=padding, dilation=dilation)
            )
            last = i == n_layers - 1  # has a skip output and no residual
            self.res_skip_layers.append(WeightNormConv1d(hidden_channels, (1 if last else 2) * hidden_channels, 1))
        self.cond_layer = WeightNormConv1d(gin_channels, 2 * hidden_channels * n_layers, 1)

    def forward(self, x: Tensor, mask: Tensor | None, g: Tensor) -> Tensor:
        """[B, hidden, T] -> [B, hidden, T].

        Args:
            mask: [B, 1, T], 1 where there is a frame.
            g: condition [B, gin, 1] or [B, gin, T].
        """
        *layers, last = zip(
            self.in_layers,
            self.res_skip_layers,
            self.cond_layer(g).chunk(len(self.in_layers), dim=1),
            strict=True,
        )
        output: Tensor | None = None
        for in_layer, res_skip, condition in layers:
            residual, skip = res_skip(gated(in_layer(x) + condition)).chunk(2, dim=1)
            x = masked(x + residual, mask)
            output = skip if output is None else output + skip
        in_layer, res_skip, condition = last
        skip = res_skip(gated(in_layer(x) + condition))
        return masked(skip if output is None else output + skip, mask)


def statistics(projected: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log standard deviation, each [B, C, T], out of [B, 2C, T]; in fp32 whatever the autocast."""
    mean, log_std = projected.float().chunk(2, dim=1)
    return mean, log_std


def sample(mean: Tensor, log_std: Tensor, noise: Tensor, noise_scale: float = 1.0) -> Tensor:
    """A draw from the normal distribution, with its standard deviation scaled by ``noise_scale``."""
    return mean + noise * torch.exp(log_std) * noise_scale
