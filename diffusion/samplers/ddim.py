"""DDIM without noise (arXiv 2010.02502)."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from diffusion.schedule import NoiseSchedule, PredictNoise, Track

if TYPE_CHECKING:
    from torch import Tensor


def ddim(predict_noise: PredictNoise, x: Tensor, schedule: NoiseSchedule, speedup: int, track: Track = iter) -> Tensor:
    """Equation 12 with sigma = 0, over every stride-th step."""
    for step, target in track(list(pairwise(schedule.strided(speedup)))):
        x = transfer(x, predict_noise(x, step), schedule, step, target)
    return x


def transfer(x: Tensor, noise: Tensor, schedule: NoiseSchedule, step: int, target: int) -> Tensor:
    """Predict x_0 from x at ``step``, and add the same noise again as far as ``target`` has it."""
    here, there = schedule.at(step), schedule.at(target)
    x_0 = (x - here.sigma * noise) / here.alpha
    return there.alpha * x_0 + there.sigma * noise
