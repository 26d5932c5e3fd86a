"""What in a decoder has to be said another way before it can become a graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.onnx.export_istft import make_istft_exportable
from modules.onnx.export_source import ExportSource
from vdecoder.nsf_hifigan import NSFHiFiGAN
from vdecoder.nsf_istft import NSFISTFT
from vdecoder.snake_alias import RATIO, TAPS, SnakeAlias, Upsample
from vdecoder.source import SineSource


def make_exportable(decoder: NSFHiFiGAN | NSFISTFT) -> None:
    """Replace, in place, the source of a decoder and the filters of its snakes, or its spectra."""
    if isinstance(decoder, NSFISTFT):
        make_istft_exportable(decoder)
        return
    if isinstance(decoder.m_source, SineSource):
        setattr(decoder, "m_source", ExportSource(decoder.m_source))  # noqa: B010 (another type, on purpose)
    for snake in decoder.modules():
        if isinstance(snake, SnakeAlias) and isinstance(snake.upsample, Upsample):
            channels = len(snake.act.alpha)
            lowpass = snake.downsample.lowpass.filter
            setattr(snake, "upsample", ExportUpsample(channels, snake.upsample.filter))  # noqa: B010
            setattr(snake, "downsample", ExportDownsample(channels, lowpass))  # noqa: B010


class ExportUpsample(nn.Module):
    """Upsample with one filter a channel: ONNX needs to know the weights of a convolution."""

    taps: Tensor

    def __init__(self, channels: int, lowpass: Tensor) -> None:
        super().__init__()
        self.register_buffer("taps", (RATIO * lowpass).repeat(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, 2T]."""
        edge = TAPS // RATIO - 1
        x = repeat_ends(x, edge, edge)
        cut = edge * RATIO + (TAPS - RATIO) // 2
        return F.conv_transpose1d(x, self.taps, stride=RATIO, padding=cut, groups=len(self.taps))


class ExportDownsample(nn.Module):
    """Downsample with one filter a channel."""

    taps: Tensor

    def __init__(self, channels: int, lowpass: Tensor) -> None:
        super().__init__()
        self.register_buffer("taps", lowpass.repeat(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, 2T] -> [B, C, T]."""
        x = repeat_ends(x, TAPS // 2 - 1, TAPS // 2)
        return F.conv1d(x, self.taps, stride=RATIO, groups=len(self.taps))


def repeat_ends(x: Tensor, before: int, after: int) -> Tensor:
    """[B, C, T] with its first and last frame repeated."""
    return torch.cat([*[x[..., :1]] * before, x, *[x[..., -1:]] * after], dim=-1)
