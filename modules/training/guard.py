"""Notices numbers that are not finite without making the device wait in every step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from modules.errors import UserError
from modules.training.distributed import Ranks

# With scaled float16 gradients a step that overflows is left out and the scale halved; only a long row of such
# steps means that training has diverged. 2**16, the first scale, halved so often is below any useful scale.
TOLERATED_WITH_SCALER = 25


def diverged(step: int, model_dir: Path, last_good: int | None) -> UserError:
    """The error of a generator's run whose numbers are no longer finite."""
    kept = "there is no checkpoint yet" if not last_good else f"G_{last_good}.pth and D_{last_good}.pth are kept"
    return UserError(
        f"the training became NaN or infinite at step {step}; {kept}",
        model_dir,
        "lower train.learning_rate, or train with fp16_run false or half_type bf16, and start again",
    )


class FiniteGuard:
    """Keeps, on the device, since which step the losses have not been finite.

    Args:
        ranks: all of them stop together when one of them has diverged.
        has_scaler: float16 with gradient scaling.
        error: makes the error from the step, the folder and the last good checkpoint.
    """

    def __init__(
        self, ranks: Ranks, has_scaler: bool, error: Callable[[int, Path, int | None], UserError] = diverged
    ) -> None:
        self.ranks = ranks
        self.error = error
        self.tolerated = TOLERATED_WITH_SCALER if has_scaler else 0
        self._row = torch.zeros((), dtype=torch.int64, device=ranks.device)  # bad steps up to now without a good one
        self._diverged_at = torch.zeros((), dtype=torch.int64, device=ranks.device)  # 0: it has not

    def watch(self, step: int, loss: Tensor) -> None:
        """Note whether the loss of ``step`` is finite; costs a few device operations and no waiting."""
        self._row = torch.where(torch.isfinite(loss.detach()), torch.zeros_like(self._row), self._row + 1)
        diverged_now = (self._row > self.tolerated) & (self._diverged_at == 0)
        self._diverged_at = torch.where(diverged_now, torch.full_like(self._diverged_at, step), self._diverged_at)

    def check(self, model_dir: Path, last_good: int | None) -> None:
        """Raise when a loss was not finite; all ranks must call it at the same step.

        Raises:
            UserError: names the step and the checkpoint that is still good.
        """
        (diverged_at,) = self.ranks.highest([int(self._diverged_at)])
        if diverged_at:
            raise self.error(diverged_at, model_dir, last_good)


def all_finite(modules: Iterable[nn.Module]) -> bool:
    """Whether every weight is finite; waits for the device."""
    return all(
        bool(torch.isfinite(torch.stack(torch._foreach_norm(list(module.parameters())))).all()) for module in modules
    )
