"""Random draws for a batch, never from a hidden generator where the result must repeat."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Noise:
    """Draws for a whole batch at once, as training does.

    Args:
        device: where the numbers are used.
        generator: where the numbers come from, on any device; None is torch's global generator of ``device``.
    """

    def __init__(self, device: torch.device, generator: torch.Generator | None = None) -> None:
        self.device, self.generator = device, generator
        self._source = device if generator is None else generator.device

    def normal(self, shape: tuple[int, ...], time: int | None = None) -> Tensor:
        """Standard normal values; axis ``time`` of the shape runs along the frames."""
        return torch.randn(shape, generator=self.generator, device=self._source).to(self.device)

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        """Uniform values in [0, 1)."""
        return torch.rand(shape, generator=self.generator, device=self._source).to(self.device)


class RowNoise(Noise):
    """Draws for each row of a batch as that row would draw alone, so that batching changes no sound.

    Args:
        seed: of every row's own generator.
        lengths: frames of each row; rows shorter than the batch draw for their own length, zeros follow.
    """

    def __init__(self, device: torch.device, seed: int, lengths: list[int]) -> None:
        super().__init__(device)
        self.lengths = lengths
        self.generators = [torch.Generator(device=device).manual_seed(seed) for _ in lengths]

    def normal(self, shape: tuple[int, ...], time: int | None = None) -> Tensor:
        longest = max(self.lengths)

        def draw(row: int) -> Tensor:
            size = list(shape[1:])
            if time is not None:
                size[time - 1] = size[time - 1] // longest * self.lengths[row]
            return torch.randn(size, generator=self.generators[row], device=self.device)

        return self._stack(draw, shape)

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        return self._stack(lambda row: torch.rand(shape[1:], generator=self.generators[row], device=self.device), shape)

    def _stack(self, draw: Callable[[int], Tensor], shape: tuple[int, ...]) -> Tensor:
        if len(self.lengths) == 1:
            return draw(0)[None]
        batch = torch.zeros(shape, device=self.device)
        for row in range(shape[0]):
            values = draw(row)
            batch[row][tuple(slice(size) for size in values.shape)] = values
        return batch
