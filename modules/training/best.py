"""The best checkpoint of a run: kept while it trains, and moved out of the way of the next one."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modules import checkpoint
from modules.files import write_text
from modules.training.resume import BASE_STEP, GENERATOR, CheckpointKind, Progress

FIGURES_NAME = "best.json"


class BestCheckpoint:
    """Keeps the network with the lowest held-out figure, and its figures in best.json.

    Args:
        model_dir: where both files lie.
        resume_step: figures of a later step, which a killed run reached but did not save, count too; those of a
            run that was begun again from step 0 do not.
        kind: names the checkpoint.
        figure: what is compared.
    """

    def __init__(
        self, model_dir: Path, resume_step: int, kind: CheckpointKind = GENERATOR, figure: str = "mel_distance"
    ) -> None:
        self.path, self.figure = model_dir / kind.best_name, figure
        self.lowest = self._read() if resume_step else math.inf

    @property
    def is_there(self) -> bool:
        """Whether any step has been better than the model that the run began with."""
        return self.path.is_file()

    def _read(self) -> float:
        values = _figures(self.path.parent)
        with contextlib.suppress(KeyError, ValueError, TypeError):
            if self.is_there or values["step"] == BASE_STEP:
                return float(values[self.figure])
        return math.inf

    def begin_with(self, progress: Progress, value: float) -> None:
        """Note the figure of the model that the run begins with: only what is lower is worth keeping."""
        if math.isfinite(value):
            self.lowest = value
            self._write_figures(progress, value)

    def keep(self, content: Mapping[str, Any], progress: Progress, value: float) -> bool:
        """Save the checkpoint ``content`` if ``value`` is the lowest so far; tells whether it was."""
        if not value < self.lowest:
            return False
        checkpoint.save(content, self.path)
        self._write_figures(progress, value)
        self.lowest = value
        return True

    def _write_figures(self, progress: Progress, value: float) -> None:
        figures = {"step": progress.step, "epoch": progress.epoch, self.figure: value}
        write_text(self.path.with_name(FIGURES_NAME), json.dumps(figures, indent=2) + "\n")


def _figures(folder: Path) -> dict[str, Any]:
    with contextlib.suppress(FileNotFoundError, ValueError):
        values = json.loads((folder / FIGURES_NAME).read_text(encoding="utf-8"))
        return values if isinstance(values, dict) else {}
    return {}


def put_aside(folder: Path, kind: CheckpointKind = GENERATOR) -> str:
    """Rename the best checkpoint of an earlier run, with its figures and its config, so that a new run leaves it.

    Returns:
        A note for the user; empty where there is none.
    """
    best = folder / kind.best_name
    if not best.is_file():
        return ""
    config = folder / kind.config_name
    files = [path for path in (best, folder / FIGURES_NAME, config) if path.is_file()]
    step = _figures(folder).get("step", "old")
    for tag in itertools.chain([str(step)], (f"{step}_{number}" for number in itertools.count(2))):
        targets = [path.with_name(f"{path.stem}_{tag}{path.suffix}") for path in files]
        if not any(target.exists() for target in targets):
            break
    for path, target in reversed(list(zip(files, targets, strict=True))):  # the checkpoint last: killed, it is found
        if path == config:
            write_text(target, config.read_text(encoding="utf-8"))
        else:
            path.replace(target)
    return f"{best.name} of the run before is kept: {', '.join(target.name for target in targets)}"
