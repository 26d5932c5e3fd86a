"""What the command lines of train.py and train_diff.py add to the config, and that of compress_model.py.

Importing this module is cheap: no torch.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from modules.cli import positive_float, positive_int
from modules.data.options import CONFIG_PATH, DIFFUSION_CONFIG_PATH
from modules.options import setting

PRECISIONS = ("fp32", "fp16", "bf16")


def say_what_loads() -> None:
    """Tell why nothing happens for some seconds, once for all ranks of torchrun."""
    if os.environ.get("RANK", "0") == "0":
        print("loading PyTorch", flush=True)


@dataclass(frozen=True)
class ModelFolder:
    """Which voice is trained and where it lies."""

    config: Path = setting(CONFIG_PATH, "-c", "--config", help="config.json")
    model: str = setting("", "-m", "--model", required=True, help="name of the model: its folder in --log_dir")
    log_dir: Path = setting(Path("logs"), "--log_dir", help="where the folders of models are")
    from_scratch: bool = setting(
        False, "--from-scratch", help="start from random weights, not from the model in pretrain/base"
    )

    @property
    def model_dir(self) -> Path:
        """Where checkpoints and logs go."""
        return self.log_dir / self.model


@dataclass(frozen=True)
class DiffusionConfigFile:
    """Which diffusion model is trained; its config says where it lies."""

    config: Path = setting(DIFFUSION_CONFIG_PATH, "-c", "--config", help="diffusion.yaml")


@dataclass(frozen=True)
class RunOptions:
    """Where, how long and how exactly any network is trained."""

    device: str | None = setting(
        None, "-d", "--device", help="cpu, cuda, cuda:1 or mps; default: the config's, else the best there is"
    )
    precision: str | None = setting(None, "--precision", choices=PRECISIONS, help="instead of the config's amp_dtype")
    max_steps: int | None = setting(
        None, "--max_steps", parse=positive_int, low=1, help="end at this step, counted from the very first"
    )
    max_minutes: float | None = setting(
        None, "--max_minutes", parse=positive_float, low=0, help="end after so many minutes of this run"
    )
    num_workers: int | None = setting(
        None, "--num_workers", help="processes that load clips; default: as the config says"
    )
    new_speakers: bool = setting(
        False, "--new-speakers", help="go on from the model in this folder though all of its speakers are others"
    )


@dataclass(frozen=True)
class DiffusionTrainOptions(RunOptions, DiffusionConfigFile):
    """The command line of train_diff.py."""


@dataclass(frozen=True)
class TrainOptions(RunOptions, ModelFolder):
    """The command line of train.py."""

    device: str | None = setting(None, "-d", "--device", help="cpu, cuda, cuda:1 or mps; default: the best there is")
    num_workers: int | None = setting(
        None, "--num_workers", help="processes that load clips; default: as many as are useful"
    )
    precision: str | None = setting(None, "--precision", choices=PRECISIONS, help="instead of the config's fp16_run")
    compile: bool = setting(False, "--compile", help="compile the decoder (a slow start, faster steps)")
    patience: int = setting(
        10, "--patience", parse=positive_int, low=1, help="evaluations without improvement before the run says so"
    )
    stop_early: bool = setting(False, "--stop_early", help="and end then")
    base_dir: Path | None = None  # of the base model to start from where the model's folder holds no pair


@dataclass(frozen=True)
class ReleaseOptions:
    """The command line of compress_model.py."""

    config: Path | None = setting(
        None, "-c", "--config", help=f"the model's config; default: config.json beside it, else {CONFIG_PATH}"
    )
    input: Path = setting(Path(), "-i", "--input", help="the model, G_<step>.pth", required=True)
    output: Path | None = setting(
        None, "-o", "--output", help="the release; default <input>_release[_half].pth or .safetensors"
    )
    safetensors: bool = setting(False, "--safetensors", help="write one .safetensors file that carries its config")
    half: bool = setting(False, "--half", "-hf", help="store 16-bit weights, half the size again")
    posterior: Path | None = setting(
        None, "--posterior", help="also write the posterior encoder, for training on from it", metavar="FILE"
    )
