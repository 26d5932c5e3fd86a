"""Options declared once: a field of a frozen dataclass carries its default, flags, help and limits.

Scripts turn such a class into flags (``add_arguments``) and back (``from_namespace``); ``check`` holds the limits for
every caller, and ``flags`` writes the command line that gives the same options. Standard library only.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from modules.errors import UserError

Options = TypeVar("Options")


@dataclass(frozen=True)
class Setting:
    """How one field is shown, parsed and checked.

    Attributes:
        flags: its command line flags.
        help: one line for a user, with the unit.
        low, high: the values it may take, both ends included; None is no limit.
        choices: the words it may be.
        parse: text -> value where the type of the field does not say it; raises ValueError or ArgumentTypeError.
        many: it takes one value or more and is a tuple.
        const: the value of the flag alone, for a flag whose value may be left out.
        required: the flag has to be given.
        metavar: stands for the value in the help.
        exclusive: name of a group of flags of which one may be given.
    """

    flags: tuple[str, ...]
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] | None = None
    parse: Callable[[str], Any] | None = None
    many: bool = False
    const: Any = None
    required: bool = False
    metavar: str | None = None
    exclusive: str | None = None


def setting(default: Any, *flags: str, help: str, **details: Any) -> Any:
    """A dataclass field with a Setting; ``details`` are the other attributes of Setting."""
    return dataclasses.field(default=default, metadata={"setting": Setting(flags, help, **details)})


def settings(kind: type[Any]) -> Iterator[tuple[dataclasses.Field[Any], Setting]]:
    """The fields of an options class that are settings, in their order."""
    for field in dataclasses.fields(kind):
        if "setting" in field.metadata:
            yield field, field.metadata["setting"]


def add_arguments(group: argparse._ActionsContainer, kind: type[Any], only: tuple[str, ...] | None = None) -> None:
    """Add the flags of an options class to a parser or group; ``only`` names the fields to add."""
    exclusive: dict[str, argparse._ActionsContainer] = {}
    for field, setting in settings(kind):
        if only is not None and field.name not in only:
            continue
        place = group
        if setting.exclusive:
            if setting.exclusive not in exclusive:
                exclusive[setting.exclusive] = group.add_mutually_exclusive_group()
            place = exclusive[setting.exclusive]
        default: Any = field.default
        if isinstance(default, bool):
            place.add_argument(*setting.flags, dest=field.name, action="store_true", help=setting.help)
            continue
        details: dict[str, Any] = {"const": setting.const, "nargs": "?"} if setting.const is not None else {}
        if setting.many:
            details["nargs"] = "+"
        if setting.required:
            details["required"] = True
        place.add_argument(
            *setting.flags,
            dest=field.name,
            type=setting.parse or _PARSERS.get(str(field.type)) or type(default),
            default=None if setting.required else list(default) if setting.many else default,
            choices=setting.choices,
            metavar=setting.metavar,
            help=setting.help,
            **details,
        )


_PARSERS: dict[str, Callable[[str], Any]] = {
    "str | None": str,
    "int | None": int,
    "float | None": float,
    "Path": Path,
    "Path | None": lambda text: Path(text) if text else None,  # an empty -cm means the default file
    "tuple[str, ...]": str,
    "tuple[float, ...]": float,
    "tuple[Path, ...]": Path,
}


def from_namespace(kind: type[Options], namespace: argparse.Namespace, **given: Any) -> Options:
    """The options class filled from parsed arguments; ``given`` fills and overrides fields."""
    values = {
        field.name: tuple(value) if isinstance(value := getattr(namespace, field.name), list) else value
        for field, _ in settings(kind)
        if field.name not in given
    }
    return kind(**values, **given)


def check(options: Any) -> None:
    """Refuse any field outside its limits or choices.

    Raises:
        UserError: names the flag, the value and what it may be.
    """
    for field, setting in settings(type(options)):
        value = getattr(options, field.name)
        for single in value if setting.many else (value,):
            if single is not None:
                _check_value(single, setting)


def _check_value(value: Any, setting: Setting) -> None:
    flag = setting.flags[-1]
    if setting.choices and value not in setting.choices:
        raise UserError(f"unknown value {value!r}", flag, f"use one of {', '.join(setting.choices)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{value} is not a number to work with", flag, "give a finite number")
    below = setting.low is not None and value < setting.low
    above = setting.high is not None and value > setting.high
    if below or above:
        if setting.low is None:
            limits = f"at most {setting.high:g}"
        else:
            limits = f"{setting.low:g}" + ("" if setting.high is None else f" to {setting.high:g}")
        raise UserError(f"{value} is out of range", flag, f"use {limits}")


def flags(options: Any, root: Path | None = None, shown: tuple[str, ...] = ()) -> list[str]:
    """The words of a command line that give the same options; what is at its default is left out.

    Args:
        root: paths inside it are written relative to it.
        shown: fields that come first and are written at their default too, so that a reader sees them.
    """
    words: list[str] = []
    declared = {field.name: (field, setting) for field, setting in settings(type(options))}
    for name in dict.fromkeys((*shown, *declared)):
        field, setting = declared[name]
        value = getattr(options, name)
        if value == field.default and name not in shown:
            continue
        words.append(setting.flags[0])
        if isinstance(value, bool) or (setting.const is not None and value == setting.const):
            continue
        words += [_as_word(single, root) for single in (value if setting.many else (value,))]
    return words


def _as_word(value: Any, root: Path | None) -> str:
    if isinstance(value, Path):
        inside = root is not None and value.is_relative_to(root)
        return (value.relative_to(root) if root is not None and inside else value).as_posix()
    return f"{value:g}" if isinstance(value, float) else str(value)
