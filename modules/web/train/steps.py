"""The numbered steps as the train tab runs them: checked settings into the commands that a user would type."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from cluster.options import ClusterOptions, IndexOptions
from modules.data import options
from modules.data.options import FeatureOptions, ListOptions, ResampleOptions
from modules.errors import UserError
from modules.f0 import PREDICTORS
from modules.options import flags
from modules.training import options as training
from modules.training.options import DiffusionTrainOptions, ReleaseOptions, TrainOptions
from pretrain import weight_named
from vencoder import ENCODERS

DEFAULT_MODEL = "44k"  # its files lie where the scripts look by default
VOCODER = "nsf_hifigan"

AS_RECORDED, FROM_CONFIG = "none", "config"
LOUDNORMS = (*options.LOUDNORMS, AS_RECORDED)
SIZES = ("full", "tiny", "micro")
PRECISIONS = (FROM_CONFIG, *training.PRECISIONS)

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


def _one_of(known: Iterable[str]) -> AfterValidator:
    words = tuple(known)

    def check(value: str) -> str:
        if value not in words:
            raise ValueError(f"one of {', '.join(words)}")
        return value

    return AfterValidator(check)


class PrepareSettings(BaseModel):
    """What the form says; checked, so that nothing but known values and plain names reaches a command."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Annotated[str, AfterValidator(check_model_name)] = DEFAULT_MODEL
    speakers: tuple[Annotated[str, AfterValidator(check_speaker_name)], ...] = ()  # none: all
    slice: bool = True
    loudnorm: Annotated[str, _one_of(LOUDNORMS)] = "peak"
    encoder: Annotated[str, _one_of(ENCODERS)] = "vec768l12"
    size: Annotated[str, _one_of(SIZES)] = "full"
    vol_aug: bool = False
    predictor: Annotated[str, _one_of(PREDICTORS)] = "rmvpe"
    processes: Annotated[int, Field(ge=0, le=256)] = 1  # 0: one a core
    device: Annotated[str, Field(pattern=r"^(cpu|mps|cuda(:\d{1,2})?)?$")] = ""  # empty: the best there is
    use_diff: bool = False
    precision: Annotated[str, _one_of(PRECISIONS)] = FROM_CONFIG
    compile: bool = False
    max_steps: Annotated[int, Field(gt=0, lt=1e9)] | None = None
    max_minutes: Annotated[float, Field(gt=0, lt=1e9)] | None = None
    checkpoint: Annotated[str, Field(pattern=r"^G_(\d+|best)\.pth$")] = "G_best.pth"
    half: bool = False


BASE_ENCODER = "whisper-ppg-base"  # of the base model, which the size micro fits
WITHOUT_GPU = {"size": "micro", "encoder": BASE_ENCODER, "predictor": "fcpe"}


def proposed(model: str, has_gpu: bool) -> PrepareSettings:
    """What a person begins with: without a GPU what trains there, from the base model and with one weight to fetch."""
    return checked(model=model, **({} if has_gpu else WITHOUT_GPU))


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
    """A step: the script, and what it is told for given settings.

    Attributes:
        name: also that of its files in logs/<model>/jobs.
        options: the script's own options.
        shown: those of them that the command shows at their default too.
        exclusive: only one such step runs at a time on this machine.
    """

    name: str
    script: str
    options: Callable[[PrepareSettings, Project], Any]
    shown: tuple[str, ...] = ()
    exclusive: bool = False

    def arguments(self, settings: PrepareSettings, project: Project) -> list[str]:
        """What stands after ``python``."""
        return [self.script, *flags(self.options(settings, project), shown=self.shown)]


def _report(settings: PrepareSettings, project: Project) -> ResampleOptions:
    return ResampleOptions(report=str(project.report), speakers=settings.speakers)


def _resample(settings: PrepareSettings, project: Project) -> ResampleOptions:
    quiet = settings.loudnorm == AS_RECORDED
    options = ResampleOptions(slice=settings.slice, skip_loudnorm=quiet, speakers=settings.speakers)
    loudnorm = options.loudnorm if quiet else settings.loudnorm
    return replace(options, loudnorm=loudnorm, out_dir=Path(project.dataset))


