"""What the train tab keeps on the server: jobs that it starts, watches and stops, and the settings of each model."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from modules.cli import EXIT_OK, EXIT_SOME_FAILED
from modules.config import Config, load_config
from modules.errors import UserError
from modules.f0 import PREDICTORS
from modules.files import write_text
from modules.web.folders import Folders, script_environment
from modules.web.train.runner import LOCK_NAME, STOP_NAME, Plan, Record, read_stops
from modules.web.train.samples import SampleReader
from modules.web.train.steps import (
    DEFAULT_MODEL,
    EXCLUSIVE,
    PrepareSettings,
    Project,
    check_model_name,
    command,
    is_model_name,
    needed_weights,
    proposed,
)
from pretrain import find, weight_named
from vencoder import ENCODERS

FOLDER = "jobs"  # in logs/<model>
SETTINGS_NAME = ".settings.json"  # of a model, beside its jobs: a page that is loaded anew shows what was chosen
TAIL_BYTES = 64 * 1024
TAIL_LINES = 200
START_SECONDS = 30.0
_POLL_SECONDS = 0.05

State = Literal[
    "never", "waiting", "running", "stopping", "done", "some_failed", "stopped", "failed", "skipped", "lost"
]
GOING: tuple[State, ...] = ("waiting", "running", "stopping")

# The lines of modules/progress.py and modules/training/logging.py in a log.
_TRAINING = re.compile(r"step (\d+) of (\d+) \(epoch \d+\): (?P<speed>[\d.]+) steps/s(?:, (?P<left>[\d:]+) left)?")
_COUNTED = re.compile(r".*: (\d+) of (\d+), about (?P<left>[\d:]+) left")
_SHARED = re.compile(r".*: (\d+) %, about (?P<left>[\d:]+) left")


@dataclass(frozen=True)
class Progress:
    """How far a command says it is."""

    share: float  # 0 to 1
    left: str = ""  # h:mm:ss
    text: str = ""  # such as 300 / 1000


@dataclass(frozen=True)
class Status:
    """A step of a model as it is now."""

    step: str
    state: State
    command: tuple[str, ...] = ()
    started: float | None = None
    ended: float | None = None
    code: int | None = None
    progress: Progress | None = None

    @property
    def going(self) -> bool:
        """Whether it runs or is about to."""
        return self.state in GOING


class Jobs:
    """The jobs of all models in a folder of logs. Any number may look at the same folder.

    Args:
        logs: with one folder a model.
        work_dir: where the commands run.
        code_dir: where modules/ is.
    """

    def __init__(self, logs: Path, work_dir: Path, code_dir: Path) -> None:
        self.logs, self.work_dir, self.code_dir = logs, work_dir, code_dir
        self._runners: list[subprocess.Popen[bytes]] = []  # polled for their end, or they stay as zombies

    def folder(self, model: str) -> Path:
        """Where the records of a model lie. Raises UserError where that is no name of a model."""
        check_model_name(model)
        return self.logs / model / FOLDER

    def start(self, model: str, jobs: Sequence[tuple[str, Sequence[str]]], exclusive: Sequence[str] = ()) -> None:
        """Run commands one after the other.

        Args:
            jobs: (step, command) pairs; a command is a list of arguments and never sees a shell.
            exclusive: steps of which only one may run at a time, whatever the model.

        Raises:
            UserError: something of the model runs already, or an exclusive step of another model.
        """
        folder = self.folder(model)
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.logs / ".jobs.lock", timeout=START_SECONDS):
            self._refuse_second(model, [step for step, _ in jobs], exclusive)
            (folder / STOP_NAME).unlink(missing_ok=True)
            records = [Record(step=step, command=list(command)) for step, command in jobs]
            plan = Plan(folder=folder.resolve(), cwd=self.work_dir, jobs=records)
            for record in records:
                (folder / f"{record.step}.log").unlink(missing_ok=True)
                record.write(folder)
            self._launch(plan)

    def _refuse_second(self, model: str, steps: Sequence[str], exclusive: Sequence[str]) -> None:
        running = self.running_step(model)
        if running is not None:
            what = f"{running} of {model} is still running"
            raise UserError(what, self.folder(model), "wait for its end, or stop it first")
        if not set(steps) & set(exclusive):
            return
        for other in self.models():
            for step in exclusive:
                if self.is_held(other) and self.status(other, step).going:
                    what = f"one training at a time: {step} of {other} is running"
                    raise UserError(what, self.folder(other), f"choose the model {other} and stop it first")

    def _launch(self, plan: Plan) -> None:
        """Start the runner process, and wait until it holds its lock or is done."""
        command = [sys.executable, "-m", "modules.web.train.runner"]
        flags = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # Windows: a console of its own, for its own Ctrl-C
        runner = subprocess.Popen(
            command,
            cwd=plan.cwd,
            env=script_environment(self.code_dir),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # what ends the server does not end it
            creationflags=flags,
        )
        assert runner.stdin is not None and runner.stderr is not None
        with runner.stdin:
            runner.stdin.write(plan.model_dump_json().encode())
        deadline = time.monotonic() + START_SECONDS
        while not _is_held(plan.folder) and runner.poll() is None and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        if runner.poll():
            reason = runner.stderr.read().decode(errors="replace").strip().splitlines()[-1:]
            raise UserError(f"the command could not be started: {''.join(reason)}", plan.folder, "see the server's log")
        runner.stderr.close()
        self._runners = [other for other in self._runners if other.poll() is None] + [runner]

    def stop(self, model: str) -> int:
        """Ask for the end of what runs; returns how often that was asked. The third time it is killed."""
        if not self.is_held(model):
            return 0
        path = self.folder(model) / STOP_NAME
        count = read_stops(path) + 1
        write_text(path, str(count))
        return count

    def status(self, model: str, step: str) -> Status:
        """How a step is, or how it ended when it ran last."""
        folder = self.folder(model)
        try:
            record = Record.model_validate_json((folder / f"{step}.json").read_bytes())
        except (OSError, ValueError):
            return Status(step, "never")
        state = self._state(record, folder)
        progress = read_progress(self.log(model, step)) if state in ("running", "stopping") else None
        return Status(step, state, tuple(record.command), record.started, record.ended, record.code, progress)

    def _state(self, record: Record, folder: Path) -> State:
        if record.ended is not None:
            return _end_state(record)
        if not _is_held(folder):
            # it may have ended between the two looks
            again = Record.model_validate_json((folder / f"{record.step}.json").read_bytes())
            return _end_state(again) if again.ended is not None else "lost"
        if record.started is None:
            return "waiting"
        return "stopping" if read_stops(folder / STOP_NAME) else "running"

    def running_step(self, model: str) -> str | None:
        """The step of a model that runs now; None where none does."""
        if not self.is_held(model):
            return None
        for path in sorted(self.folder(model).glob("[!.]*.json")):
            status = self.status(model, path.stem)
            if status.state in ("running", "stopping"):
                return status.step
        return "a step"

    def is_held(self, model: str) -> bool:
        """Whether a runner works on a model."""
        return _is_held(self.folder(model))

    def models(self) -> list[str]:
        """Models with a folder of jobs."""
        folders = (path for path in self.logs.glob(f"[!.]*/{FOLDER}") if path.is_dir())
        return sorted(path.parent.name for path in folders if is_model_name(path.parent.name))

    def log(self, model: str, step: str) -> list[str]:
        """The last lines that a step wrote."""
        try:
            with (self.folder(model) / f"{step}.log").open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - TAIL_BYTES))
                text = file.read().decode("utf-8", errors="replace")
        except OSError:
            return []
        return text.splitlines()[-TAIL_LINES:]


_LOOKING = threading.Lock()  # who looks holds the lock for a moment; another one must not take that for a runner


def _is_held(folder: Path) -> bool:
    path = folder / LOCK_NAME
    if not path.is_file():
        return False
    try:
        with _LOOKING, FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def _end_state(record: Record) -> State:
    if record.started is None:
        return "skipped"
    if record.code == EXIT_OK:
        return "done"
    if record.stopped:
        return "stopped"
    return "some_failed" if record.code == EXIT_SOME_FAILED else "failed"


def read_progress(lines: Sequence[str]) -> Progress | None:
    """What the newest line of a log that speaks of progress says."""
    for line in reversed(lines):
        for pattern in (_TRAINING, _COUNTED):
            match = pattern.match(line)
            if match:
                done, total = int(match[1]), int(match[2])
                return Progress(done / max(1, total), match["left"] or "", f"{done} / {total}")
        match = _SHARED.match(line)
        if match:
            return Progress(int(match[1]) / 100, match["left"], f"{match[1]} %")
    return None


class TrainingState:
    """What the train tab keeps on the server; all that must outlive it lies in logs/<model>/jobs."""

    def __init__(self, folders: Folders) -> None:
        self.folders = folders
        self.raw = folders.of_user("dataset_raw")
        self.jobs = Jobs(folders.of_user("logs"), folders.work_dir, folders.code_dir)
        self.samples = SampleReader()

    @functools.cached_property
    def has_gpu(self) -> bool:
        """Whether this machine has a GPU that torch trains on."""
        import torch

        return bool(torch.cuda.is_available() or torch.backends.mps.is_available())

    def start(self, settings: PrepareSettings, steps: tuple[str, ...]) -> None:
        """Run steps of a model one after the other.

        Raises:
            UserError: something runs already, or weights are missing that one of the steps needs.
        """
        if "features" in steps:
            _, missing, size = self.missing_weights(settings.encoder, settings.predictor, settings.use_diff)
            if missing:
                what = f"weights are missing: {', '.join(missing)} (about {size} MB)"
                raise UserError(what, self.folders.pretrain, "press “Fetch” in step 3 first")
        commands = [(step, command(step, settings, self.folders.code_dir)) for step in steps]
        self.jobs.start(settings.model, commands, EXCLUSIVE)
        write_text(self._settings_path(settings.model), settings.model_dump_json(indent=1) + "\n")

    def settings(self, model: str) -> PrepareSettings:
        """What was chosen for a model when it was last worked on; else what suits this machine."""
        try:
            saved = PrepareSettings.model_validate_json(self._settings_path(model).read_bytes())
        except (OSError, ValueError):
            return proposed(model, self.has_gpu)
        return saved if saved.model == model else proposed(model, self.has_gpu)

    def _settings_path(self, model: str) -> Path:
        return self.jobs.folder(model) / SETTINGS_NAME

    def models(self) -> list[str]:
        """Models that were begun here or on the command line, and the default one."""
        logs = self.folders.of_user("logs")
        folders = [path for path in logs.iterdir() if path.is_dir()] if logs.is_dir() else []
        names = {path.name for path in folders if not path.name.startswith(".")}
        return sorted({DEFAULT_MODEL, *(name for name in names if is_model_name(name))})

    def first_model(self) -> str:
        """The one that something runs for, else the one that was worked on last, else the default one."""
        worked_on = self.jobs.models()
        running = [name for name in worked_on if self.jobs.is_held(name)]
        newest = sorted(worked_on, key=lambda name: self.jobs.folder(name).stat().st_mtime)
        return (running or newest[-1:] or [DEFAULT_MODEL])[0]

    def logs(self, model: str) -> Path:
        """logs/<model>. Raises UserError where that is no name of a model."""
        check_model_name(model)
        return self.folders.work_dir / Project(model).logs

    def config_path(self, model: str) -> Path:
        """The config that train.py reads."""
        check_model_name(model)
        return self.folders.work_dir / Project(model).config

    def config(self, model: str) -> Config | None:
        """The config of a model; None before step 2."""
        path = self.config_path(model)
        return load_config(path) if path.is_file() else None

    def missing_weights(self, encoder: str, predictor: str, use_diff: bool) -> tuple[list[str], list[str], int]:
        """Names of the pretrained weights that are there, of those that are not, and the megabytes of the latter."""
        if encoder not in ENCODERS or predictor not in PREDICTORS:
            raise UserError(f"{encoder!r} with {predictor!r} cannot be", "", "choose from the lists")
        names = needed_weights(encoder, predictor, use_diff)
        there = [name for name in names if find(name, self.folders.work_dir / "pretrain")]
        missing = [name for name in names if name not in there]
        return there, missing, round(sum(weight_named(name).size for name in missing) / 1e6)
