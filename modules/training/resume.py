"""Where a run goes on: checkpoints by step, both sides of a pair always together, the best one apart.

Anything else in the folder, such as a released G_800_release.pth, is not a training checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from modules import checkpoint
from modules.errors import UserError
from modules.training import speaker_table
from modules.training.lineage import Lineage, check_lineage

BASE_STEP = 0  # G_0.pth and D_0.pth, or model_0.pt, are the base model to start from; they are never written
_MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW
_WAYS: tuple[str, ...] = ("fused", "foreach", "capturable")  # how AdamW computes: the device decides, not the file


@dataclass(frozen=True)
class CheckpointKind:
    """The files of one kind of run: <name>_<step><suffix> for each network.

    Attributes:
        names: of the networks; a step counts only where the files of all of them are there.
        suffix: of the files.
        config_name: of the copy of the config that the run began with.
        speaker_table: key of the weights that have a row a speaker.
        instead: how to begin a new model.
        fix: what a user can do where the newest weights are not those of the config.
        optimizer_hint: stands behind the note that an optimizer starts anew.
    """

    names: tuple[str, ...]
    suffix: str
    config_name: str
    speaker_table: str
    instead: str
    fix: str
    optimizer_hint: str = ""

    @property
    def best_name(self) -> str:
        """The best network's file; it has no number, so it is never taken for one to resume from."""
        return f"{self.names[0]}_best{self.suffix}"

    @property
    def base_config_name(self) -> str:
        """The config of a base model in the folder, put aside for that of the run that begins with it."""
        stem, _, suffix = self.config_name.partition(".")
        return f"{stem}_{BASE_STEP}.{suffix}"

    def files(self, step: int) -> list[str]:
        """The names of a step's files."""
        return [f"{name}_{step}{self.suffix}" for name in self.names]


GENERATOR = CheckpointKind(
    ("G", "D"),
    ".pth",
    "config.json",
    "emb_g.weight",
    "begin a new model with -m",
    "train with the config this run began with; to start a new model from these weights, copy the pair "
    "as G_0.pth and D_0.pth into another folder of logs/ and give its name with -m",
)
DIFFUSION = CheckpointKind(
    ("model",),
    ".pt",
    "config.yaml",
    "spk_embed.weight",
    "set another env.expdir",
    "train with the config this run began with, or copy the file as model_0.pt into another expdir",
    " (train.save_opt true keeps it in every checkpoint)",
)


@dataclass
class Progress:
    """Where a run is: what a checkpoint has to say beside weights and optimizers."""

    step: int = 0  # steps done
    epoch: int = 1  # the epoch of that step, from 1
    batch: int = 0  # batches of that epoch done
    batches_per_epoch: int = 0
    scaler: dict[str, Any] = field(default_factory=dict)  # of float16 gradient scaling


@dataclass(frozen=True)
class TrainedNetwork:
    """One network of a run, bare, with its optimizer."""

    name: str  # of its files: G, D or model
    module: nn.Module
    optimizer: Optimizer


# --- files ---------------------------------------------------------------------------------------------------


def training_checkpoints(folder: str | Path, name: str, suffix: str = GENERATOR.suffix) -> dict[int, Path]:
    """Training checkpoints of ``name`` (G, D or model) by step; released and other files are not among them.

    The base model of step 0 may be a .safetensors file too; a .pth or .pt goes before it.
    """
    pattern = re.compile(rf"{name}_(?:(\d+){re.escape(suffix)}|(0)\.safetensors)")
    paths = sorted(Path(folder).glob(f"{name}_*"), key=lambda path: path.suffix == suffix)  # so that it comes last
    found = {int(match[1] or match[2]): path for path in paths if (match := pattern.fullmatch(path.name))}
    return dict(sorted(found.items()))


def newest(folder: str | Path, kind: CheckpointKind = GENERATOR) -> tuple[int, list[Path]] | None:
    """The newest step for which the files of all networks are there, and those files."""
    found = [training_checkpoints(folder, name, kind.suffix) for name in kind.names]
    steps = set.intersection(*(set(files) for files in found))
    return (max(steps), [files[max(steps)] for files in found]) if steps else None


def clean(model_dir: str | Path, keep: int) -> None:
    """Delete all but the newest ``keep`` training pairs; 0 keeps all, and G_0 and D_0 always stay.

    A lone D is left by a run that was killed between its two writes, and goes too. A lone G was put there by
    somebody, and stays.
    """
    if keep == 0:
        return
    generators, discriminators = (training_checkpoints(model_dir, name) for name in GENERATOR.names)
    pairs = sorted(generators.keys() & discriminators.keys() - {BASE_STEP})
    for step in pairs[:-keep]:
        generators[step].unlink(missing_ok=True)
    for step in discriminators.keys() - {BASE_STEP, *pairs[-keep:]}:
        discriminators[step].unlink(missing_ok=True)


