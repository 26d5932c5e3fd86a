"""The noise schedule, at its discrete steps (DDPM, arXiv 2006.11239) and between them (arXiv 2206.00927)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from modules.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BETA_FIRST, BETA_LAST = 1e-4, 0.02  # DDPM, section 4

# Noise that the denoiser sees in x [B, 1, M, T] at a step, which may lie between two trained ones.
PredictNoise: TypeAlias = "Callable[[Tensor, float], Tensor]"
# Goes through the steps of a sampler; a progress bar, or nothing but iter.
Track = Callable[[Sequence[Any]], Iterable[Any]]
# Where noise comes from; None is torch's global generator.
Draws: TypeAlias = "torch.Generator | np.random.Generator | None"


def check_k_step(k_step: int, k_step_max: int, timesteps: int, shallow: bool) -> None:
    """Refuse what a model was not trained for.

    Args:
        k_step_max: steps that it was trained on, of ``timesteps``.
        shallow: whether it is to refine a mel.

    Raises:
        UserError: diffusion alone is asked of a shallow-only model, or more steps than it was trained on.
    """
    shallow_only = k_step_max < timesteps
    if not shallow and shallow_only:
        raise UserError(
            f"this diffusion model was trained on the last {k_step_max} of {timesteps} steps: "
            "it can refine a mel but not make one from nothing",
            "--only_diffusion",
            "use --shallow_diffusion, or a model trained with k_step_max 0",
        )
    if shallow and not 1 <= k_step <= k_step_max:
        trained = "was trained on" if shallow_only else "has"
        raise UserError(
            f"k_step is {k_step}, and the diffusion model {trained} {k_step_max} steps",
            "--k_step",
            f"give 1 to {k_step_max}",
        )


class Level(NamedTuple):
    """How much signal and noise x holds at one moment: x = alpha x_0 + sigma eps."""

    alpha: float
    sigma: float

    @property
    def log_snr(self) -> float:
        """lambda = log(alpha / sigma), half the log of the signal-to-noise ratio."""
        return math.log(self.alpha) - math.log(self.sigma)


class NoiseSchedule:
    """Betas that rise linearly; only the first ``steps`` of ``timesteps`` when a sampler starts from a shallow mel.

    Coefficients are float64 on the CPU: a sampler turns them into Python numbers, so that nothing waits for
    the device.
    """

    def __init__(self, timesteps: int, steps: int | None = None) -> None:
        self.timesteps = timesteps
        self.steps = timesteps if steps is None else steps
        self.betas = np.linspace(BETA_FIRST, BETA_LAST, timesteps)[: self.steps]
        self.alphas_cumprod = np.cumprod(1 - self.betas)
        self._log_alphas = 0.5 * np.cumsum(np.log1p(-self.betas))

    def at(self, step: float) -> Level:
        """Signal and noise at ``step`` in [0, steps - 1]; between two steps log alpha is linear."""
        log_alpha = float(np.interp(step, np.arange(self.steps), self._log_alphas))
        return Level(math.exp(log_alpha), math.sqrt(-math.expm1(2 * log_alpha)))

    def stride(self, speedup: int, order: int = 2) -> int:
        """Steps that a sampler passes over at once: ``speedup``, or less where few steps are left.

        A solver of order 2 needs two evaluations; so that it has them at any depth of shallow diffusion the
        stride is at most ``steps / order``.
        """
        return max(1, min(speedup, self.steps // order))

    def strided(self, speedup: int) -> list[int]:
        """Every stride-th step down to 0: 90, 80, ... 10, 0 for 100 steps and a speedup of 10."""
        return list(range(0, self.steps, self.stride(speedup)))[::-1]

    def uniform(self, speedup: int) -> list[float]:
        """Steps from the last to the first at equal distances, fractions included (time-uniform spacing)."""
        evaluations = self.steps // self.stride(speedup)
        return [float(step) for step in np.linspace(self.steps - 1, 0, evaluations + 1)]
