"""Which pretrained weights there are, where they come from, how they are fetched and checked."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modules.errors import UserError
from pretrain.weights import BY_NAME, WEIGHTS, Weight

DEFAULT_DIR = Path("pretrain")
BASE_DIR = Path(__file__).resolve().parent / "base"  # the base model that comes with the project
BASE_GENERATOR, BASE_POSTERIOR, BASE_DISCRIMINATOR = "G_0.safetensors", "Q_0.safetensors", "D_0.safetensors"
AUTO_DOWNLOAD = "SVC_AUTO_DOWNLOAD"  # environment variable; 1 lets scripts fetch what they miss


def find(name: str, pretrain_dir: Path = DEFAULT_DIR) -> Path | None:
    """The file of the weight ``name``, None where none of its forms is there."""
    return next((path for path in weight_named(name).candidates(pretrain_dir) if path.is_file()), None)


def require(name: str, pretrain_dir: Path = DEFAULT_DIR) -> Path:
    """The file of the weight ``name``; fetched now where ``allow_download`` was called or SVC_AUTO_DOWNLOAD is 1.

    Raises:
        UserError: it is not there; the message names the file, its size and the command that fetches it.
    """
    path = find(name, pretrain_dir)
    if path is not None:
        return path
    weight = weight_named(name)
    if os.environ.get(AUTO_DOWNLOAD) == "1":
        from pretrain.fetch import fetch

        return fetch(weight, pretrain_dir)
    raise UserError(
        f"the weights {weight.name} are missing (about {weight.size / 1e6:.0f} MB, for {' and '.join(weight.serves)})",
        weight.path(pretrain_dir),
        how_to_get(weight, pretrain_dir),
    )


def allow_download() -> None:
    """Let this process and its children fetch missing weights."""
    os.environ[AUTO_DOWNLOAD] = "1"


class AllowDownload(argparse.Action):
    """The flag --download of a script."""

    def __init__(self, option_strings: Sequence[str], dest: str, **_: Any) -> None:
        super().__init__(
            option_strings,
            dest,
            nargs=0,
            default=argparse.SUPPRESS,
            help=f"fetch pretrained weights that are missing; {AUTO_DOWNLOAD}=1 in the environment does the same",
        )

    def __call__(self, *_: Any) -> None:
        """Seen on the command line."""
        allow_download()


def weight_named(name: str) -> Weight:
    """The entry of the table by its name, by an encoder that it serves, or by its file's name.

    Raises:
        UserError: there is no such entry.
    """
    found = BY_NAME.get(name) or next((weight for weight in WEIGHTS if name in _also_called(weight)), None)
    if found is None:
        raise UserError(f"there are no weights called {name}", "", f"choose from: {', '.join(BY_NAME)}")
    return found


def _also_called(weight: Weight) -> tuple[str, ...]:
    file = Path(weight.file)
    return (*weight.serves, file.name, file.stem)


def how_to_get(weight: Weight, pretrain_dir: Path = DEFAULT_DIR) -> str:
    """The one command that puts the weight in place, or the page where a person finds it."""
    if not weight.urls and not weight.package:
        return f"get it from {weight.page} and put it there"
    where = "" if pretrain_dir == DEFAULT_DIR else f" --dir {pretrain_dir}"
    return f"run: python -m pretrain fetch {weight.name}{where}"
