"""Weight-normalised convolutions that can be folded into plain ones.

The parameters have the names of released models, ``weight_g`` (length of each filter) and ``weight_v`` (its
direction), which torch.nn.utils.parametrizations.weight_norm no longer gives. Salimans & Kingma, 2016.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _WeightNorm(nn.Module):
    """Mixed in before a convolution: replaces ``weight`` by ``weight_g`` and ``weight_v`` until it is folded."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        direction = self._parameters.pop("weight")
        assert direction is not None
        length = torch.linalg.vector_norm(direction.detach().flatten(1), dim=1)
        self.weight_g = nn.Parameter(length.view(-1, *[1] * (direction.dim() - 1)))
        self.weight_v = nn.Parameter(direction.detach())

    @property
    def folded(self) -> bool:
        """Whether the weight is a plain parameter."""
        return "weight" in self._parameters

    def effective_weight(self) -> Tensor:
        """The weight that the convolution uses."""
        weight = self._parameters.get("weight")
        return weight if weight is not None else torch._weight_norm(self.weight_v, self.weight_g, 0)

    def fold(self) -> None:
        """Make the effective weight a plain parameter: same output, no norm to compute, no way to train on."""
        if self.folded:
            return
        with torch.no_grad():
            weight = self.effective_weight()
        self.register_parameter("weight", nn.Parameter(weight.detach().clone(), requires_grad=False))
        del self.weight_g, self.weight_v


class WeightNormConv1d(_WeightNorm, nn.Conv1d):
    """nn.Conv1d with a normalised weight."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.effective_weight(), self.bias)


class WeightNormConv2d(_WeightNorm, nn.Conv2d):
    """nn.Conv2d with a normalised weight."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.effective_weight(), self.bias)


class WeightNormConvTranspose1d(_WeightNorm, nn.ConvTranspose1d):
    """nn.ConvTranspose1d with a normalised weight; the norm runs over each input channel, as in released models."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        weight, padding = self.effective_weight(), cast("tuple[int, ...]", self.padding)
        return F.conv_transpose1d(
            x, weight, self.bias, self.stride, padding, self.output_padding, self.groups, self.dilation
        )


def fold_weight_norm(module: nn.Module) -> None:
    """Fold every weight-normalised convolution inside ``module``; parts that are shared are folded once."""
    for part in module.modules():
        if isinstance(part, _WeightNorm):
            part.fold()
