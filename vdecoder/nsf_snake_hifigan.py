"""NSF-HiFiGAN with the anti-aliased snake activations of BigVGAN (Lee et al., 2023) in place of the leaky ReLUs.

A periodic activation fits periodic signals also beyond the pitches of the training set (Ziyin et al., 2020).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vdecoder import DecoderSizes
from vdecoder.nsf_hifigan import NSFHiFiGAN, ResBlock, ResBlock1, ResBlock2
from vdecoder.snake_alias import SnakeAlias


class NSFSnakeHiFiGAN(NSFHiFiGAN):
    """As NSFHiFiGAN, of the same sizes."""

    def __init__(self, sizes: DecoderSizes) -> None:
        super().__init__(sizes)
        self.snakes = nn.ModuleList(SnakeAlias(channels) for channels in self.stage_channels[:-1])
        self.snake_post = SnakeAlias(self.stage_channels[-1])
        # The order of released models, in which optimizers count parameters: conv_post, snake_post, cond come last.
        for name in ("conv_post", "snake_post", "cond"):
            if name in self._modules:
                self._modules[name] = self._modules.pop(name)

    def make_block(self, kind: str, channels: int, kernel_size: int, dilations: Sequence[int]) -> nn.Module:
        block = SnakeResBlock1 if kind == "1" else SnakeResBlock2
        return block(channels, kernel_size, dilations)

    def activate(self, stage: int, x: Tensor) -> Tensor:
        return self.snakes[stage](x)

    def activate_last(self, x: Tensor) -> Tensor:
        return self.snake_post(x)

    def set_precision(self, dtype: torch.dtype) -> None:
        """float16 only inside the residual branches, bfloat16 nowhere.

        Snakes amplify rounding: float16 everywhere leaves 36 dB and bfloat16 in the branches 32 dB (the default
        model's sizes, with the parity pack's weights). The activations, most of the time here, stay in fp32.
        """
        self.float()
        if dtype == torch.float16:
            for block in self.resblocks:
                if isinstance(block, ResBlock):
                    block.set_precision(dtype)


class SnakeResBlock1(ResBlock1):
    """ResBlock1 with a snake before each convolution."""

    def __init__(self, channels: int, kernel_size: int, dilations: Sequence[int]) -> None:
        super().__init__(channels, kernel_size, dilations)
        self.activations = nn.ModuleList(SnakeAlias(channels) for _ in range(2 * len(dilations)))

    def activate(self, index: int, x: Tensor) -> Tensor:
        return self.activations[index](x)


class SnakeResBlock2(ResBlock2):
    """ResBlock2 with a snake before each convolution."""

    def __init__(self, channels: int, kernel_size: int, dilations: Sequence[int]) -> None:
        super().__init__(channels, kernel_size, dilations)
        self.activations = nn.ModuleList(SnakeAlias(channels) for _ in dilations)

    def activate(self, index: int, x: Tensor) -> Tensor:
        return self.activations[index](x)