def save_pair(
    model_dir: Path, pair: tuple[TrainedNetwork, TrainedNetwork], progress: Progress, learning_rate: float
) -> None:
    """Write G_<step>.pth and D_<step>.pth.

    Each file is written atomically; a step counts only when both are there, so a run killed between the two goes
    on from the pair before.
    """
    if progress.step <= BASE_STEP:
        raise ValueError("step 0 is the base model's and is never written")
    for network in reversed(pair):
        content = {
            "model": network.module.state_dict(),
            "iteration": progress.epoch,
            "optimizer": network.optimizer.state_dict(),
            "learning_rate": learning_rate,
            "progress": {
                "batch": progress.batch,
                "batches_per_epoch": progress.batches_per_epoch,
                "scaler": progress.scaler,
            },
        }
        checkpoint.save(content, model_dir / f"{network.name}_{progress.step}{GENERATOR.suffix}")


# --- going on ------------------------------------------------------------------------------------------------


def restore(
    folder: Path,
    networks: Sequence[TrainedNetwork],
    kind: CheckpointKind = GENERATOR,
    now: Lineage | None = None,
    new_speakers: bool = False,
) -> tuple[Progress, list[str]]:
    """Load the newest checkpoint of ``folder``, a pair where there are two networks.

    Args:
        now: what the config says; None does not compare it with the one that the run began with.
        new_speakers: all speakers may be others.

    Returns:
        Where the run goes on (step 0 of epoch 1 for a fresh start or a base model), and notes for the user; no
        note where there is no checkpoint.

    Raises:
        UserError: a file is broken, its weights do not fit the config, or they were trained on something else.
            Nothing is skipped over: training on from an older checkpoint, or from nothing, is the user's choice.
    """
    found = newest(folder, kind)
    if found is None:
        if kind is GENERATOR:
            _check_halves(folder)
        return Progress(), []
    step, paths = found
    files = list(zip(networks, paths, strict=True))
    if step == BASE_STEP:
        wanted = now.speakers if now else {}
        return Progress(), [note for network, path in files for note in _begin(network, path, kind, wanted)]
    before = folder / kind.config_name
    known: Mapping[str, int] = {}
    notes = [f"resuming from step {step}"]
    if now is not None and before.is_file():
        lineage = Lineage.read(before)
        notes += check_lineage(lineage, now, before, kind.instead, new_speakers)
        known = lineage.speakers
    contents = [_read(path, step, kind) for path in paths]  # all are read before any is used
    for (network, path), content in zip(files, contents, strict=True):
        notes += _resume(network, path, content, kind, known)
    return _progress_of(contents[0], step, paths[0]), notes


def _read(path: Path, step: int, kind: CheckpointKind) -> dict[str, Any]:
    """A checkpoint with weights. Raises UserError that tells how to go on without it."""
    try:
        content = checkpoint.load(path)
        checkpoint.model_state(content, path)
    except UserError as error:
        older = [set(training_checkpoints(path.parent, name, kind.suffix)) for name in kind.names]
        before = max((other for other in set.intersection(*older) if other < step), default=None)
        way = "start without it" if step == BASE_STEP else "start anew"
        if before is not None:
            way = f"go on from {kind.files(before)[0]}"
        fix = f"delete {' and '.join(kind.files(step))} to {way}, or put a whole file in its place"
        raise UserError(error.what, path, fix) from None
    return content


def _check_halves(model_dir: Path) -> None:
    """Say so where only one side of a pair is there; a lone D_<step> is left by a kill between two writes."""
    generators, discriminators = (training_checkpoints(model_dir, name) for name in GENERATOR.names)
    lone = max(generators, default=None)
    if lone is None and BASE_STEP not in discriminators:
        return
    have, lack = (f"G_{lone}.pth", f"D_{lone}.pth") if lone is not None else ("D_0.pth", "G_0.pth")
    raise UserError(
        f"{have} is there but {lack} is not",
        model_dir,
        f"put the {lack} that belongs to it beside it, or take {have} away to start from nothing",
    )


def _begin(network: TrainedNetwork, path: Path, kind: CheckpointKind, wanted: Mapping[str, int]) -> list[str]:
    """Start from a base model: what does not fit stays as initialised and is reported; speakers go by name."""
    state = checkpoint.model_state(_read(path, BASE_STEP, kind), path)
    own = network.module.state_dict().get(kind.speaker_table)
    table = state.get(kind.speaker_table)
    rows = ""
    if own is not None and table is not None and table.shape[1:] == own.shape[1:]:
        configs = (kind.base_config_name, kind.config_name)
        known = speaker_table.speakers_of_base(path, len(table), configs)
        rows = speaker_table.fit_base(state, kind.speaker_table, len(own), known, wanted)
    report = checkpoint.load_into(network.module, state, path, strict=False)
    notes = [f"starting from the base model {path.name}: {report.loaded} tensors loaded"]
    if rows:
        notes.append(f"{path.name}: {rows}")
    if report.describe():
        notes.append(f"{path.name}, left as initialised: {report.describe()}")
    return notes


