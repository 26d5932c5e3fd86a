"""Ancestral sampling: every step of the reverse chain, with fresh noise (DDPM, arXiv 2006.11239, algorithm 2)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from diffusion.schedule import Draws, NoiseSchedule, PredictNoise, Track

if TYPE_CHECKING:
    from torch import Tensor


def ancestral(
    predict_noise: PredictNoise,
    x: Tensor,
    schedule: NoiseSchedule,
    generator: Draws = None,
    track: Track = iter,
) -> Tensor:
    """Draw x_{t-1} from q(x_{t-1} | x_t, x_0) with the predicted x_0, kept in the range of the mel, [-1, 1]."""
    for step in track(range(schedule.steps - 1, -1, -1)):
        beta = float(schedule.betas[step])
        alpha_bar = float(schedule.alphas_cumprod[step])
        previous = float(schedule.alphas_cumprod[step - 1]) if step else 1.0
        noise = predict_noise(x, step)
        x_0 = ((x - math.sqrt(1 - alpha_bar) * noise) / math.sqrt(alpha_bar)).clip(-1, 1)
        # Equations 6 and 7: mean and variance of the posterior.
        mean = (
            beta * math.sqrt(previous) / (1 - alpha_bar) * x_0
            + (1 - previous) * math.sqrt(1 - beta) / (1 - alpha_bar) * x
        )
        deviation = math.sqrt(beta * (1 - previous) / (1 - alpha_bar))  # 0 at the last step
        x = mean + deviation * _fresh(x, generator)
    return x


def _fresh(x: Tensor, generator: Draws) -> Tensor:
    if isinstance(generator, np.random.Generator):
        return generator.standard_normal(x.shape, dtype=np.float32)  # type: ignore[return-value]
    import torch

    device = generator.device if generator else x.device
    return torch.randn(x.shape, generator=generator, device=device).to(x)
