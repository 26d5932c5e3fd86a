"""What in a decoder has to be said another way before it can become a graph.

REWRITES knows parts by their class, wherever in a decoder they are. A new decoder needs an entry for each part that
ONNX has no node for (random draws, Fourier transforms, convolutions with weights that are computed), and none for the
rest. Its source is called with a seed, int64 [1], where it takes its noise otherwise; see export_source.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.onnx.export_istft import ExportPulseSource, ExportSpectrum
from modules.onnx.export_source import ExportSource
from vdecoder.nsf_istft import ShortTimeSpectrum
from vdecoder.snake_alias import RATIO, TAPS, SnakeAlias, Upsample
from vdecoder.source import PulseSource, SineSource


def make_exportable(decoder: nn.Module) -> None:
    """Replace, in place, every part of a decoder that REWRITES knows, by its class or the nearest base."""
    for parent in list(decoder.modules()):
        if isinstance(parent, EXPORTED):
            continue  # what it was made from is inside
        for name, part in list(parent.named_children()):
            rewrite = next((REWRITES[kind] for kind in type(part).__mro__ if kind in REWRITES), None)
            if rewrite is not None:
                setattr(parent, name, rewrite(part))


def rewrite_snake(snake: SnakeAlias) -> SnakeAlias:
    """The same snake with filters that say how many channels they have."""
    if isinstance(snake.upsample, Upsample):
        channels = len(snake.act.alpha)
        lowpass = snake.downsample.lowpass.filter
        setattr(snake, "upsample", ExportUpsample(channels, snake.upsample.filter))  # noqa: B010 (another type)
        setattr(snake, "downsample", ExportDownsample(channels, lowpass))  # noqa: B010
    return snake


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


EXPORTED = (ExportSource, ExportPulseSource, ExportSpectrum, ExportUpsample, ExportDownsample)
REWRITES: dict[type[nn.Module], Callable[..., nn.Module]] = {
    SineSource: ExportSource,
    PulseSource: ExportPulseSource,
    ShortTimeSpectrum: ExportSpectrum,
    SnakeAlias: rewrite_snake,
}
