"""Reads torch files that carry objects of other programs, and runs nothing from them.

Beside tensors, fairseq's checkpoints hold objects of fairseq, omegaconf and argparse. Each of these gets an inert
stand-in that only keeps what the file says of it; any other object is refused by its name.
"""

from __future__ import annotations

import contextlib
import functools
import pickletools
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from modules import checkpoint
from modules.errors import UserError

LEGACY_PICKLES = 4  # before the tensors of a file in torch's older format: magic, protocol, system, content


def read(path: Path) -> Any:
    """What a .pt, .pth or .safetensors file holds: tensors, arrays, dicts, lists and plain values.

    Raises:
        UserError: the file is missing or broken, or carries an object that is not known; the message names it.
    """
    with torch.serialization.safe_globals(stand_ins(path)):
        content = checkpoint.load(path)
    try:
        return plain(content)
    except RecursionError:
        raise UserError("the file nests its contents without end", path, "get it from a source you trust") from None


class StandIn:
    """Takes the place of a foreign object and keeps its arguments and its state; it does nothing."""

    def __new__(cls, *args: Any) -> StandIn:
        made = super().__new__(cls)
        made.args = args
        made.state = None
        return made

    args: tuple[Any, ...]
    state: Any

    def __init__(self, *args: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.state = state


FOREIGN_PACKAGES = ("fairseq", "omegaconf")
# What else their objects refer to: settings of older files, and the types that omegaconf notes for its nodes.
FOREIGN_NAMES = (
    "argparse.Namespace",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "_operator.getitem",
    "operator.getitem",
    *(f"typing.{kind}" for kind in ("Any", "List", "Dict", "Tuple", "Optional", "Union")),
    *(f"builtins.{kind}" for kind in ("str", "int", "float", "bool", "bytes", "list", "dict", "tuple", "type")),
)


@functools.cache
def stand_in(name: str) -> tuple[type[StandIn], str]:
    """The inert class that torch's safe reader shall put where the file says ``name``."""
    return type(name.rpartition(".")[2], (StandIn,), {}), name


def empty_dict(*_factory: Any) -> dict[Any, Any]:
    """What a defaultdict becomes: a dict, without what the file wants to have called for missing keys."""
    return {}


def stand_ins(path: Path) -> list[Any]:
    """Stand-ins for what the file may refer to; anything else stays refused."""
    named = (name for name in global_names(path) if name.partition(".")[0] in FOREIGN_PACKAGES)
    return [*map(stand_in, (*FOREIGN_NAMES, *named)), (empty_dict, "collections.defaultdict")]


def global_names(path: Path) -> set[str]:
    """Names of the classes and functions that a file's pickles refer to; nothing is loaded or run."""
    names: set[str] = set()
    with contextlib.suppress(Exception), path.open("rb") as file:  # reading the file will say what is wrong with it
        streams: list[IO[bytes]] = [file] * LEGACY_PICKLES
        if zipfile.is_zipfile(file):
            archive = zipfile.ZipFile(file)
            streams = [archive.open(name) for name in archive.namelist() if name.endswith("/data.pkl")]
        else:
            file.seek(0)
        for stream in streams:
            names |= {str(arg).replace(" ", ".") for op, arg, _ in pickletools.genops(stream) if op.name == "GLOBAL"}
    return names


def plain(value: Any, done: dict[int, Any] | None = None) -> Any:
    """``value`` with stand-ins replaced by the dicts, lists and values they hold.

    Objects that are neither become None, and so does an object inside itself. What is shared stays shared, so
    that a small file cannot grow without bounds.
    """
    if isinstance(value, (Tensor, np.ndarray, np.generic, str, int, float, bool)):
        return value
    done = {} if done is None else done
    if id(value) not in done:
        done[id(value)] = None
        done[id(value)] = _plain(value, done)
    return done[id(value)]


def _plain(value: Any, done: dict[int, Any]) -> Any:
    if isinstance(value, StandIn):
        if not isinstance(value.state, dict):
            return plain(value.args[0], done) if value.args else None
        for content in ("_content", "_val"):  # omegaconf's containers and nodes
            if content in value.state:
                return plain(value.state[content], done)
        return plain(value.state, done)
    if isinstance(value, dict):
        return {_plain_key(key): plain(item, done) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, done) for item in value]
    return None


def _plain_key(key: Any) -> Any:
    return key if isinstance(key, (str, int)) else str(key)
