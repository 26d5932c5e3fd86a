"""Training checkpoints: G and D of one step always a pair, the best one apart, and what may be resumed."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from modules import checkpoint
from modules.errors import UserError
from modules.files import write_text

BASE_STEP = 0  # G_0.pth and D_0.pth are the base model to start from; they are never written
BEST_NAME = "G_best.pth"  # no number: never taken for a training checkpoint
_WAYS: tuple[str, ...] = ("fused", "foreach", "capturable")  # how AdamW computes: the device decides, not the file
_LEFTOVER = re.compile(r"\.[GD]_(\d+|best)\.pth\..+")


@dataclass
class Progress:
    """Where a run is: what a checkpoint has to say beside weights and optimizers."""

    step: int = 0  # steps done
    epoch: int = 1  # the epoch of that step, from 1
    batch: int = 0  # batches of that epoch done
    batches_per_epoch: int = 0
    scaler: dict[str, Any] = field(default_factory=dict)  # of float16 gradient scaling


@dataclass(frozen=True)
class Player:
    """One side of the adversarial pair."""

    letter: str  # G or D
    module: nn.Module
    optimizer: Optimizer


def save_pair(model_dir: Path, players: tuple[Player, Player], progress: Progress, learning_rate: float) -> None:
    """Write G_<step>.pth and D_<step>.pth.

    Each file is written atomically; a step counts only when both are there, so a run killed between the two goes
    on from the pair before.
    """
    if progress.step <= BASE_STEP:
        raise ValueError("step 0 is the base model's and is never written")
    for player in reversed(players):
        content = {
            "model": player.module.state_dict(),
            "iteration": progress.epoch,
            "optimizer": player.optimizer.state_dict(),
            "learning_rate": learning_rate,
            "progress": {
                "batch": progress.batch,
                "batches_per_epoch": progress.batches_per_epoch,
                "scaler": progress.scaler,
            },
        }
        checkpoint.save(content, model_dir / f"{player.letter}_{progress.step}.pth")


def restore(model_dir: Path, players: tuple[Player, Player]) -> tuple[Progress, list[str]]:
    """Load the newest pair of ``model_dir`` into the players.

    Returns:
        Where the run goes on (step 0 of epoch 1 for a fresh start or a base model), and notes for the user; no
        note where there is no pair.

    Raises:
        UserError: a file of the pair is broken, or its weights do not fit the config. Nothing is skipped over:
            training on from an older pair, or from nothing, is the user's choice.
    """
    found = checkpoint.latest_pair(model_dir)
    if found is None:
        _refuse_halves(model_dir)
        return Progress(), []
    step, *paths = found
    if step == BASE_STEP:
        return Progress(), [note for player, path in zip(players, paths, strict=True) for note in _begin(player, path)]
    contents = [checkpoint.load(path) for path in paths]  # both are read before either is used
    notes = [f"resuming from step {step}"]
    for player, path, content in zip(players, paths, contents, strict=True):
        notes += _resume(player, path, content)
    return _progress_of(contents[0], step, paths[0]), notes


def _refuse_halves(model_dir: Path) -> None:
    """Say so where only one side of a pair is there; a lone D_<step> is left by a kill between two writes."""
    generators, discriminators = (checkpoint.training_checkpoints(model_dir, letter) for letter in "GD")
    lone = max(generators, default=None)
    if lone is None and BASE_STEP not in discriminators:
        return
    have, lack = (f"G_{lone}.pth", f"D_{lone}.pth") if lone is not None else ("D_0.pth", "G_0.pth")
    raise UserError(
        f"{have} is there but {lack} is not",
        model_dir,
        f"put the {lack} that belongs to it beside it, or take {have} away to start from nothing",
    )


def _begin(player: Player, path: Path) -> list[str]:
    """Start from a base model: what does not fit stays as initialised and is reported."""
    state = checkpoint.model_state(checkpoint.load(path), path)
    report = checkpoint.load_into(player.module, state, path, strict=False)
    notes = [f"starting from the base model {path.name}: {report.loaded} tensors loaded"]
    return notes + ([f"{path.name}: {report.describe()}"] if report.describe() else [])


def _resume(player: Player, path: Path, content: Any) -> list[str]:
    """Load one side of a pair; all of its weights must fit."""
    try:
        checkpoint.load_into(player.module, checkpoint.model_state(content, path), path)
    except UserError as error:
        fix = (
            "train with the config this run began with; to start a new model from these weights, copy the pair "
            "as G_0.pth and D_0.pth into another folder of logs/ and give its name with -m"
        )
        raise UserError(error.what, path, fix) from None
    misfit = resume_optimizer(player.optimizer, player.module, content)
    return [f"{path.name}: {misfit}; the optimizer starts anew"] if misfit else []


def resume_optimizer(optimizer: Optimizer, module: nn.Module, content: Mapping[str, Any]) -> str | None:
    """Load the optimizer state of the checkpoint ``content``, whose weights are in ``module`` already.

    Returns:
        Why it cannot be loaded; None where it was.
    """
    saved = content.get("optimizer")
    if not isinstance(saved, dict) or not saved.get("state"):
        return "no optimizer state is in the file"
    saved = in_order_of(module, saved, checkpoint.model_state(content, "optimizer"))
    misfit = optimizer_misfit(optimizer, saved)
    if misfit is None:
        load_optimizer(optimizer, saved)
    return misfit


def in_order_of(module: nn.Module, saved: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Mapping[str, Any]:
    """An optimizer state with its parameters in the order of ``module``.

    Optimizer states carry no names; they number parameters in the order in which the trained network registered
    them. The weights beside them in the file stand in that same order (dicts keep it through torch.save), so they
    tell which number is whose: in files of so-vits-svc, in ours, and in ours from before our order was theirs.

    Args:
        saved: the optimizer state.
        weights: the weights of the same file, by name.
    """
    first_names = {id(parameter): name for name, parameter in module.named_parameters()}
    # A shared parameter is numbered once, where it comes first. Buffers have no number.
    known = {name: first_names[id(value)] for name, value in module.named_parameters(remove_duplicate=False)}
    stored = list(dict.fromkeys(known[name] for name in weights if name in known))
    groups = saved.get("param_groups", [])
    if len(groups) != 1 or len(groups[0]["params"]) != len(stored):
        return saved  # of another model: optimizer_misfit says so
    numbers = dict(zip(stored, groups[0]["params"], strict=True))
    in_order = [numbers[name] for name in first_names.values() if name in numbers]
    return {**saved, "param_groups": [{**groups[0], "params": in_order}]}


def optimizer_misfit(optimizer: Optimizer, saved: Any) -> str | None:
    """Why ``saved`` cannot go on in ``optimizer``; None where it can.

    torch loads any state dict with the right number of parameters and fails at the first step, so the shapes are
    compared before.
    """
    if not isinstance(saved, dict) or not saved.get("state"):
        return "no optimizer state is in the file"
    groups = saved.get("param_groups", [])
    own = optimizer.param_groups
    if [len(group["params"]) for group in groups] != [len(group["params"]) for group in own]:
        counts = [sum(len(group["params"]) for group in side) for side in (groups, own)]
        return f"the optimizer state is of {counts[0]} parameters, the model has {counts[1]}"
    keys = [key for group in groups for key in group["params"]]
    parameters = [parameter for group in own for parameter in group["params"]]
    for key, parameter in zip(keys, parameters, strict=True):
        moments = saved["state"].get(key, {})
        for name in ("exp_avg", "exp_avg_sq"):
            if name in moments and moments[name].shape != parameter.shape:
                shapes = f"{list(moments[name].shape)}, the model's is {list(parameter.shape)}"
                return f"the optimizer state of parameter {key} has the shape {shapes}"
    return None


def load_optimizer(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Load moments and step counts; how the step is computed stays as this device needs it.

    That has to stand in the groups before they are loaded: by it torch decides whether the step counts go to the
    device, where a fused step on CUDA needs them, or to the CPU.
    """
    ways = [{name: group[name] for name in _WAYS if name in group} for group in optimizer.param_groups]
    groups = [{**group, **way} for group, way in zip(saved["param_groups"], ways, strict=True)]
    optimizer.load_state_dict({**saved, "param_groups": groups})


