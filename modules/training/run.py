"""The loop of a training run, whatever network it trains: when it logs, saves, evaluates and ends."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from modules.cli import EXIT_OK
from modules.data.sampler import ClipSampler
from modules.errors import UserError
from modules.files import write_text
from modules.training.best import FIGURES_NAME, BestCheckpoint, put_aside
from modules.training.distributed import Ranks
from modules.training.guard import FiniteGuard, all_finite
from modules.training.lineage import Lineage
from modules.training.logging import LiveLine, Speedometer, TrainingLog, progress_line, read_metrics
from modules.training.options import RunOptions
from modules.training.patience import PatientWrites
from modules.training.precision import Precision
from modules.training.resume import BASE_STEP, CheckpointKind, Progress, TrainedNetwork, newest
from modules.training.stop import StopSignals, leave_signals_to_parent

BatchT = TypeVar("BatchT")  # what the loader gives; has .to(device)
Seen = TypeVar("Seen")  # what a step shows in the log besides its losses

RETRY_SECONDS = 2.0  # between two tries to write the last checkpoint


@dataclass(frozen=True)
class Plan:
    """What the config says about the loop."""

    epochs: int
    batch_size: int
    seed: int
    log_interval: int  # steps
    eval_interval: int  # steps


@dataclass
class Context:
    """Where and how a run happens."""

    model_dir: Path  # checkpoints and logs go there
    options: RunOptions
    ranks: Ranks
    precision: Precision
    progress: Progress  # kept up to date

    def begin(self, config_path: Path, kind: CheckpointKind, notes: Sequence[str]) -> None:
        """Make the folder ready and tell the user what is going to happen; called by all ranks.

        Args:
            config_path: copied into the folder.
            kind: of the checkpoints in the folder.
            notes: printed, a line each.
        """
        if self.progress.scaler:
            self.precision.scaler.load_state_dict(self.progress.scaler)
        self.ranks.wait()  # every rank has read the folder before the first one writes there
        if self.ranks.is_first:
            notes = [*notes, *self._keep_what_was_there(config_path, kind)]
            write_text(self.model_dir / kind.config_name, config_path.read_text(encoding="utf-8"))
            for note in notes:
                print(note, flush=True)
        self.ranks.wait()  # whatever the others read there now is the same for all

    def _keep_what_was_there(self, config_path: Path, kind: CheckpointKind) -> list[str]:
        """Before a run begins: the best of an earlier one, or of other voices, and the config of the base model."""
        config, of_base = (self.model_dir / name for name in (kind.config_name, kind.base_config_name))
        if self.progress.step == BASE_STEP:
            if newest(self.model_dir, kind) is not None and config.is_file() and not of_base.exists():
                write_text(of_base, config.read_text(encoding="utf-8"))
        elif not (self.options.new_speakers and config.is_file() and _share_nobody(config, config_path)):
            return []
        note = put_aside(self.model_dir, kind)
        return [note] if note else []


def _share_nobody(one: Path, other: Path) -> bool:
    return not Lineage.read(one).speakers.keys() & Lineage.read(other).speakers.keys()


class TrainingRun(ABC, Generic[BatchT, Seen]):
    """One run of training. Use as a context manager: it then holds the signal handlers and the log files.

    Args:
        plan: when what is due.
        context: where and how.
        networks: what is trained.
        loss_names: what a step's losses are called, in their order; the last one is their sum where there are several.
    """

    best: BestCheckpoint
    held_out: Sequence[Any]  # clips to evaluate on
    figure_name: str  # of what an evaluation logs and compares

    def __init__(
        self, plan: Plan, context: Context, networks: Sequence[TrainedNetwork], loss_names: Sequence[str]
    ) -> None:
        self.plan, self.model_dir, self.ranks = plan, context.model_dir, context.ranks
        self.limits, self.precision, self.progress = context.options, context.precision, context.progress
        self.modules = [network.module for network in networks]
        self.optimizers = [network.optimizer for network in networks]
        self.saved_step = self.progress.step
        self.guard = FiniteGuard(self.ranks, self.precision.scaler.is_enabled(), self.diverged)
        self.speed, self.line = Speedometer(), LiveLine()
        self.writes = PatientWrites(self.say)
        self.unsaved = False  # the last try to write a checkpoint failed, on all ranks
        self.loss_names = loss_names
        self.sums = torch.zeros(len(loss_names), device=self.ranks.device)  # of the losses since the last line
        self.summed = 0
        self.enough = False  # an evaluation may set it on all ranks: training then ends after this step

    def __enter__(self) -> Any:
        self.stop = StopSignals(self.limits.max_minutes).__enter__()
        self.log = TrainingLog(self.model_dir, self.progress.step) if self.ranks.is_first else None
        return self

    def __exit__(self, *error: Any) -> None:
        if self.log is not None:
            with contextlib.suppress(OSError):  # what went wrong is told already
                self.log.close()
        self.stop.__exit__(*error)

    @abstractmethod
    def learning_rate(self) -> float:
        """The rate of the next step."""

    @abstractmethod
    def train_step(self, batch: BatchT, measure: bool) -> tuple[Tensor, Seen]:
        """One update. Returns the losses, [len(loss_names)] on the device, and what ``report`` may show.

        ``measure`` tells that this step is going to be reported.
        """

    @abstractmethod
    def report(self, log: TrainingLog, losses: dict[str, float], rate: float, seen: Seen) -> dict[str, float]:
        """Write the mean losses since the last report to ``log``; returns those to print."""

    @abstractmethod
    def write_checkpoint(self) -> None:
        """Write the checkpoint of this step and delete old ones; called by the first rank."""

    @abstractmethod
    def evaluate(self) -> None:
        """Measure on held-out clips, log it, keep the best; called by all ranks."""

    @abstractmethod
    def diverged(self, step: int, model_dir: Path, last_good: int | None) -> UserError:
        """The error of a run whose numbers were no longer finite at ``step``, after a checkpoint that is good."""

    def loop(self, loader: DataLoader[Any], sampler: ClipSampler) -> int:
        """Train to the end; returns the exit code."""
        plan, progress = self.plan, self.progress
        batches = len(loader)
        self._find_position(batches)
        last_step = progress.step + (plan.epochs - progress.epoch + 1) * batches - progress.batch
        last_step = min(last_step, self.limits.max_steps or last_step)
        if progress.step == 0 or self._owes_evaluation(last_step):
            self._evaluate()
        if progress.step >= last_step:
            self.say(f"nothing to do: step {progress.step} of {last_step} is done")
            return EXIT_OK
        while progress.step < last_step:
            sampler.set_position(progress.epoch, skip=progress.batch * plan.batch_size)
            ended = self._epoch(loader, last_step)
            if ended is not None:
                return ended
            progress.epoch += 1
            progress.batch = 0
        return self._finish(0)

    def _epoch(self, loader: Iterable[Any], last_step: int) -> int | None:
        """The rest of an epoch; returns the exit code where training ends in it."""
        progress = self.progress
        for batch in loader:
            rate = self.learning_rate()
            for optimizer in self.optimizers:
                set_rate(optimizer, rate)
            progress.step += 1
            progress.batch += 1
            due = progress.step % self.plan.log_interval == 0
            seed_step(self.plan.seed, self.ranks.rank, progress.step)
            losses, seen = self.train_step(batch.to(self.ranks.device), due)
            self._watch(losses)
            if due:
                self._report(last_step, rate, seen)
            if progress.step % self.plan.eval_interval == 0:
                self._save()
                self._evaluate()
            elif due and self.unsaved:
                self._save()
            received, expired = self._look_up()
            if received or expired or self.enough or progress.step == last_step:
                return self._finish(received)
        return None

    def _look_up(self) -> list[int]:
        """The signal that was received or 0, and whether the minutes are up; the same on all ranks.

        Raises:
            UserError: on all ranks, where the first one has failed to write too often.
        """
        *asked, given_up = self.ranks.highest([self.stop.received or 0, self.stop.expired, bool(self.writes.error)])
        if given_up:
            raise self.writes.error or UserError("the first rank could not write its files", self.model_dir)
        return asked

    def _owes_evaluation(self, last_step: int) -> bool:
        """Whether a run was killed after the checkpoint it goes on from, before its evaluation was logged."""
        step = self.progress.step
        if step % self.plan.eval_interval and step != last_step:
            return False
        rows = read_metrics(self.log.metrics.path) if self.log is not None else []
        done = self.log is None or any(row["step"] == step and self.figure_name in row for row in rows)
        return bool(self.ranks.highest([not done])[0])

    def _find_position(self, batches: int) -> None:
        """Go on in the middle of an epoch, or start it again where the data or the ranks are not the same."""
        progress = self.progress
        if progress.batches_per_epoch != batches:
            progress.batch = 0
        progress.batches_per_epoch = batches
        if progress.batch >= batches:
            progress.epoch, progress.batch = progress.epoch + 1, 0

    def _watch(self, losses: Tensor) -> None:
        """Add up the losses and see that they are finite, all on the device."""
        losses = losses.detach()
        self.guard.watch(self.progress.step, losses.sum())
        self.sums += losses
        self.summed += 1
        self.speed.step()
        self.line.update(f"step {self.progress.step}, {self.speed.rate:.2f} steps/s")

    def _report(self, last_step: int, rate: float, seen: Seen) -> None:
        """Log the mean losses since the last line; here the host waits for the device."""
        progress = self.progress
        self.guard.check(self.model_dir, self.saved_step)
        means = self.ranks.mean_tensor(self.sums / self.summed).tolist()
        self.sums.zero_()
        self.summed = 0
        if self.log is None:
            return
        log, losses = self.log, dict(zip(self.loss_names, means, strict=True))
        shown: dict[str, float] = {}
        self.write_log(lambda: shown.update(self.report(log, losses, rate, seen)))
        self.say(progress_line(progress.step, last_step, progress.epoch, self.speed.rate, shown or losses))

    def common_scalars(self, rate: float) -> dict[str, float]:
        """What every run logs besides its losses."""
        values = {"learning_rate": rate}
        if self.precision.scaler.is_enabled():
            values["grad_scale"] = self.precision.scaler.get_scale()
        return {**values, "steps_per_second": self.speed.rate}

    def _save(self) -> None:
        """Write the checkpoint of this step, unless its numbers are not finite."""
        if self.saved_step == self.progress.step:
            return
        self.guard.check(self.model_dir, self.saved_step)
        if not all_finite(self.modules):
            raise self.diverged(self.progress.step, self.model_dir, self.saved_step)
        written = True
        if self.ranks.is_first:
            self.progress.scaler = self.precision.scaler.state_dict()
            written = self.writes.attempt("the checkpoint", self.write_checkpoint)
        self.unsaved = bool(self.ranks.highest([not written])[0])
        if not self.unsaved:
            self.saved_step = self.progress.step
        self.speed.pause()

    def _evaluate(self) -> None:
        self.say(f"evaluating step {self.progress.step} on {len(self.held_out)} held-out clip(s)")
        self.evaluate()
        self.speed.pause()

    def keep_best(self, content: Callable[[], dict[str, Any]], value: float) -> bool:
        """Keep ``content`` if ``value`` is the lowest figure so far; tells whether it was. Called by the first rank."""
        if self.progress.step == 0:
            self.writes.attempt(FIGURES_NAME, lambda: self.best.begin_with(self.progress, value))
            return False
        kept: list[bool] = []
        again = "when an evaluation is as good"
        name = self.best.path.name
        self.writes.attempt(name, lambda: kept.append(self.best.keep(content(), self.progress, value)), again)
        return any(kept)

    def write_log(self, write: Callable[[], object]) -> None:
        """Call ``write``, which logs; where it fails, the log begins new files."""
        if not self.writes.attempt("the log", write) and self.log is not None:
            self.log.reopen()

    def _finish(self, received: int) -> int:
        """Save, and unless a signal asks for haste evaluate; returns the exit code."""
        fresh = self.saved_step != self.progress.step
        self._save()
        while self.unsaved:
            self._look_up()
            time.sleep(RETRY_SECONDS)
            self._save()
        if fresh and not received:
            self._evaluate()
            self._look_up()
        self.say(f"saved at step {self.progress.step}; the same command goes on from here")
        return 128 + received if received else EXIT_OK

    def say(self, text: str) -> None:
        """Print a line, once for all ranks."""
        if self.ranks.is_first:
            self.line.clear()
            print(text, flush=True)


def describe_left_out(skipped: Sequence[tuple[Path, str]]) -> list[str]:
    """A line for each clip that is not trained on or validated with, and how many they are."""
    count = [f"{len(skipped)} clip(s) of the file lists are left out"] if skipped else []
    return [f"left out: {wav}: {reason}" for wav, reason in skipped] + count


# --- what follows from the step or the epoch alone -----------------------------------------------------------


def seed_step(seed: int, rank: int, step: int) -> None:
    """Seed torch's random numbers for one training step of one rank.

    Each rank draws other numbers (slices, dropout), and a resumed run draws what an uninterrupted one would have
    drawn, with no generator state to save.
    """
    torch.manual_seed(int(np.random.SeedSequence([abs(seed), rank, step]).generate_state(1, np.uint64)[0]))


def exponential_rate(base: float, decay: float, epoch: int, warmup_epochs: int = 0) -> float:
    """The learning rate of ``epoch`` (from 1): a linear rise, then ``base * decay**(epoch - 1)``."""
    if epoch <= warmup_epochs:
        return base * epoch / warmup_epochs
    return base * decay ** (epoch - 1)


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Give every parameter group the learning rate ``rate``."""
    for group in optimizer.param_groups:
        group["lr"] = rate


# --- loading -------------------------------------------------------------------------------------------------


def make_loader(
    clips: Dataset[Any],
    collate: Callable[[list[Any]], Any],
    batch_size: int,
    seed: int,
    workers: int,
    ranks: Ranks,
    pinned: bool,
) -> tuple[DataLoader[Any], ClipSampler]:
    """Batches of the clips that this rank trains on.

    Args:
        workers: processes that load; 0 loads in this one.
        pinned: load into memory from which a GPU can copy while it computes.
    """
    sampler = ClipSampler(clips, ranks.rank, ranks.world_size, seed)  # type: ignore[arg-type]
    loader = DataLoader(
        clips,
        batch_size=batch_size,
        sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pinned,
        worker_init_fn=leave_signals_to_parent,
    )
    return loader, sampler
