"""The table of speakers of a model that begins with, or goes on from, a table for others: rows go by name."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modules import checkpoint
from modules.config import parse_config
from modules.errors import UserError
from modules.training.lineage import Lineage

MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW, each of its parameter's shape


def speaker_rows(table: Tensor, known: Mapping[str, int], wanted: Mapping[str, int], count: int) -> Tensor:
    """The speaker embeddings of a new model.

    Args:
        table: the base model's [S, C].
        known: its speakers' names and rows.
        wanted: the new model's.
        count: rows of the new table.

    Returns:
        [count, C]: the row of the same name where the base model knows it, else the mean of its speakers.
    """
    rows = _mean(table, known).repeat(count, 1)
    for name, number in wanted.items():
        if name in known:
            rows[number] = table[known[name]]
    return rows


def grown_rows(table: Tensor, known: Mapping[str, int], count: int) -> Tensor:
    """[count, C]: the first rows of ``table``; those that it has not got are the mean of its speakers."""
    more = max(0, count - len(table))
    return torch.cat([table[:count], _mean(table, known).repeat(more, 1)])


def _mean(table: Tensor, known: Mapping[str, int]) -> Tensor:
    rows = sorted(number for number in known.values() if number < len(table))
    return (table[rows] if rows else table).mean(dim=0)


def speakers_of_base(path: Path, rows: int, configs: tuple[str, ...]) -> Mapping[str, int] | None:
    """Whose rows the table of a base model holds; None where nothing tells.

    Args:
        path: the base model; a .safetensors file may carry its config, else one of ``configs`` beside it tells.
        rows: of its table. A config with room for another number of speakers is not its own.
    """
    found: list[Lineage] = []
    with contextlib.suppress(UserError):  # what cannot be read does not tell
        if path.suffix == ".safetensors" and (text := checkpoint.safetensors_metadata(path).get("config")):
            found.append(Lineage.of(parse_config(text, path)))
        found += [Lineage.read(path.with_name(name)) for name in configs if path.with_name(name).is_file()]
    return next((lineage.speakers for lineage in found if lineage.rows == rows and lineage.speakers), None)


def fit_base(
    state: dict[str, Tensor], key: str, count: int, known: Mapping[str, int] | None, wanted: Mapping[str, int]
) -> str:
    """Give the table in the weights of a base model ``count`` rows, by name or, where nobody is known, as they stand.

    Returns:
        What was done, for the user; empty where the table stays as it is.
    """
    table = state[key].float()
    if known is not None:
        state[key] = speaker_rows(table, known, wanted, count)
        if torch.equal(state[key], table):
            return ""
        kept = ", ".join(name for name in wanted if name in known)
        new = ", ".join(name for name in wanted if name not in known)
        parts = [f"{kept}: as it knows them"] * bool(kept) + [f"{new}: from the mean of its speakers"] * bool(new)
        return "; ".join(parts)
    if len(table) == count:
        return ""
    state[key] = grown_rows(table, {}, count)
    shapes = f"{list(table.shape)} in the file, {list(state[key].shape)} in the model"
    more = "; the new ones are the mean of all" if count > len(table) else ""
    return f"{key}: {shapes}: the first {min(len(table), count)} rows are taken{more}"


def grow_moments(module: nn.Module, saved: Mapping[str, Any], key: str, count: int) -> None:
    """Lengthen the moments of the table in an optimizer state whose parameters are in the order of ``module``."""
    names = [name for name, _ in module.named_parameters()]
    groups = saved.get("param_groups", [])
    if len(groups) != 1 or len(groups[0]["params"]) != len(names):
        return  # of another model
    moments = saved["state"].get(groups[0]["params"][names.index(key)], {})
    for name in MOMENTS:
        if name in moments and len(moments[name]) < count:
            more = moments[name].new_zeros(count - len(moments[name]), *moments[name].shape[1:])
            moments[name] = torch.cat([moments[name], more])