def _lists(settings: PrepareSettings, project: Project) -> ListOptions:
    options = ListOptions(
        speech_encoder=settings.encoder,
        tiny=settings.size == "tiny",
        micro=settings.size == "micro",
        vol_aug=settings.vol_aug,
        config=Path(project.config),
        diffusion_config=Path(project.diffusion_config),
        model=settings.model,
        speakers=settings.speakers,
    )
    if settings.model == DEFAULT_MODEL:
        return options
    train, val = str(project.training_list), str(project.validation_list)
    return replace(options, source_dir=str(project.dataset), train_list=train, val_list=val)


def _features(settings: PrepareSettings, project: Project) -> FeatureOptions:
    options = FeatureOptions(
        f0_predictor=settings.predictor,
        num_processes=settings.processes,
        device=settings.device or None,
        in_dir=Path(project.dataset),
        config=Path(project.config),
    )
    if settings.use_diff:
        options = replace(options, use_diff=True, diffusion_config=Path(project.diffusion_config))
    return options


def _run(settings: PrepareSettings) -> dict[str, Any]:
    """The fields of RunOptions."""
    return {
        "device": settings.device or None,
        "precision": None if settings.precision == FROM_CONFIG else settings.precision,
        "max_steps": settings.max_steps,
        "max_minutes": settings.max_minutes,
    }


def _train(settings: PrepareSettings, project: Project) -> TrainOptions:
    config = Path(project.config)
    return TrainOptions(config=config, model=settings.model, compile=settings.compile, **_run(settings))


def _train_diff(settings: PrepareSettings, project: Project) -> DiffusionTrainOptions:
    return DiffusionTrainOptions(config=Path(project.diffusion_config), **_run(settings))


def _index(settings: PrepareSettings, project: Project) -> IndexOptions:
    return IndexOptions(root_dir=Path(project.dataset), config=Path(project.config), output_dir=Path(project.logs))


def _cluster(settings: PrepareSettings, project: Project) -> ClusterOptions:
    gpu = settings.device.startswith("cuda")
    return ClusterOptions(dataset=Path(project.dataset), output=Path(project.logs), gpu=gpu)


def _release(settings: PrepareSettings, project: Project) -> ReleaseOptions:
    logs = Path(project.logs)
    files = {"config": logs / "config.json", "input": logs / settings.checkpoint, "output": Path(project.release)}
    return ReleaseOptions(**files, safetensors=True, half=settings.half)


class WeightsStep(Step):
    """The step that fetches what the others need: its words are names, not flags."""

    def arguments(self, settings: PrepareSettings, project: Project) -> list[str]:
        return [*self.script.split(), *needed_weights(settings.encoder, settings.predictor, settings.use_diff)]


def needed_weights(encoder: str, predictor: str, use_diff: bool) -> list[str]:
    """Names of the pretrained weights that making features needs."""
    names = [weight_named(encoder).name]
    names += [predictor] if PREDICTORS[predictor].weights else []
    return [*names, VOCODER] if use_diff else names


STEPS: dict[str, Step] = {
    step.name: step
    for step in (
        Step("report", "resample.py", _report),
        Step("resample", "resample.py", _resample),
        Step("lists", "preprocess_flist_config.py", _lists, shown=("speech_encoder",)),
        WeightsStep("weights", "-m pretrain fetch", lambda *_: None),
        Step("features", "preprocess_hubert_f0.py", _features, shown=("f0_predictor",)),
        Step("train", "train.py", _train, shown=("config",), exclusive=True),
        Step("index", "train_index.py", _index, shown=("config",)),
        Step("cluster", "cluster/train_cluster.py", _cluster),
        Step("train_diff", "train_diff.py", _train_diff, shown=("config",), exclusive=True),
        Step("release", "compress_model.py", _release),
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
