"""Ancestral sampling: every step of the reverse chain, with fresh noise (DDPM, arXiv 2006.11239, algorithm 2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusion.schedule import NoiseSchedule, PredictNoise, Track


def ancestral(
    predict_noise: PredictNoise,
    x: Tensor,
    schedule: NoiseSchedule,
    generator: torch.Generator | None = None,
    track: Track = iter,
) -> Tensor:
    """Draw x_{t-1} from q(x_{t-1} | x_t, x_0) with the predicted x_0, kept in the range of the mel, [-1, 1]."""
    for step in track(range(schedule.steps - 1, -1, -1)):
        beta = float(schedule.betas[step])
        alpha_bar = float(schedule.alphas_cumprod[step])
        previous = float(schedule.alphas_cumprod[step - 1]) if step else 1.0
        noise = predict_noise(x, step)
        x_0 = ((x - math.sqrt(1 - alpha_bar) * noise) / math.sqrt(alpha_bar)).clamp(-1, 1)
        # Equations 6 and 7: mean and variance of the posterior.
        mean = (
            beta * math.sqrt(previous) / (1 - alpha_bar) * x_0
            + (1 - previous) * math.sqrt(1 - beta) / (1 - alpha_bar) * x
        )
        deviation = math.sqrt(beta * (1 - previous) / (1 - alpha_bar))  # 0 at the last step
        fresh = torch.randn(x.shape, generator=generator, device=generator.device if generator else x.device)
        x = mean + deviation * fresh.to(x)
    return x
