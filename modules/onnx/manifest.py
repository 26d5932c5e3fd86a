"""What lies in an exported folder: parts.json, which the runner reads. The JSON of other programs lies beside it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from modules.errors import UserError
from modules.files import write_text
from modules.text_formats import parse_json, read_text

FILE = "parts.json"
FORMAT = 1
EXPORT = "export the model anew with onnx_export.py"


@dataclass(frozen=True)
class VocoderFacts:
    """Of ``mel`` and ``vocoder``: Hz and samples."""

    sampling_rate: int
    hop_length: int


@dataclass(frozen=True)
class DiffusionFacts:
    """Of ``diffusion-denoiser``.

    Attributes:
        timesteps, k_step_max: length of the chain, and how much of it was trained.
        spec_min, spec_max: log mel that is -1 and 1 to the denoiser.
        speedup, method: of the sampler, see diffusion.samplers.sample.
        n_speakers: rows of the speaker embedding.
        speakers: name -> id.
        unit_interpolate_mode: how units are stretched; None: as for the generator.
    """

    timesteps: int
    k_step_max: int
    spec_min: float
    spec_max: float
    speedup: int
    method: str | None
    n_speakers: int
    speakers: dict[str, int] = field(default_factory=dict)
    unit_interpolate_mode: str | None = None


@dataclass(frozen=True)
class PredictorFacts:
    """Of ``rmvpe``, ``fcpe`` and ``crepe``: the voicing threshold where none is asked for, and the f0 they find, Hz."""

    threshold: float
    lowest: float = 33.0
    highest: float = 1976.0


Facts = VocoderFacts | DiffusionFacts | PredictorFacts
FACTS: dict[str, type[Facts]] = {
    "mel": VocoderFacts,
    "vocoder": VocoderFacts,
    "diffusion-denoiser": DiffusionFacts,
    "rmvpe": PredictorFacts,
    "fcpe": PredictorFacts,
    "crepe": PredictorFacts,
}
AnyFacts = TypeVar("AnyFacts", VocoderFacts, DiffusionFacts, PredictorFacts)


@dataclass
class Manifest:
    """A model's facts and the files of its parts.

    Attributes:
        sampling_rate, hop_length: of the generator, Hz and samples.
        ssl_dim: width of the units that it takes.
        inter_channels: of its noise.
        n_speakers: rows of its speaker embedding; with two or more, ``sid`` is a mix.
        vol_embedding: whether it takes the volume.
        unit_interpolate_mode: how units are stretched to the frames of f0.
        speech_encoder: what it was trained with.
        speakers: name -> id.
        vocoder_name: of its decoder; folders of before this was written have none.
        parts: name of a part -> its file in the folder.
        facts: name of a part -> what else a caller must know of it; see FACTS.
    """

    sampling_rate: int
    hop_length: int
    ssl_dim: int
    inter_channels: int
    n_speakers: int
    vol_embedding: bool
    unit_interpolate_mode: str
    speech_encoder: str
    speakers: dict[str, int]
    vocoder_name: str = ""
    parts: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Facts] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write parts.json, atomically."""
        values = {"format": FORMAT, **dataclasses.asdict(self)}
        write_text(folder / FILE, json.dumps(values, indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read parts.json.

        Raises:
            UserError: the folder is not there, is none of onnx_export.py, or parts.json is damaged.
        """
        path = folder / FILE
        if not folder.is_dir():
            raise UserError("there is no such folder", folder, "give --onnx the folder that onnx_export.py wrote")
        if not path.is_file():
            raise UserError(f"the folder holds no exported model: there is no {FILE}", folder, EXPORT)
        try:
            values = parse_json(read_text(path))
            if values.pop("format", None) != FORMAT:
                raise UserError("the folder was written by another version", path, EXPORT)
            facts = {part: _read_facts(part, found, folder) for part, found in values.pop("facts", {}).items()}
            manifest = cls(**values, facts=facts)
            for each in (manifest, *facts.values()):
                _check_types(each)
            if not all((manifest.sampling_rate, manifest.hop_length, manifest.ssl_dim, manifest.n_speakers)):
                raise ValueError("a size of 0")
            return manifest
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise UserError(f"{FILE} is damaged ({error})", path, EXPORT) from None

    def file(self, folder: Path, part: str, flag: str) -> Path:
        """The file of a part.

        Raises:
            UserError: it was not exported, or is no longer there; ``flag`` is what asks for it.
        """
        if part not in self.parts:
            known = ", ".join(sorted(self.parts))
            raise UserError(f"{flag} needs the part {part}, and only {known} were exported", folder, EXPORT)
        name = self.parts[part]
        path = folder / name
        if Path(name).name != name or not path.is_file():  # a file outside the folder is none of its parts
            raise UserError(f"the part {part} is missing", path, "put the file back, or " + EXPORT)
        return path

    def facts_of(self, part: str, kind: type[AnyFacts], folder: Path) -> AnyFacts:
        """What a caller must know of a part. Raises UserError where parts.json does not tell it."""
        facts = self.facts.get(part)
        if not isinstance(facts, kind):
            raise UserError(f"{FILE} does not tell the facts of {part}", folder, EXPORT)
        return facts


_KINDS: dict[str, Callable[[Any], bool]] = {  # no pydantic: it is not part of every install
    "int": lambda value: type(value) is int and value >= 0,
    "float": lambda value: type(value) in (int, float) and math.isfinite(value),
    "bool": lambda value: type(value) is bool,
    "str": lambda value: isinstance(value, str),
    "dict[str, int]": lambda value: isinstance(value, dict) and all(type(number) is int for number in value.values()),
    "dict[str, str]": lambda value: isinstance(value, dict) and all(isinstance(word, str) for word in value.values()),
}


def _check_types(values: Any) -> None:
    """Raises ValueError where a field of a dataclass is not of its type."""
    for key in dataclasses.fields(values):
        value = getattr(values, key.name)
        if key.type in _KINDS and not _KINDS[str(key.type)](value):
            raise ValueError(f"{key.name} is {value!r}")


def _read_facts(part: str, values: dict[str, Any], folder: Path) -> Facts:
    kind = FACTS[part]
    needed = {key.name for key in dataclasses.fields(kind) if key.default is key.default_factory is dataclasses.MISSING}
    missing = needed - values.keys()
    if missing:
        raise UserError(f"{FILE} does not tell {', '.join(sorted(missing))}", folder, EXPORT)
    return kind(**values)
