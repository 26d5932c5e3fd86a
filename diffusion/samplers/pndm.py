"""PNDM: a linear multistep method on the manifold of DDIM (arXiv 2202.09778), started by an Euler step."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from diffusion.samplers.ddim import transfer
from diffusion.schedule import NoiseSchedule, PredictNoise, Track

if TYPE_CHECKING:
    from torch import Tensor

# Adams-Bashforth weights of the newest and the older noises, for 2, 3 and 4 of them (equation 12 has the last).
WEIGHTS = {2: (3 / 2, -1 / 2), 3: (23 / 12, -16 / 12, 5 / 12), 4: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}


def pndm(predict_noise: PredictNoise, x: Tensor, schedule: NoiseSchedule, speedup: int, track: Track = iter) -> Tensor:
    """S-PNDM's start, then the four-step rule; the transfer part is DDIM's (equation 11)."""
    past: list[Tensor] = []  # newest first
    for step, target in track(list(pairwise(schedule.strided(speedup)))):
        noise = predict_noise(x, step)
        if past:
            past = [noise, *past[:3]]
            combined = _weighted(past)
        else:
            past = [noise]
            ahead = predict_noise(transfer(x, noise, schedule, step, target), target)
            combined = (noise + ahead) / 2  # improved Euler
        x = transfer(x, combined, schedule, step, target)
    return x


def _weighted(noises: list[Tensor]) -> Tensor:
    total = noises[0] * WEIGHTS[len(noises)][0]
    for weight, noise in zip(WEIGHTS[len(noises)][1:], noises[1:], strict=True):
        total = total + weight * noise
    return total
