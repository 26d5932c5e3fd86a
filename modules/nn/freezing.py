"""Leaving a network out of a backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen(module: nn.Module) -> Iterator[nn.Module]:
    """Gradients pass through ``module`` but none is computed for its parameters.

    For the generator's step: the discriminators' weight gradients would be thrown away, and under DDP reduced
    over all processes first. Call the module inside, not its DDP wrapper. Backward may follow outside.
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield module
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