def _progress_of(content: Any, step: int, path: Path) -> Progress:
    epoch = content.get("iteration")
    if not isinstance(epoch, int):
        fix = "delete the pair to go on from the one before"
        raise UserError(f"the file says no epoch: iteration is {epoch!r}", path, fix)
    more = content.get("progress", {})  # absent in the files of so-vits-svc: the epoch then starts again
    return Progress(
        step, max(epoch, 1), more.get("batch", 0), more.get("batches_per_epoch", 0), more.get("scaler", {})
    )


def remove_leftovers(model_dir: Path) -> None:
    """Delete the temporary files of a run that was killed while it wrote."""
    for path in model_dir.glob(".[GD]_*"):
        if _LEFTOVER.fullmatch(path.name):
            path.unlink(missing_ok=True)


class BestCheckpoint:
    """Keeps the network with the lowest held-out figure, and its figures in best.json.

    Args:
        model_dir: where both files lie.
        resume_step: figures of a later step, which a killed run reached but did not save, count too; those of a
            run that was begun again from step 0 do not.
        name: of the checkpoint; it has no number, so it is never taken for one to resume from.
        figure: what is compared.
    """

    def __init__(
        self, model_dir: Path, resume_step: int, name: str = BEST_NAME, figure: str = "mel_distance"
    ) -> None:
        self.model_dir, self.name, self.figure = model_dir, name, figure
        self.distance = self._read() if resume_step else math.inf

    def _read(self) -> float:
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            if (self.model_dir / self.name).is_file():
                return float(json.loads((self.model_dir / "best.json").read_text(encoding="utf-8"))[self.figure])
        return math.inf

    def offer(self, generator: nn.Module, progress: Progress, distance: float, learning_rate: float) -> bool:
        """Save ``generator`` if ``distance`` is the lowest so far; tells whether it was."""
        content = {
            "model": generator.state_dict(),
            "iteration": progress.epoch,
            "optimizer": None,
            "learning_rate": learning_rate,
        }
        return self.keep(content, progress, distance)

    def keep(self, content: Mapping[str, Any], progress: Progress, distance: float) -> bool:
        """Save the checkpoint ``content`` if ``distance`` is the lowest so far; tells whether it was."""
        if not distance < self.distance:
            return False
        self.distance = distance
        checkpoint.save(content, self.model_dir / self.name)
        figures = {"step": progress.step, "epoch": progress.epoch, self.figure: distance}
        write_text(self.model_dir / "best.json", json.dumps(figures, indent=2) + "\n")
        return True
