"""What the prepare tab keeps on the server: its jobs, the settings of each model, and an ear for the events."""

from __future__ import annotations

from pathlib import Path

from modules.config import Config, load_config
from modules.errors import UserError
from modules.f0 import PREDICTORS
from modules.files import write_text
from modules.web.prepare_jobs import Jobs
from modules.web.prepare_steps import (
    DEFAULT_MODEL,
    EXCLUSIVE,
    PrepareSettings,
    Project,
    check_model_name,
    command,
    is_model_name,
)
from modules.web.prepare_watch import Ear
from modules.web.studio import Studio
from pretrain import find, weight_named
from vencoder import ENCODERS

SETTINGS_NAME = ".settings.json"  # of a model, beside its jobs: a page that is loaded anew shows what was chosen


class PrepareDesk:
    """One a server. All that must outlive it lies in logs/<model>/jobs."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.home = studio.home
        self.raw = studio.folder("dataset_raw")
        self.jobs = Jobs(studio.folder("logs"), studio.home, studio.code)
        self.ear = Ear()

    @classmethod
    def of(cls, studio: Studio) -> PrepareDesk:
        """The desk of a server."""
        return studio.shared(cls, lambda: cls(studio))

    def start(self, settings: PrepareSettings, steps: tuple[str, ...]) -> None:
        """Run steps of a model one after the other. Raises UserError where something runs already."""
        commands = [(step, command(step, settings, self.studio.code)) for step in steps]
        self.jobs.start(settings.model, commands, EXCLUSIVE)
        write_text(self._settings_path(settings.model), settings.model_dump_json(indent=1) + "\n")

    def settings(self, model: str) -> PrepareSettings:
        """What was chosen for a model when it was last worked on; else the defaults."""
        try:
            saved = PrepareSettings.model_validate_json(self._settings_path(model).read_bytes())
        except (OSError, ValueError):
            return PrepareSettings(model=model)
        return saved if saved.model == model else PrepareSettings(model=model)

    def _settings_path(self, model: str) -> Path:
        return self.jobs.folder(model) / SETTINGS_NAME

    def models(self) -> list[str]:
        """Models that were begun here or on the command line, and the default one."""
        logs = self.studio.folder("logs")
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
        return self.home / Project(model).logs

    def config_path(self, model: str) -> Path:
        """The config that train.py reads."""
        check_model_name(model)
        return self.home / Project(model).config

    def config(self, model: str) -> Config | None:
        """The config of a model; None before step 2."""
        path = self.config_path(model)
        return load_config(path) if path.is_file() else None

    def missing_weights(self, encoder: str, predictor: str, use_diff: bool) -> tuple[list[str], list[str], int]:
        """Names of the pretrained weights that are there, of those that are not, and the megabytes of the latter."""
        if encoder not in ENCODERS or predictor not in PREDICTORS:
            raise UserError(f"{encoder!r} with {predictor!r} cannot be", "", "choose from the lists")
        names = [weight_named(encoder).name]
        names += [predictor] if PREDICTORS[predictor].weights else []
        names += ["nsf_hifigan"] if use_diff else []
        there = [name for name in names if find(name, self.home / "pretrain")]
        missing = [name for name in names if name not in there]
        return there, missing, round(sum(weight_named(name).size for name in missing) / 1e6)
