"""Nested dicts and lists of tensors as flat named tensors plus one JSON text, and back.

This is how a .safetensors file holds what a .pth holds: its tensors under names that read like paths, and under
the metadata key "structure" everything else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

STRUCTURE = "structure"


def pack(content: Any) -> tuple[dict[str, Tensor], str]:
    """Tensors by path, and the rest as JSON in which ["tensor", path] stands where a tensor was.

    Values that are no tensor, array, dict, list, number, text or None become None.
    """
    tensors: dict[str, Tensor] = {}
    return tensors, json.dumps(_pack(content, "", tensors), ensure_ascii=False)


def _pack(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    while path in tensors:  # {"a": {"b": x}, "a/b": y}
        path += "'"
    if isinstance(value, Tensor):
        tensors[path] = value
        return ["tensor", path]
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        tensors[path] = torch.from_numpy(np.ascontiguousarray(value))
        return ["array", path]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return ["dict", [[key, _pack(item, _below(path, key), tensors)] for key, item in value.items()]]
    if isinstance(value, (list, tuple)):
        return ["list", [_pack(item, _below(path, index), tensors) for index, item in enumerate(value)]]
    return ["value", value if isinstance(value, (str, int, float, bool)) else None]


def _below(path: str, key: object) -> str:
    return f"{path}/{key}" if path else str(key)


def unpack(tensors: Mapping[str, Tensor], structure: str) -> Any:
    """What was packed; tuples come back as lists.

    Raises:
        ValueError: the structure is not one that ``pack`` writes, or names a tensor that is not there.
    """
    try:
        return _unpack(json.loads(structure), tensors)
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"broken structure: {error}") from None


def _unpack(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    kind, body = node
    if kind == "tensor":
        return tensors[body]
    if kind == "array":
        return tensors[body].numpy()
    if kind == "dict":
        return {key: _unpack(item, tensors) for key, item in body}
    if kind == "list":
        return [_unpack(item, tensors) for item in body]
    if kind == "value":
        return body
    raise ValueError(f"broken structure: {kind!r}")
