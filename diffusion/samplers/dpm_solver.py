"""DPM-Solver in noise prediction, multistep of order 2 (arXiv 2206.00927, section 3; the multistep form is
algorithm 2 of arXiv 2211.01095 with noise in the place of data)."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from diffusion.schedule import NoiseSchedule, PredictNoise, Track

if TYPE_CHECKING:
    from torch import Tensor

FEW_STEPS = 10  # below this the last step is of order 1, which is steadier


def dpm_solver(
    predict_noise: PredictNoise, x: Tensor, schedule: NoiseSchedule, speedup: int, track: Track = iter
) -> Tensor:
    """Solve dx/dlambda exactly in its linear part and by a two-point Taylor expansion in the noise."""
    intervals = list(pairwise(schedule.uniform(speedup)))
    previous: tuple[Tensor, float] | None = None  # noise and step length of the last interval
    for index, (start, end) in enumerate(track(intervals), 1):
        here, there = schedule.at(start), schedule.at(end)
        h = there.log_snr - here.log_snr
        noise = predict_noise(x, start)
        combined = noise
        last_of_few = index == len(intervals) < FEW_STEPS
        if previous is not None and not last_of_few:
            older, h_older = previous
            combined = noise + h / (2 * h_older) * (noise - older)
        x = there.alpha / here.alpha * x - there.sigma * math.expm1(h) * combined
        previous = noise, h
    return x
