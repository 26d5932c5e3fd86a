"""The samplers, by the name that diffusion.yaml gives them. A new one is one file and one line here.

They compute with torch's tensors and numpy's arrays alike, and importing them needs no torch.

A sampler is a function of the denoiser, the noisy x [B, 1, M, T], the schedule and the speedup; it returns
x near step 0. Ancestral sampling is apart: it draws noise and visits every step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from diffusion.samplers.ancestral import ancestral
from diffusion.samplers.ddim import ddim
from diffusion.samplers.dpm_solver import dpm_solver
from diffusion.samplers.dpm_solver_pp import dpm_solver_pp
from diffusion.samplers.pndm import pndm
from diffusion.samplers.unipc import unipc
from diffusion.schedule import Draws, NoiseSchedule, PredictNoise, Track
from modules.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

Sampler: TypeAlias = "Callable[[PredictNoise, Tensor, NoiseSchedule, int, Track], Tensor]"

SAMPLERS: dict[str, Sampler] = {
    "ddim": ddim,
    "pndm": pndm,
    "dpm-solver": dpm_solver,
    "dpm-solver++": dpm_solver_pp,
    "unipc": unipc,
}


def sample(
    method: str | None,
    predict_noise: PredictNoise,
    x: Tensor,
    schedule: NoiseSchedule,
    speedup: int,
    generator: Draws = None,
    track: Track = iter,
) -> Tensor:
    """Denoise x [B, 1, M, T] from the schedule's last step to its first.

    Without a method, without a speedup, or with a single step left there is nothing to solve in larger
    strides, and every step is taken by ancestral sampling.

    Raises:
        UserError: there is no such method.
    """
    if method is not None and method not in SAMPLERS:
        raise UserError(f"there is no sampler {method!r}", "infer.method", f"choose from {', '.join(SAMPLERS)}")
    if method is None or speedup <= 1 or schedule.steps == 1:
        return ancestral(predict_noise, x, schedule, generator, track)
    return SAMPLERS[method](predict_noise, x, schedule, speedup, track)
