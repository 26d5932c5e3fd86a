"""Reads fairseq checkpoints without fairseq, and without running anything from them.

Beside tensors they carry objects of fairseq, omegaconf and argparse. Each of these gets an inert stand-in
that only keeps what the file says of it; any other object is refused by its name.
"""

from __future__ import annotations

import contextlib
import functools
import pickletools
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from modules import checkpoint
from modules.errors import UserError

LEGACY_PICKLES = 4  # before the tensors of a file in torch's older format: magic, protocol, system, content


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
    with contextlib.suppress(OSError, ValueError, UnicodeDecodeError, zipfile.BadZipFile), path.open("rb") as file:
        streams: list[IO[bytes]] = [file] * LEGACY_PICKLES
        if zipfile.is_zipfile(file):
            archive = zipfile.ZipFile(file)
            streams = [archive.open(name) for name in archive.namelist() if name.endswith("/data.pkl")]
        else:
            file.seek(0)
        for stream in streams:
            names |= {str(arg).replace(" ", ".") for op, arg, _ in pickletools.genops(stream) if op.name == "GLOBAL"}
    return names


@dataclass(frozen=True)
class FairseqCheckpoint:
    """State dict and model settings of a fairseq file."""

    state: dict[str, Tensor]
    settings: dict[str, Any]


def read(path: Path) -> FairseqCheckpoint:
    """Read a fairseq checkpoint, in the zip or the older format of torch, or a .safetensors of one.

    Raises:
        UserError: the file is broken, is not a fairseq checkpoint, or carries an object that is not known.
    """
    with torch.serialization.safe_globals(stand_ins(path)):
        content = checkpoint.load(path)
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise UserError("the file is not a fairseq checkpoint: it has no model", path, "use the official file")
    state = {key: value for key, value in content["model"].items() if isinstance(value, Tensor)}
    return FairseqCheckpoint(state, model_settings(content))


def model_settings(content: dict[str, Any]) -> dict[str, Any]:
    """The model section of ``cfg``, or the older flat ``args``, as plain values."""
    cfg = plain(content.get("cfg"))
    if isinstance(cfg, dict) and isinstance(cfg.get("model"), dict):
        return cfg["model"]
    if isinstance(cfg, dict):  # WavLM keeps its settings flat
        return cfg
    args = plain(content.get("args"))
    return args if isinstance(args, dict) else {}


def plain(value: Any) -> Any:
    """``value`` with stand-ins replaced by the dicts, lists and values they hold; other objects become None."""
    if isinstance(value, StandIn):
        state = value.state
        if not isinstance(state, dict):
            return plain(value.args[0]) if value.args else None
        for content in ("_content", "_val"):  # omegaconf containers and nodes
            if content in state:
                return plain(state[content])
        return plain(state)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else None
