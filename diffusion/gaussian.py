"""Gaussian diffusion of a mel: noising, the training loss, sampling from noise or from a shallow start."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion.denoiser import WaveNet
from diffusion.samplers import sample
from diffusion.schedule import NoiseSchedule, Track

SPEC_MIN, SPEC_MAX = -12.0, 2.0  # natural-log mel that is mapped on -1 and 1


class GaussianDiffusion(nn.Module):
    """The chain around the denoiser. Its buffers are in the checkpoints, so they have the names of those.

    Args:
        k_step: training draws steps from [0, k_step); less than ``timesteps`` makes a shallow-only model.
    """

    sqrt_alphas_cumprod: Tensor
    sqrt_one_minus_alphas_cumprod: Tensor
    spec_min: Tensor
    spec_max: Tensor

    def __init__(self, denoise_fn: WaveNet, timesteps: int, k_step: int) -> None:
        super().__init__()
        self.denoise_fn = denoise_fn
        self.timesteps = timesteps
        self.k_step = k_step
        for name, values in _buffers(timesteps).items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32))
        self.register_buffer("spec_min", torch.full((1, 1, 1), SPEC_MIN))
        self.register_buffer("spec_max", torch.full((1, 1, 1), SPEC_MAX))

    def normalise(self, mel: Tensor) -> Tensor:
        """Log mel to about [-1, 1]."""
        return (mel - self.spec_min) / (self.spec_max - self.spec_min) * 2 - 1

    def denormalise(self, x: Tensor) -> Tensor:
        """About [-1, 1] to log mel."""
        return (x + 1) / 2 * (self.spec_max - self.spec_min) + self.spec_min

    def to_noisy(self, mel: Tensor, step: Tensor, noise: Tensor) -> Tensor:
        """Normalised mel [B, 1, M, T] with the noise of ``step`` [B] (DDPM, equation 4)."""
        return (
            self.sqrt_alphas_cumprod[step].view(-1, 1, 1, 1) * mel
            + self.sqrt_one_minus_alphas_cumprod[step].view(-1, 1, 1, 1) * noise
        )

    def loss(
        self,
        mel: Tensor,
        condition: Tensor,
        step: Tensor | None = None,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Mean squared error of the predicted noise (DDPM, equation 14).

        Args:
            mel: log mel [B, T, M].
            condition: [B, n_hidden, T].
            step, noise: [B] and [B, 1, M, T]; drawn where not given.
        """
        x = self._rows(mel)
        if step is None:
            device = generator.device if generator else x.device
            step = torch.randint(0, self.k_step, (x.shape[0],), generator=generator, device=device)
        if noise is None:
            noise = _noise_like_transposed(x, generator)
        step, noise = step.to(x.device), noise.to(x)
        predicted = self.denoise_fn(self.to_noisy(x, step, noise), step, condition)
        return F.mse_loss(predicted.float(), noise.float())

    def sample(
        self,
        condition: Tensor,
        source_mel: Tensor | None = None,
        k_step: int | None = None,
        speedup: int = 10,
        method: str | None = "dpm-solver++",
        generator: torch.Generator | None = None,
        track: Track = iter,
    ) -> Tensor:
        """Log mel [B, T, M] for the condition [B, n_hidden, T].

        Args:
            source_mel: log mel [B, T, M] to start from, noised to ``k_step`` steps; without it sampling starts
                from noise at the last step.
            generator: where the noise comes from; the global generator otherwise.
        """
        x, schedule = self._start(condition, source_mel, k_step, generator)
        projections = self.denoise_fn.project(condition)

        def predict_noise(x: Tensor, step: float) -> Tensor:
            return self.denoise_fn.denoise(x, x.new_full((x.shape[0],), step), projections)

        x = sample(method, predict_noise, x, schedule, speedup, generator, track)
        return self.denormalise(x.squeeze(1).transpose(1, 2))

    def _start(
        self, condition: Tensor, source_mel: Tensor | None, k_step: int | None, generator: torch.Generator | None
    ) -> tuple[Tensor, NoiseSchedule]:
        if source_mel is None:
            shape = (condition.shape[0], 1, self.denoise_fn.input_projection.in_channels, condition.shape[-1])
            device = generator.device if generator else condition.device
            noise = torch.randn(shape, generator=generator, device=device)
            return noise.to(condition.device), NoiseSchedule(self.timesteps)
        schedule = NoiseSchedule(self.timesteps, k_step)
        level = schedule.at(schedule.steps - 1)
        x = self._rows(source_mel)
        return level.alpha * x + level.sigma * _noise_like_transposed(x, generator), schedule

    def _rows(self, mel: Tensor) -> Tensor:
        """Log mel [B, T, M] as normalised picture [B, 1, M, T], a view of the same memory order."""
        return self.normalise(mel).transpose(1, 2).unsqueeze(1)


def _noise_like_transposed(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Noise for x [B, 1, M, T] whose memory runs over M first.

    torch draws such a tensor in the order of its memory and by another formula than a contiguous one; the
    published results have that stream.
    """
    device = generator.device if generator else x.device
    return torch.empty_like(x, device=device).normal_(generator=generator).to(x.device)


def _buffers(timesteps: int) -> dict[str, np.ndarray]:
    schedule = NoiseSchedule(timesteps)
    betas, cumprod = schedule.betas, schedule.alphas_cumprod
    previous = np.append(1.0, cumprod[:-1])
    variance = betas * (1 - previous) / (1 - cumprod)
    return {
        "betas": betas,
        "alphas_cumprod": cumprod,
        "alphas_cumprod_prev": previous,
        "sqrt_alphas_cumprod": np.sqrt(cumprod),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - cumprod),
        "log_one_minus_alphas_cumprod": np.log(1 - cumprod),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / cumprod),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / cumprod - 1),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
        "posterior_mean_coef1": betas * np.sqrt(previous) / (1 - cumprod),
        "posterior_mean_coef2": (1 - previous) * np.sqrt(1 - betas) / (1 - cumprod),
    }
