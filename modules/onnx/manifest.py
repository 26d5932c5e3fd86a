"""What lies in an exported folder: parts.json, which the runner reads. The JSON of other programs lies beside it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modules.errors import UserError
from modules.files import write_text

FILE = "parts.json"
FORMAT = 1
EXPORT = "export the model anew with onnx_export.py"


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
        parts: name of a part -> its file in the folder.
        facts: name of a part -> what else a caller must know of it.
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
    parts: dict[str, str] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)

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
            values = json.loads(path.read_text(encoding="utf-8"))
            if values.pop("format", None) != FORMAT:
                raise UserError("the folder was written by another version", path, EXPORT)
            return cls(**values)
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{FILE} is damaged ({error})", path, EXPORT) from None

    def file(self, folder: Path, part: str, flag: str) -> Path:
        """The file of a part.

        Raises:
            UserError: it was not exported, or is no longer there; ``flag`` is what asks for it.
        """
        if part not in self.parts:
            known = ", ".join(sorted(self.parts))
            raise UserError(f"{flag} needs the part {part}, and only {known} were exported", folder, EXPORT)
        path = folder / self.parts[part]
        if not path.is_file():
            raise UserError(f"the part {part} is missing", path, "put the file back, or " + EXPORT)
        return path
