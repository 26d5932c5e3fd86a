"""Refuses networks that no machine trains before their memory is allocated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from pydantic import BaseModel
from torch import nn

from modules.errors import UserError

MAX_PARAMETERS = 2e9  # the published models have 0.05e9
# With every size up to twice the published one, a network has up to 16 times its parameters.
ORDINARY = 2
TABLE_ROWS = ("n_speakers", "n_spk")  # a row a speaker: never what makes a network large by itself


def check_size(section: BaseModel, make: Callable[[], nn.Module], more: Mapping[str, float] | None = None) -> None:
    """Refuse to make a network of more than MAX_PARAMETERS.

    Args:
        section: the sizes, with those of the published model as defaults.
        make: makes the network; called without memory, and only where a size is beyond the ordinary.
        more: other sizes, by their keys, as multiples of the published ones.

    Raises:
        UserError: tells how many parameters there would be, and the size that is furthest from the published one.
    """
    growth = {**dict(_growth(section)), **(more or {})}
    largest = max(growth, key=lambda name: growth[name])
    if growth[largest] <= ORDINARY:
        return
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in make().parameters())
    if count > MAX_PARAMETERS:
        what = f"a network of {count / 1e9:.1f} thousand million parameters; {MAX_PARAMETERS / 1e9:g} are the most"
        fix = "lower it, or take the config that belongs to the model"
        raise UserError(what, f"the config, key {largest} ({growth[largest]:g} times the published one)", fix)


def _growth(section: BaseModel) -> Iterator[tuple[str, float]]:
    """How many times the published value each size is."""
    for name, field in type(section).model_fields.items():
        own, published = (list(_numbers(value)) for value in (getattr(section, name), field.default))
        if own and published and name not in TABLE_ROWS:
            yield f"model.{name}", max(max(own) / max(*published, 1), len(own) / len(published))


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value
