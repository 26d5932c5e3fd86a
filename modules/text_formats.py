"""Reads JSON and YAML that anybody may have written: bounded in size and depth, and only text that can be written."""

from __future__ import annotations

import functools
import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any, TypeVar, cast

from modules.errors import UserError

MAX_TEXT_BYTES = 32 * 2**20
MAX_YAML_VALUES = 200_000  # with every alias counted as often as it is used
MAX_DEPTH = 100
Note = TypeVar("Note")


def read_text(path: str | Path, kind: str = "file", fix: str = "check the path") -> str:
    """The text of a UTF-8 file, with or without a byte order mark (Windows Notepad writes one).

    Args:
        kind: what the file is, for the message.
        fix: what to do where it is missing.

    Raises:
        UserError: it is missing, no file, no UTF-8 or too large.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise UserError(f"the {kind} has {path.stat().st_size} bytes, which no {kind} has", path, "get it anew")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"there is no such {kind}", path, fix) from None
    except (IsADirectoryError, PermissionError) as error:
        if not path.is_dir():  # opening a folder is a PermissionError on Windows
            raise
        raise UserError(f"the {kind} is a folder", path, "give the path of a file") from error
    except UnicodeDecodeError:
        raise UserError(f"the {kind} is not UTF-8 text", path, "save it as UTF-8") from None


def parse_json(text: str) -> Any:
    """The values of a JSON text. Raises ValueError where it is broken, nests too deep or holds what is no text."""
    try:
        values = json.loads(text)
    except RecursionError:
        raise ValueError("it nests its values without end") from None
    _check(values)
    return values


def read_as(kind: type[Note], path: Path) -> Note | None:
    """The dataclass that a JSON file holds; None where the file is missing, broken or of another kind.

    For notes of our own beside files that people exchange: a broken note is no note.
    """
    try:
        return _adapter(cast(Hashable, kind)).validate_python(parse_json(read_text(path)))
    except (UserError, OSError, ValueError):  # pydantic's errors are ValueErrors
        return None


@functools.cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter  # not part of every install

    return TypeAdapter(kind)


def parse_yaml(text: str) -> Any:
    """The values of a YAML text, plain ones only.

    Raises:
        ValueError: it is broken, nests too deep, refers to itself, or unfolds by aliases to more than a config holds.
    """
    import yaml

    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _count_values(node, {}, 0)
            values = loader.construct_document(node)
        finally:
            loader.dispose()
    except (yaml.YAMLError, RecursionError, OverflowError, TypeError) as error:
        raise ValueError(" ".join(str(error).split())) from None
    _check(values)
    return values


def _count_values(node: Any, done: dict[int, int], depth: int) -> int:
    """How many values a YAML node has when every alias is written out."""
    if depth > MAX_DEPTH:
        raise ValueError("it nests its values without end")
    if id(node) not in done:
        done[id(node)] = MAX_YAML_VALUES  # what an alias inside its own anchor would count
        parts = node.value if isinstance(node.value, list) else []
        flat = [part for item in parts for part in (item if isinstance(item, tuple) else (item,))]
        done[id(node)] = 1 + sum(_count_values(part, done, depth + 1) for part in flat)
    if done[id(node)] >= MAX_YAML_VALUES:
        raise ValueError("its aliases unfold to more values than a config holds")
    return done[id(node)]


def _check(values: Any) -> None:
    """Refuse text that no file can hold (lone surrogates), and values nested too deep."""
    level = [values]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, str):
                value.encode()  # UnicodeEncodeError is a ValueError
            elif isinstance(value, dict):
                below += [*value, *value.values()]
            elif isinstance(value, (list, tuple)):
                below += value
        if not below:
            return
        level = below
    raise ValueError("it nests its values without end")