def _resume(
    network: TrainedNetwork, path: Path, content: Any, kind: CheckpointKind, known: Mapping[str, int]
) -> list[str]:
    """Load one network; all of its weights must fit, but for rows of speakers that are new."""
    weights = checkpoint.model_state(content, path)
    notes = _make_room(network, path, weights, kind, known)
    try:
        checkpoint.load_into(network.module, weights, path)
    except UserError as error:
        raise UserError(error.what, path, kind.fix) from None
    reason = _resume_optimizer(network, content.get("optimizer"), weights, kind.speaker_table if notes else None)
    return notes + ([f"{path.name}: {reason}; the optimizer starts anew{kind.optimizer_hint}"] if reason else [])


def _make_room(
    network: TrainedNetwork, path: Path, weights: dict[str, Tensor], kind: CheckpointKind, known: Mapping[str, int]
) -> list[str]:
    """Lengthen the table of speakers in ``weights`` where the model has room for more."""
    key = kind.speaker_table
    own, table = network.module.state_dict().get(key), weights.get(key)
    if own is None or table is None or len(own) <= len(table) or own.shape[1:] != table.shape[1:]:
        return []
    weights[key] = speaker_table.grown_rows(table, known, len(own))
    return [f"{path.name}: room for {len(own) - len(table)} more speaker(s); they begin as the mean of the others"]


def _progress_of(content: Mapping[str, Any], step: int, path: Path) -> Progress:
    more = content.get("progress", {})  # absent in the files of others: the epoch then starts again
    # The diffusion model's files, which have a global_step, keep the epoch in there.
    epoch = more.get("epoch", 1) if "global_step" in content else content.get("iteration")
    if not isinstance(epoch, int):
        fix = "delete the pair to go on from the one before"
        raise UserError(f"the file says no epoch: iteration is {epoch!r}", path, fix)
    batch, batches = more.get("batch", 0), more.get("batches_per_epoch", 0)
    return Progress(step, max(epoch, 1), batch, batches, more.get("scaler", {}))


# --- optimizers ----------------------------------------------------------------------------------------------


def _resume_optimizer(
    network: TrainedNetwork, saved: Any, weights: Mapping[str, Tensor], grown: str | None = None
) -> str | None:
    """Load the optimizer state that lies beside ``weights``; tells why where it cannot be.

    Args:
        grown: key of a table in ``weights`` that has more rows than the state.
    """
    if isinstance(saved, dict) and saved.get("state"):
        saved = in_order_of(network.module, saved, weights)
        if grown is not None:
            speaker_table.grow_moments(network.module, saved, grown, len(weights[grown]))
    reason = optimizer_incompatibility(network.optimizer, saved)
    if reason is None:
        load_optimizer(network.optimizer, saved)
    return reason


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
        return saved  # of another model: optimizer_incompatibility says so
    numbers = dict(zip(stored, groups[0]["params"], strict=True))
    in_order = [numbers[name] for name in first_names.values() if name in numbers]
    return {**saved, "param_groups": [{**groups[0], "params": in_order}]}


def optimizer_incompatibility(optimizer: Optimizer, saved: Any) -> str | None:
    """Why ``saved`` cannot go on in ``optimizer``; None where it can.

    torch loads any state dict with the right number of parameters and fails at the first step, so the shapes are
    compared before.
    """
    if not isinstance(saved, dict) or not saved.get("state"):
        return "no optimizer state is in the file"
    groups = saved.get("param_groups", [])
    if not _is_optimizer_state(saved["state"], groups):
        return "the optimizer state is damaged"
    own = optimizer.param_groups
    if [len(group["params"]) for group in groups] != [len(group["params"]) for group in own]:
        counts = [sum(len(group["params"]) for group in side) for side in (groups, own)]
        return f"the optimizer state is of {counts[0]} parameters, the model has {counts[1]}"
    keys = [key for group in groups for key in group["params"]]
    parameters = [parameter for group in own for parameter in group["params"]]
    for key, parameter in zip(keys, parameters, strict=True):
        moments = saved["state"].get(key, {})
        for name in _MOMENTS:
            if name in moments and moments[name].shape != parameter.shape:
                shapes = f"{list(moments[name].shape)}, the model's is {list(parameter.shape)}"
                return f"the optimizer state of parameter {key} has the shape {shapes}"
    return None


def _is_optimizer_state(state: Any, groups: Any) -> bool:
    """Whether the parts of an optimizer state are of the kinds that torch takes for granted."""
    return (
        isinstance(state, dict)
        and all(isinstance(moments, dict) for moments in state.values())
        and all(isinstance(moments[name], Tensor) for moments in state.values() for name in _MOMENTS if name in moments)
        and isinstance(groups, list)
        and all(isinstance(group, dict) and isinstance(group.get("params"), list) for group in groups)
        and all(isinstance(key, int) for group in groups for key in group["params"])
    )


def load_optimizer(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Load moments and step counts; how the step is computed stays as this device needs it.

    That has to stand in the groups before they are loaded: by it torch decides whether the step counts go to the
    device, where a fused step on CUDA needs them, or to the CPU.
    """
    ways = [{name: group[name] for name in _WAYS if name in group} for group in optimizer.param_groups]
    groups = [{**group, **way} for group, way in zip(saved["param_groups"], ways, strict=True)]
    optimizer.load_state_dict({**saved, "param_groups": groups})
