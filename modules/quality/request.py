"""What is to be measured, and the pairs that were converted elsewhere."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modules.errors import UserError
from modules.evaluation.base import Pair
from modules.inference.options import InferenceOptions, ModelOptions

AUTO = "auto"
COLUMNS = ("source", "output", "target", "source_speaker", "semitones", "text")
REQUIRED = COLUMNS[:3]


@dataclass(frozen=True)
class Request:
    """One run of the command.

    Attributes:
        sources: files, and folders whose audio is taken.
        speakers: to convert to; all that the model and ``voices`` have where empty, but never to the own speaker.
        pairs: a table of what was converted elsewhere; nothing is converted then.
        voices: a folder with one folder of recordings a speaker.
        named_voices: a folder or file of single speakers.
        shifts: semitones of each source; None finds them out for each source and target; the first one fills up.
        reference_predictor: the f0 predictor that measures.
        transcripts: lists of the true texts.
        speech_encoder: measures the distance of units where no model does it.
        page_pairs: pairs with players and pictures on the page.
    """

    out_dir: Path
    metrics: tuple[str, ...]
    sources: tuple[Path, ...] = ()
    speakers: tuple[str, ...] = ()
    pairs: Path | None = None
    voices: Path | None = None
    named_voices: dict[str, Path] = field(default_factory=dict)
    shifts: tuple[float | None, ...] = (None,)
    model: ModelOptions = field(default_factory=ModelOptions)
    inference: InferenceOptions = field(default_factory=InferenceOptions)
    reference_predictor: str = "pm"
    language: str | None = None
    transcripts: tuple[Path, ...] = ()
    voice_clips: int = 12
    speech_encoder: str | None = None
    page_pairs: int = 40
    pretrain_dir: Path = Path("pretrain")
    debug: bool = False


def parse_shift(text: str) -> float | None:
    """Semitones, or None for ``auto``. Raises ValueError for anything else, as argparse wants it."""
    if text == AUTO:
        return None
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def parse_voice(text: str) -> tuple[str, Path]:
    """NAME=FOLDER. Raises ValueError for anything else."""
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise ValueError(text)
    return name, Path(folder)


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a CSV file with the columns COLUMNS, of which REQUIRED must be there.

    Paths are relative to the folder of the file. An empty cell of ``semitones`` takes the nearest whole semitone.

    Raises:
        UserError: the file is missing, lacks a column, or a row has no number where one belongs.
    """
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
    except FileNotFoundError:
        raise UserError("there is no such table of pairs", path, "check the path") from None
    except UnicodeDecodeError:
        raise UserError("the table of pairs is not UTF-8 text", path, "save it as UTF-8") from None
    if not rows:
        raise UserError("the table of pairs is empty", path, f"give it the columns {', '.join(COLUMNS)}")
    lacking = [name for name in REQUIRED if name not in rows[0]]
    if lacking:
        fix = f"the first line must name the columns {', '.join(REQUIRED)}, and may name {', '.join(COLUMNS[3:])}"
        raise UserError(f"the table of pairs has no column {', '.join(lacking)}", path, fix)
    return [_pair(row, path, number) for number, row in enumerate(rows, 2)]


def _pair(row: dict[str, str | None], path: Path, line: int) -> Pair:
    cells = {name: (row.get(name) or "").strip() for name in COLUMNS}
    for name in REQUIRED:
        if not cells[name]:
            raise UserError(f"the column {name} is empty", f"{path}, line {line}", "fill it in or delete the line")
    try:
        semitones = parse_shift(cells["semitones"]) if cells["semitones"] else None
    except ValueError:
        what = f"{cells['semitones']!r} is no number of semitones"
        raise UserError(what, f"{path}, line {line}", "give a number, or leave it empty") from None
    return Pair(
        source=path.parent / cells["source"],
        output=path.parent / cells["output"],
        target=cells["target"],
        source_speaker=cells["source_speaker"],
        semitones=semitones,
        text=cells["text"] or None,
    )


def fill_up(shifts: Sequence[float | None], count: int) -> list[float | None]:
    """One shift a source; the first one serves for those that have none. Raises UserError for too many."""
    if len(shifts) > count:
        raise UserError(f"{len(shifts)} shifts for {count} source(s)", "--trans", "give one shift, or one a source")
    return [*shifts, *[shifts[0]] * (count - len(shifts))]
