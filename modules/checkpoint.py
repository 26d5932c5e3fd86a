"""Every read and write of weights: safe (nothing from a file is ever run) and atomic.

Training checkpoints are dicts with the keys model, iteration (epoch), optimizer and learning_rate, named
G_<step>.pth and D_<step>.pth; modules/training/resume.py knows which of a folder are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modules import torch_files
from modules.errors import UserError
from modules.files import atomic_path, write_bytes
from modules.foreign_models import refuse_other_kinds
from modules.packing import STRUCTURE, unpack
from modules.pickles import Admit, BrokenPickle, RefusedName, refuse


def load(
    path: str | Path, map_location: str | torch.device = "cpu", admit: Admit = refuse
) -> Any:
    """Read a .pth, .pt or .safetensors file without running anything from it.

    Args:
        admit: what a .pth or .pt may name besides tensors and arrays.

    Returns:
        What the file holds: usually a dict. A .safetensors file gives its tensors by name, or what the .pth held
        that ``python -m pretrain convert`` made it from.

    Raises:
        UserError: the file is missing, broken, or carries an object that would have to run code; the message
            names the object.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError("there is no such file", path, "check the path")
    if path.suffix == ".safetensors":
        return _load_safetensors(path, map_location)
    try:
        return torch_files.read(path, map_location, admit)
    except RefusedName as error:
        raise UserError(
            f"refused: the file carries {error}, which is code and not weights",
            path,
            "get the file from a source you trust, saved as plain weights",
        ) from None
    except Exception as error:  # a broken zip archive fails in many ways
        raise _broken(error, path) from None


def _load_safetensors(path: Path, map_location: str | torch.device) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path, device=str(map_location))
        structure = safetensors_metadata(path).get(STRUCTURE)
        return tensors if structure is None else unpack(tensors, structure)
    except (SafetensorError, ValueError) as error:
        raise _broken(error, path) from None


def _broken(error: Exception, path: Path) -> UserError:
    detail = str(error) if isinstance(error, BrokenPickle) else type(error).__name__
    return UserError(f"cannot read the file: it is cut off or not a weights file ({detail})", path, "get it again")


def save(obj: Any, path: str | Path) -> None:
    """Write ``obj`` with torch.save, atomically. Raises OSError naming ``path`` where the disk is full."""
    # Given a path, torch.save reports a full disk as a RuntimeError without its cause.
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(obj, file)
        except RuntimeError as error:
            # Its writer fails once more when it closes the half file; what went wrong first stands behind that.
            if not isinstance(error.__context__, OSError):
                raise
            raise error.__context__ from None


def save_safetensors(state: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str]) -> None:
    """Write tensors and text metadata as one .safetensors file, atomically. Raises OSError as ``save``."""
    from safetensors.torch import save

    # safetensors refuses tensors that share memory, as the flow's shared layers do
    separate = {key: value.detach().cpu().clone().contiguous() for key, value in state.items()}
    # Through memory: its writer reports a full disk as an error of its own.
    write_bytes(path, save(separate, dict(metadata)))


def safetensors_metadata(path: str | Path) -> dict[str, str]:
    """The text metadata of a .safetensors file; a released model keeps its config under "config"."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except FileNotFoundError:
        raise UserError("there is no such file", path, "check the path") from None
    except SafetensorError as error:
        raise _broken(error, Path(path)) from None


@dataclass(frozen=True)
class LoadReport:
    """Which keys of a model a file did not fill, and which of its keys the model has not got."""

    loaded: int
    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]  # "key: shape in the file, shape in the model"

    def describe(self, limit: int = 5) -> str:
        """A few lines for the user; empty where everything fitted."""
        parts = []
        for title, keys in (("missing", self.missing), ("of another shape", self.mismatched)):
            if keys:
                more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
                parts.append(f"{len(keys)} keys {title}: {', '.join(keys[:limit])}{more}")
        return "\n".join(parts)


def load_into(
    module: nn.Module,
    state: Mapping[str, Tensor],
    source: object,
    ignore: Iterable[str] = (),
    strict: bool = True,
) -> LoadReport:
    """Copy ``state`` into ``module``, keeping the module's dtype and device.

    Args:
        ignore: prefixes of keys in the file that the module is not meant to have (``enc_q.`` at inference).
        strict: refuse any missing key or other shape; otherwise such keys stay as initialised and are reported.

    Raises:
        UserError: strict and something does not fit, or no key fits at all.
    """
    report = compare(module, state, source, ignore, strict)
    own = module.state_dict()
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    ignored = tuple(ignore)
    module.load_state_dict({key: fitting[key] for key in fitting if not key.startswith(ignored)}, strict=False)
    return report


def compare(
    module: nn.Module, state: Mapping[str, Tensor], source: object, ignore: Iterable[str] = (), strict: bool = True
) -> LoadReport:
    """What load_into would copy; ``module`` needs no memory. Raises UserError as load_into."""
    ignored = tuple(ignore)
    offered = {key: value for key, value in state.items() if not key.startswith(ignored)}
    own = module.state_dict()
    report = LoadReport(
        loaded=sum(key in own and own[key].shape == value.shape for key, value in offered.items()),
        missing=[key for key in own if key not in offered],
        unexpected=[key for key in offered if key not in own],
        mismatched=[
            f"{key}: {list(value.shape)} in the file, {list(own[key].shape)} in the model"
            for key, value in offered.items()
            if key in own and own[key].shape != value.shape
        ],
    )
    if not report.loaded or (strict and (report.missing or report.mismatched)):
        raise UserError(
            f"the weights do not fit the model: {report.loaded} of {len(own)} keys fit\n{report.describe()}",
            source,
            "use the config that belongs to this model",
        )
    return report


def generator_state(path: str | Path) -> dict[str, Tensor]:
    """The weights in a generator's file. Raises UserError where it is broken or of another kind that is known."""
    content = load(path)
    refuse_other_kinds(content, path)
    return model_state(content, path)


def model_state(checkpoint: Any, source: object) -> dict[str, Tensor]:
    """The state dict inside a G/D checkpoint, a released model or a bare safetensors file.

    Raises:
        UserError: the file holds something else.
    """
    state = checkpoint.get("model", checkpoint) if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not any(isinstance(value, Tensor) for value in state.values()):
        raise UserError("the file holds no model weights", source, "give a G_<step>.pth or a released model")
    # "module." is what parallel wrappers put in front of every key
    return {key.removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}
