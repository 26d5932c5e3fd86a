"""The base model that comes with the project: whether a run can start from it, and how it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from modules import checkpoint
from modules.config import Config, parse_config
from modules.errors import UserError
from modules.training.speaker_table import speaker_rows
from pretrain import BASE_DISCRIMINATOR, BASE_GENERATOR, BASE_POSTERIOR

SPEAKER_TABLE = "emb_g.weight"
POSTERIOR = "enc_q."
_SHOWN_DIFFERENCES = 3
# What may differ: how many speakers there are, what no weight depends on, and the discriminators, which can start anew.
_FREE = {"n_speakers", "speech_encoder", "p_dropout", "speaker_embedding", "discriminator_width"}
_AUDIO = ("sampling_rate", "filter_length", "hop_length")


@dataclass(frozen=True)
class BaseModel:
    """A multi-speaker model to start from.

    Attributes:
        generator: .safetensors file that carries its config.
        posterior: its posterior encoder, which only training needs; a generator that holds it needs no such file.
        discriminator: its discriminators; the file need not be there.
    """

    generator: Path
    posterior: Path
    discriminator: Path
    config: Config


def find_base(folder: Path) -> BaseModel | None:
    """The base model in ``folder``; None where there is none.

    Raises:
        UserError: its file is broken or carries no config.
    """
    path = folder / BASE_GENERATOR
    if not path.is_file():
        return None
    try:
        text = checkpoint.safetensors_metadata(path).get("config")
        if text is None:
            raise UserError("the base model carries no config", path)
        config = parse_config(text, path)
    except UserError as error:
        raise _broken(error.what, path) from None
    return BaseModel(path, folder / BASE_POSTERIOR, folder / BASE_DISCRIMINATOR, config)


def start(folder: Path | None, config: Config, generator: nn.Module, discriminator: nn.Module) -> str:
    """Fill both networks from the base model in ``folder`` where it fits ``config``.

    Args:
        folder: None leaves the networks as they are.

    Returns:
        One line for the user: what was done, and why the base model was not used.

    Raises:
        UserError: a file of the base model is broken.
    """
    if folder is None:
        return "starting from random weights"
    base = find_base(folder)
    if base is None:
        return f"starting from random weights: there is no G_0.pth and D_0.pth, and no base model in {folder}"
    reason = incompatibility(config, base.config)
    if reason:
        return f"starting from random weights: the base model {base.generator} does not fit, {reason}"
    notes = [
        f"starting from the base model {base.generator} (--from-scratch does without it)",
        *_fill_generator(generator, base, config.spk),
        *_fill_discriminator(discriminator, base, config),
    ]
    return "; ".join(notes)


def incompatibility(config: Config, base: Config) -> str:
    """Why a model of ``config`` cannot take the weights of ``base``; empty where it can."""
    own, other = config.model.speech_encoder, base.model.speech_encoder
    if own != other:
        return f"it was trained with the speech encoder {other} and the config names {own}"
    found = differing_keys(config, base)
    if not found:
        return ""
    more = f" and {len(found) - _SHOWN_DIFFERENCES} more" if len(found) > _SHOWN_DIFFERENCES else ""
    volume = ""
    if config.model.vol_embedding != base.model.vol_embedding:
        volume = " without --vol_aug" if config.model.vol_embedding else " --vol_aug"
    fix = f"preprocess_flist_config.py --micro{volume} writes a config that fits"
    return f"its sizes are others: {'; '.join(found[:_SHOWN_DIFFERENCES])}{more} ({fix})"


def differing_keys(config: Config, base: Config) -> list[str]:
    """The keys that decide about shapes and sound and have other values, as "key is this, there that"."""
    found = []
    for section in ("model", "data"):
        own, other = (getattr(side, section).model_dump(mode="json") for side in (config, base))
        keys = _AUDIO if section == "data" else [key for key in {**own, **other} if key not in _FREE]
        for key in keys:
            if own.get(key) != other.get(key):
                found.append(f"{section}.{key} is {_shown(own, key)} here and {_shown(other, key)} there")
    return found


def _shown(section: Mapping[str, Any], key: str) -> str:
    return repr(section[key]) if key in section else "absent"


def _fill_generator(generator: nn.Module, base: BaseModel, speakers: Mapping[str, int]) -> list[str]:
    state = _read(base.generator)
    table = state.pop(SPEAKER_TABLE, None)
    if base.posterior.is_file():
        state.update(_read(base.posterior))
    report = _load(generator, state, base.generator)
    missing = [key for key in report.missing if key != SPEAKER_TABLE]
    if table is None or report.mismatched or not all(key.startswith(POSTERIOR) for key in missing):
        raise _broken(f"the weights are not those of the file's config\n{report.describe()}", base.generator)
    rows = generator.get_parameter(SPEAKER_TABLE)
    rows.data.copy_(speaker_rows(table.float(), base.config.spk, speakers, len(rows)))
    known = sorted(speakers.keys() & base.config.spk.keys())
    new = sorted(speakers.keys() - base.config.spk.keys())
    notes = []
    if known:
        notes.append(f"{', '.join(known)}: as it knows them")
    if new:
        notes.append(f"{', '.join(new)}: from the mean of its speakers")
    if missing:
        notes.append(f"the posterior encoder starts anew (there is no {base.posterior.name})")
    return notes


def _fill_discriminator(discriminator: nn.Module, base: BaseModel, config: Config) -> list[str]:
    own, other = config.model.discriminator_width, base.config.model.discriminator_width
    if own != other:
        return [f"the discriminators start anew (model.discriminator_width is {own} here and {other} there)"]
    if not base.discriminator.is_file():
        return [f"the discriminators start anew (there is no {base.discriminator.name})"]
    report = _load(discriminator, _read(base.discriminator), base.discriminator)
    if report.missing or report.mismatched:
        what = f"the weights are not those of the config in {base.generator.name}\n{report.describe()}"
        raise _broken(what, base.discriminator)
    return []


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return checkpoint.model_state(checkpoint.load(path), path)
    except UserError as error:
        raise _broken(error.what, path) from None


def _load(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> checkpoint.LoadReport:
    try:
        return checkpoint.load_into(module, state, path, strict=False)
    except UserError as error:
        raise _broken(error.what, path) from None


def _broken(what: str, path: Path) -> UserError:
    fix = "put the file of this release back (git checkout pretrain/base), or train without it: --from-scratch"
    return UserError(what, path, fix)
