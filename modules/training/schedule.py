"""What follows from the step or the epoch alone: random seeds and learning rates."""

from __future__ import annotations

import numpy as np
import torch
from torch.optim import Optimizer


def seed_step(seed: int, rank: int, step: int) -> None:
    """Seed torch's random numbers for one training step of one rank.

    Each rank draws other numbers (slices, dropout), and a resumed run draws what an uninterrupted one would have
    drawn, with no generator state to save.
    """
    torch.manual_seed(int(np.random.SeedSequence([abs(seed), rank, step]).generate_state(1, np.uint64)[0]))


def exponential_rate(base: float, decay: float, epoch: int, warmup_epochs: int = 0) -> float:
    """The learning rate of ``epoch`` (from 1): a linear rise, then ``base * decay**(epoch - 1)``."""
    if epoch <= warmup_epochs:
        return base * epoch / warmup_epochs
    return base * decay ** (epoch - 1)


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Give every parameter group the learning rate ``rate``."""
    for group in optimizer.param_groups:
        group["lr"] = rate
