"""Whether a run may go on with a config, by the one that it began with: the same voices, heard by the same encoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from modules.config import Config, DiffusionConfig, load_config, load_diffusion_config
from modules.errors import UserError


class Lineage(NamedTuple):
    """What the weights of a run were trained on.

    Attributes:
        speakers: ids by name.
        rows: of the table of speakers.
        encoder: the speech encoder, and the key of the config that names it.
    """

    speakers: Mapping[str, int]
    rows: int
    encoder: str
    encoder_key: str

    @classmethod
    def of(cls, config: Config | DiffusionConfig) -> Lineage:
        """That of a config."""
        if isinstance(config, Config):
            return cls(config.spk, config.model.n_speakers, config.model.speech_encoder, "model.speech_encoder")
        return cls(config.spk, config.model.n_spk, config.data.encoder, "data.encoder")

    @classmethod
    def read(cls, path: Path) -> Lineage:
        """That of config.json or config.yaml. Raises UserError."""
        return cls.of(load_diffusion_config(path) if path.suffix == ".yaml" else load_config(path))


def check_lineage(before: Lineage, now: Lineage, path: Path, instead: str, new_speakers: bool = False) -> list[str]:
    """Refuse to go on with weights that were trained on something else.

    Args:
        before: of the config ``path`` that the run began with.
        now: of the new config.
        instead: how to begin a new model.
        new_speakers: all speakers may be new.

    Returns:
        A note for the user where speakers come or go.

    Raises:
        UserError: another encoder made the units, a name has another id (voices would change places), or nobody that
            the run was trained on is left.
    """
    if before.encoder != now.encoder:
        what = (
            f"this run was trained on units of {before.encoder}, {now.encoder_key} of the new config is {now.encoder}"
        )
        raise UserError(what, path, f"train with the config this run began with, or {instead}")
    for name, speaker_id in now.speakers.items():
        if before.speakers.get(name, speaker_id) != speaker_id:
            raise UserError(
                f"speaker {name!r} had the id {before.speakers[name]} so far and has {speaker_id} in the new config",
                path,
                f"train with the config this run began with, or {instead}",
            )
    new, gone = ([name for name in one if name not in other] for one, other in _both_ways(before, now))
    if before.speakers and now.speakers and len(gone) == len(before.speakers) and not new_speakers:
        what = f"this run is of {', '.join(gone)}, the new config names {', '.join(new)}"
        fix = f"{instead}; --new-speakers goes on from here all the same, and the voices so far are lost"
        raise UserError(what, path, fix)
    parts = [f"new: {', '.join(new)}"] * bool(new) + [f"no longer trained: {', '.join(gone)}"] * bool(gone)
    return [f"warning: the speakers are not those this run began with ({'; '.join(parts)})"] if parts else []


def _both_ways(before: Lineage, now: Lineage) -> tuple[tuple[Mapping[str, int], Mapping[str, int]], ...]:
    return (now.speakers, before.speakers), (before.speakers, now.speakers)
