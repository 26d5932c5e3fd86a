"""The numbered steps as the train tab runs them: checked settings into the commands that a user would type."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from modules.errors import UserError
from modules.f0 import PREDICTORS
from pretrain import weight_named
from vencoder import ENCODERS

DEFAULT_MODEL = "44k"  # its files lie where the scripts look by default
VOCODER = "nsf_hifigan"

Loudnorm = Literal["peak", "lufs", "none"]
Size = Literal["full", "tiny", "micro"]
Precision = Literal["config", "fp32", "bf16", "fp16"]
LOUDNORMS: tuple[Loudnorm, ...] = get_args(Loudnorm)
SIZES: tuple[Size, ...] = get_args(Size)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

_MODEL = re.compile(r"[^\W_][\w.-]{0,63}")  # no path, no hidden folder, no flag


def is_model_name(name: str) -> bool:
    """Whether a name can be that of a folder in logs/."""
    return bool(_MODEL.fullmatch(name)) and not name.endswith(".")


def check_model_name(name: str) -> str:
    """The name. Raises UserError where it cannot be that of a folder in logs/."""
    if not is_model_name(name):
        fix = "letters, digits, - _ and . are allowed, the first one a letter or digit; at most 64 characters"
        raise UserError(f"{name!r} cannot be the name of a model", "name of the model", fix)
    return name


def check_speaker_name(name: str) -> str:
    """The name. Raises UserError where it cannot be that of a folder in dataset_raw/ and an argument of a script."""
    unusable = set('/\\|<>:"?*') & set(name) or not name.isprintable()
    if unusable or not name.strip() or name != name.strip() or name[0] in ".-" or name[-1] == "." or len(name) > 64:
        fix = "use letters, digits, - and _; the best names are short and of A-Z a-z 0-9"
        raise UserError(f"{name!r} cannot be the name of a speaker", "name of the speaker", fix)
    return name


def _one_of(value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise ValueError(f"one of {', '.join(known)}")
    return value


class PrepareSettings(BaseModel):
    """What the form says; checked, so that nothing but known values and plain names reaches a command."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Annotated[str, AfterValidator(check_model_name)] = DEFAULT_MODEL
    speakers: tuple[Annotated[str, AfterValidator(check_speaker_name)], ...] = ()  # none: all
    slice: bool = True
    loudnorm: Loudnorm = "peak"
    encoder: Annotated[str, AfterValidator(partial(_one_of, known=tuple(ENCODERS)))] = "vec768l12"
    size: Size = "full"
    vol_aug: bool = False
    predictor: Annotated[str, AfterValidator(partial(_one_of, known=tuple(PREDICTORS)))] = "rmvpe"
    processes: Annotated[int, Field(ge=0, le=256)] = 1  # 0: one a core
    device: Annotated[str, Field(pattern=r"^(cpu|mps|cuda(:\d{1,2})?)?$")] = ""  # empty: the best there is
    use_diff: bool = False
    precision: Precision = "config"
    compile: bool = False
    max_steps: Annotated[int, Field(gt=0, lt=1e9)] | None = None
    max_minutes: Annotated[float, Field(gt=0, lt=1e9)] | None = None
    checkpoint: Annotated[str, Field(pattern=r"^G_(\d+|best)\.pth$")] = "G_best.pth"
    half: bool = False


def checked(**values: object) -> PrepareSettings:
    """Settings from what a browser sent. Raises UserError that names the value and what it may be."""
    try:
        return PrepareSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "settings"
        given = first.get("input")
        raise UserError(f"{given!r} is no value of {where}", where, f"take {first['msg']}") from None


@dataclass(frozen=True)
class Project:
    """Where the files of a model lie, from the user's folder; forward slashes, as the commands show them."""

    model: str

    def _place(self, folder: str, name: str) -> PurePosixPath:
        own = () if self.model == DEFAULT_MODEL else (self.model,)
        return PurePosixPath(folder, *own, name)

    @property
    def dataset(self) -> PurePosixPath:
        """The clips."""
        return PurePosixPath("dataset", self.model)

    @property
    def training_list(self) -> PurePosixPath:
        """The clips to train on."""
        return self._place("filelists", "train.txt")

    @property
    def validation_list(self) -> PurePosixPath:
        """The clips to validate with."""
        return self._place("filelists", "val.txt")

    @property
    def config(self) -> PurePosixPath:
        """What train.py reads."""
        return self._place("configs", "config.json")

    @property
    def diffusion_config(self) -> PurePosixPath:
        """What train_diff.py reads."""
        return self._place("configs", "diffusion.yaml")

    @property
    def logs(self) -> PurePosixPath:
        """Checkpoints, metrics, events."""
        return PurePosixPath("logs", self.model)

    @property
    def report(self) -> PurePosixPath:
        """The report on the recordings."""
        return self.logs / "recordings.json"

    @property
    def release(self) -> PurePosixPath:
        """Where the convert tab finds the trained voice."""
        return PurePosixPath("trained", self.model, f"{self.model}.safetensors")


@dataclass(frozen=True)
class Step:
    """A step: the script and its arguments for given settings.

    Attributes:
        name: also that of its files in logs/<model>/jobs.
        exclusive: only one such step runs at a time on this machine.
    """

    name: str
    arguments: Callable[[PrepareSettings, Project], list[str]]
    exclusive: bool = False


