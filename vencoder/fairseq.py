"""Reads fairseq checkpoints without fairseq, and without running anything from them.

Beside tensors they carry objects of fairseq, omegaconf and argparse. Each known class has an inert stand-in here
that only keeps what the file says of it; any other object is refused by its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modules import checkpoint
from modules.errors import UserError


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


FOREIGN_CLASSES = (
    "argparse.Namespace",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.Metadata",
    "omegaconf.base.ContainerMetadata",
    *(
        f"omegaconf.nodes.{kind}Node"
        for kind in ("Any", "String", "Integer", "Float", "Boolean", "Enum", "Bytes", "Path", "Interpolation")
    ),
    "fairseq.data.dictionary.Dictionary",
    "fairseq.tasks.hubert_pretraining.LabelEncoder",
    "fairseq.tasks.hubert_pretraining.HubertPretrainingConfig",
    "fairseq.models.hubert.hubert.HubertConfig",
    "fairseq.dataclass.configs.FairseqConfig",
    *(
        f"fairseq.dataclass.constants.{kind}"
        for kind in ("ChoiceEnum", "StrEnum", "Choices", "DDP_BACKEND_CHOICES", "LOG_FORMAT_CHOICES")
    ),
    *(f"fairseq.logging.meters.{kind}Meter" for kind in ("Average", "Time", "Stopwatch")),
    *(f"fairseq.meters.{kind}Meter" for kind in ("Average", "Time", "Stopwatch")),
    "enum.Choices",  # what fairseq's ChoiceEnum factory makes belongs to no module of its own
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    # what omegaconf's metadata names as the type of a node
    "operator.getitem",
    *(f"typing.{kind}" for kind in ("Any", "List", "Dict", "Tuple", "Optional", "Union")),
    *(f"builtins.{kind}" for kind in ("str", "int", "float", "bool", "bytes", "list", "dict", "tuple", "type")),
)
STAND_INS: list[Any] = [(type(name.rpartition(".")[2], (StandIn,), {}), name) for name in FOREIGN_CLASSES]


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
    with torch.serialization.safe_globals(STAND_INS):
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
