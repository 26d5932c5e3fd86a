"""Reads fairseq checkpoints, and WavLM's, without fairseq."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from modules.errors import UserError
from pretrain import foreign


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
    content = foreign.read(path)
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise UserError("the file is not a fairseq checkpoint: it has no model", path, "use the official file")
    state = {key: value for key, value in content["model"].items() if isinstance(value, Tensor)}
    return FairseqCheckpoint(state, model_settings(content))


def model_settings(content: dict[str, Any]) -> dict[str, Any]:
    """The model section of ``cfg``, or the older flat ``args``, as plain values."""
    settings = content.get("cfg") or content.get("args")
    if not isinstance(settings, dict):
        return {}
    section = settings.get("model")
    return section if isinstance(section, dict) else settings  # WavLM keeps its settings flat
