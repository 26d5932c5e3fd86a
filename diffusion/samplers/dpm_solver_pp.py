"""DPM-Solver++(2M): data prediction, multistep of order 2 (arXiv 2211.01095, algorithm 2)."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from diffusion.samplers.dpm_solver import FEW_STEPS
from diffusion.schedule import NoiseSchedule, PredictNoise, Track

if TYPE_CHECKING:
    from torch import Tensor


def dpm_solver_pp(
    predict_noise: PredictNoise, x: Tensor, schedule: NoiseSchedule, speedup: int, track: Track = iter
) -> Tensor:
    """As dpm_solver, with the predicted x_0 instead of the noise: steadier where steps are large."""
    intervals = list(pairwise(schedule.uniform(speedup)))
    previous: tuple[Tensor, float] | None = None  # data and step length of the last interval
    for index, (start, end) in enumerate(track(intervals), 1):
        here, there = schedule.at(start), schedule.at(end)
        h = there.log_snr - here.log_snr
        data = (x - here.sigma * predict_noise(x, start)) / here.alpha
        combined = data
        last_of_few = index == len(intervals) < FEW_STEPS
        if previous is not None and not last_of_few:
            older, h_older = previous
            combined = data + h / (2 * h_older) * (data - older)
        x = there.sigma / here.sigma * x - there.alpha * math.expm1(-h) * combined
        previous = data, h
    return x