def _unless(default: object, flag: str, value: object) -> list[str]:
    """A flag with its value, left out where the script takes that value by itself."""
    return [] if str(value) == str(default) else [flag, str(value)]


def _switch(on: bool, flag: str) -> list[str]:
    return [flag] if on else []


def _report(settings: PrepareSettings, project: Project) -> list[str]:
    return ["resample.py", "--report", str(project.report), *_of_speakers(settings)]


def _of_speakers(settings: PrepareSettings) -> list[str]:
    return ["--speakers", *settings.speakers] if settings.speakers else []


def _resample(settings: PrepareSettings, project: Project) -> list[str]:
    loudnorm = ["--skip_loudnorm"] if settings.loudnorm == "none" else _unless("peak", "--loudnorm", settings.loudnorm)
    folder = _unless("dataset/44k", "--out_dir2", project.dataset)
    return ["resample.py", *_switch(settings.slice, "--slice"), *loudnorm, *folder, *_of_speakers(settings)]


def _lists(settings: PrepareSettings, project: Project) -> list[str]:
    return [
        *("preprocess_flist_config.py", "--speech_encoder", settings.encoder),
        *([] if settings.size == "full" else [f"--{settings.size}"]),
        *_switch(settings.vol_aug, "--vol_aug"),
        *_unless("dataset/44k", "--source_dir", project.dataset),
        *_unless("filelists/train.txt", "--train_list", project.training_list),
        *_unless("filelists/val.txt", "--val_list", project.validation_list),
        *_unless("configs/config.json", "--config", project.config),
        *_unless("configs/diffusion.yaml", "--diffusion_config", project.diffusion_config),
        *_unless(DEFAULT_MODEL, "--model", settings.model),
        *_of_speakers(settings),
    ]


def _weights(settings: PrepareSettings, project: Project) -> list[str]:
    names = [weight_named(settings.encoder).name]
    if PREDICTORS[settings.predictor].weights:
        names.append(settings.predictor)
    return ["-m", "pretrain", "fetch", *names, *_switch(settings.use_diff, VOCODER)]


def _features(settings: PrepareSettings, project: Project) -> list[str]:
    diffusion_config = _unless("configs/diffusion.yaml", "--diffusion_config", project.diffusion_config)
    return [
        *("preprocess_hubert_f0.py", "--f0_predictor", settings.predictor),
        *_unless(1, "--num_processes", settings.processes),
        *_unless("", "-d", settings.device),
        *_unless("dataset/44k", "--in_dir", project.dataset),
        *_unless("configs/config.json", "-c", project.config),
        *(["--use_diff", *diffusion_config] if settings.use_diff else ()),
    ]


def _training(settings: PrepareSettings) -> list[str]:
    return [
        *_unless("", "-d", settings.device),
        *_unless("config", "--precision", settings.precision),
        *(["--max_steps", str(settings.max_steps)] if settings.max_steps else ()),
        *(["--max_minutes", f"{settings.max_minutes:g}"] if settings.max_minutes else ()),
    ]


def _train(settings: PrepareSettings, project: Project) -> list[str]:
    command = ["train.py", "-c", str(project.config), "-m", settings.model]
    return [*command, *_training(settings), *_switch(settings.compile, "--compile")]


def _train_diff(settings: PrepareSettings, project: Project) -> list[str]:
    return ["train_diff.py", "-c", str(project.diffusion_config), *_training(settings)]


def _index(settings: PrepareSettings, project: Project) -> list[str]:
    return [
        *("train_index.py", "-c", str(project.config)),
        *_unless("dataset/44k", "--root_dir", project.dataset),
        *_unless("logs/44k", "--output_dir", project.logs),
    ]


def _cluster(settings: PrepareSettings, project: Project) -> list[str]:
    return [
        "cluster/train_cluster.py",
        *_unless("dataset/44k", "--dataset", project.dataset),
        *_unless("logs/44k", "--output", project.logs),
        *_switch(settings.device.startswith("cuda"), "--gpu"),
    ]


def _release(settings: PrepareSettings, project: Project) -> list[str]:
    return [
        *("compress_model.py", "-c", str(project.logs / "config.json")),
        *("-i", str(project.logs / settings.checkpoint), "-o", str(project.release)),
        *("--safetensors", *_switch(settings.half, "--half")),
    ]


STEPS: dict[str, Step] = {
    step.name: step
    for step in (
        Step("report", _report),
        Step("resample", _resample),
        Step("lists", _lists),
        Step("weights", _weights),
        Step("features", _features),
        Step("train", _train, exclusive=True),
        Step("index", _index),
        Step("cluster", _cluster),
        Step("train_diff", _train_diff, exclusive=True),
        Step("release", _release),
    )
}
NUMBERED = ("resample", "lists", "features", "train")  # one after the other
EXCLUSIVE = tuple(step.name for step in STEPS.values() if step.exclusive)


def arguments(step: str, settings: PrepareSettings) -> list[str]:
    """What stands after ``python``, as the README types it."""
    return STEPS[step].arguments(settings, Project(settings.model))


def command(step: str, settings: PrepareSettings, code_dir: Path) -> list[str]:
    """The command as it is run: this Python, and the script by its whole path."""
    first, *rest = arguments(step, settings)
    script = first if first == "-m" else str(code_dir / first)
    return [sys.executable, script, *rest]
