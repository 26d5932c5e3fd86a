"""UniPC of order 2 in data prediction, with B(h) = e^h - 1, "bh2" (arXiv 2302.04867, algorithms 5 to 8)."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from diffusion.schedule import NoiseSchedule, PredictNoise, Track

if TYPE_CHECKING:
    from torch import Tensor


def unipc(predict_noise: PredictNoise, x: Tensor, schedule: NoiseSchedule, speedup: int, track: Track = iter) -> Tensor:
    """UniP predicts x at the next step; UniC corrects it with the data predicted there, at no extra evaluation.

    The first and the last interval are of order 1, and the last one is not corrected.
    """
    intervals = list(pairwise(schedule.uniform(speedup)))
    first = schedule.at(intervals[0][0])
    data = (x - first.sigma * predict_noise(x, intervals[0][0])) / first.alpha
    previous: tuple[Tensor, float] | None = None  # data and step length of the last interval
    for index, (start, end) in enumerate(track(intervals), 1):
        here, there = schedule.at(start), schedule.at(end)
        h = there.log_snr - here.log_snr
        b_h = there.alpha * math.expm1(-h)
        linear = there.sigma / here.sigma * x - b_h * data
        last = index == len(intervals)
        ratio, difference = 0.0, None  # r_1 and D_1 / r_1 of the paper, which reach one interval back
        if previous is not None and not last:
            older, h_older = previous
            ratio = -h_older / h
            difference = (older - data) / ratio
        x = linear if difference is None else linear - b_h * 0.5 * difference
        if last:
            break
        ahead = (x - there.sigma * predict_noise(x, end)) / there.alpha
        weight_back, weight_ahead = _corrector_weights(-h, ratio)
        correction = weight_ahead * (ahead - data)
        if difference is not None:
            correction = correction + weight_back * difference
        x = linear - b_h * correction
        previous, data = (data, h), ahead
    return x


def _corrector_weights(h: float, ratio: float) -> tuple[float, float]:
    """Weights of the difference behind and of the one ahead (equation 9, with phi_2 and phi_3 of data prediction).

    With nothing behind (``ratio`` 0) the corrector of order 1 remains, whose weight is one half.
    """
    if ratio == 0:
        return 0.0, 0.5
    b_h = math.expm1(h)
    phi_2 = b_h / h - 1
    phi_3 = phi_2 / h - 1 / 2
    first, second = phi_2 / b_h, 2 * phi_3 / b_h
    # The two equations w_back + w_ahead = first and ratio w_back + w_ahead = second.
    weight_back = (first - second) / (1 - ratio)
    return weight_back, first - weight_back
