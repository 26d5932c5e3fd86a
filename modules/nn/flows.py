"""The normalising flow between the posterior's latents and the prior's: volume-preserving couplings.

Dinh et al., "Density estimation using Real NVP", 2017, in the mean-only form of VITS.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from modules.nn.convolutions import masked


class CouplingFlow(nn.Module):
    """``n_flows`` couplings, each followed by turning the channels round.

    Args:
        build: makes the network inside a coupling, called with (x [B, hidden, T], mask [B, 1, T], g).
        share: one network serves all couplings; it also has the name ``wn``, as in released models.
    """

    def __init__(
        self, channels: int, hidden_channels: int, n_flows: int, build: Callable[[], nn.Module], share: bool
    ) -> None:
        super().__init__()
        self.flows = nn.ModuleList()  # before wn: the order of released models, in which optimizers count parameters
        self.wn = build() if share else None
        for _ in range(n_flows):
            coupling = Coupling(channels, hidden_channels, build() if self.wn is None else self.wn)
            self.flows.extend((coupling, Flip()))

    def forward(self, x: Tensor, mask: Tensor | None, g: Tensor, reverse: bool = False) -> Tensor:
        """[B, C, T] -> [B, C, T]; ``reverse`` goes from the prior to the latents that the decoder reads."""
        for flow in reversed(self.flows) if reverse else self.flows:
            x = flow(x, mask, g, reverse)
        return x


class Coupling(nn.Module):
    """Shifts the second half of the channels by what a network makes of the first half."""

    def __init__(self, channels: int, hidden_channels: int, network: nn.Module) -> None:
        super().__init__()
        self.pre = nn.Conv1d(channels // 2, hidden_channels, 1)
        self.enc = network
        self.post = nn.Conv1d(hidden_channels, channels // 2, 1)
        for parameter in self.post.parameters():
            nn.init.zeros_(parameter)  # every coupling starts as the identity

    def forward(self, x: Tensor, mask: Tensor | None, g: Tensor, reverse: bool) -> Tensor:
        first, second = x.chunk(2, dim=1)
        shift = masked(self.post(self.enc(masked(self.pre(first), mask), mask, g)), mask)
        second = masked(second - shift if reverse else second + shift, mask)
        return torch.cat((first, second), dim=1)


class Flip(nn.Module):
    """Turns the channels round, so that the next coupling shifts the other half."""

    def forward(self, x: Tensor, mask: Tensor | None, g: Tensor, reverse: bool) -> Tensor:
        return x.flip(1)
