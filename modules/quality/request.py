"""What is to be measured, and the pairs that were converted elsewhere. Importing this module is cheap."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modules.cli import positive_int
from modules.errors import UserError
from modules.evaluation import METRICS
from modules.evaluation.base import Pair
from modules.f0 import PREDICTORS
from modules.inference.options import InferenceOptions, ModelOptions
from modules.options import setting

AUTO = "auto"
COLUMNS = ("source", "output", "target", "source_speaker", "semitones", "text")
REQUIRED = COLUMNS[:3]


@dataclass(frozen=True)
class Request:
    """One run of the command: the fields that are settings, and what goes with them.

    Attributes:
        shifts: semitones of each source; None finds them out for each source and target; the first one fills up.
        named_voices: a folder or file of single speakers.
        model, inference: what converts; not read where there are ``pairs``.
    """

    sources: tuple[Path, ...] = setting((), "-n", "--sources", help="audio files and folders to convert", many=True)
    speakers: tuple[str, ...] = setting(
        (), "-s", "--spk_list", help="speakers to convert to; all with recordings", many=True, metavar="SPK_LIST"
    )
    pairs: Path | None = setting(
        None,
        "--pairs",
        help="judge these instead of converting: CSV with source, output, target and, if you like, source_speaker, "
        "semitones, text",
    )
    voices: Path | None = setting(
        None, "--voices", help="recordings of the speakers: one folder a speaker, of its name"
    )
    voice_clips: int = setting(12, "--voice_clips", help="recordings of a speaker to listen to", parse=positive_int)
    transcripts: tuple[Path, ...] = setting((), "--transcripts", help="true texts: lines of name,text", many=True)
    language: str | None = setting(
        None, "--language", help="of the words, as Whisper names it: en, ja; heard in each source if absent"
    )
    metrics: tuple[str, ...] = setting(
        tuple(METRICS), "--metrics", help="measures to take", many=True, choices=tuple(METRICS)
    )
    reference_predictor: str = setting("pm", "--judge", help="f0 predictor that measures", choices=tuple(PREDICTORS))
    speech_encoder: str | None = setting(
        None, "--speech_encoder", help="encoder for the distance of units; the model's own if absent"
    )
    page_pairs: int = setting(40, "--page_pairs", help="pairs with players on the page", parse=positive_int)
    out_dir: Path = setting(Path("results/quality"), "--out_dir", help="folder of the report")
    shifts: tuple[float | None, ...] = (None,)
    named_voices: dict[str, Path] = field(default_factory=dict)
    model: ModelOptions = field(default_factory=ModelOptions)
    inference: InferenceOptions = field(default_factory=InferenceOptions)
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
