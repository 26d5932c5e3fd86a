"""Reads torch files that carry objects of other programs, and runs nothing from them.

Beside tensors, fairseq's checkpoints hold objects of fairseq, omegaconf and argparse. Each of these gets a placeholder
that only keeps what the file says of it; any other object is refused by its name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from modules import checkpoint
from modules.pickles import Call, Unfinished


def read(path: Path) -> Any:
    """What a .pt, .pth or .safetensors file holds: tensors, arrays, dicts, lists and plain values.

    Raises:
        UserError: the file is missing or broken, or carries an object that is not known; the message names it.
    """
    return plain(checkpoint.load(path, admit=admit))


class Placeholder(Unfinished):
    """Takes the place of an object of another program and keeps its arguments and its state; it does nothing."""

    def __init__(self, *args: Any) -> None:
        self.args = args
        self.state: Any = None

    def finish(self, state: Any) -> Placeholder:
        """Keep the state."""
        self.state = state
        return self


FOREIGN_PACKAGES = ("fairseq", "omegaconf")
# What else their objects refer to: settings of older files, and the types that omegaconf notes for its nodes.
FOREIGN_NAMES = {
    "argparse.Namespace",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "_operator.getitem",
    "operator.getitem",
    *(f"typing.{kind}" for kind in ("Any", "List", "Dict", "Tuple", "Optional", "Union")),
    *(f"builtins.{kind}" for kind in ("str", "int", "float", "bool", "bytes", "list", "dict", "tuple", "type")),
}


def admit(name: str) -> Call:
    """What the files may name besides tensors and arrays. Raises KeyError for anything else."""
    if name == "collections.defaultdict":
        return Call(lambda *_factory: {})
    if name.partition(".")[0] in FOREIGN_PACKAGES or name in FOREIGN_NAMES:
        return Call(Placeholder)
    raise KeyError(name)


def plain(value: Any, done: dict[int, Any] | None = None) -> Any:
    """``value`` with placeholders replaced by the dicts, lists and values they hold.

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
    if isinstance(value, Placeholder):
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
