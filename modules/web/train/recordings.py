"""The recordings in dataset_raw/: which speakers there are, new ones by upload, and the report on them."""

from __future__ import annotations

import filecmp
import html
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from modules.audio.io import AUDIO_EXTENSIONS
from modules.data.recordings_report import (
    UNUSABLE,
    ProblemGroup,
    RecordingsReport,
    problem_groups,
    table_rows,
)
from modules.errors import UserError
from modules.files import atomic_path
from modules.web.page import Page, paragraph
from modules.web.train.steps import check_speaker_name

COLUMNS = (  # of the table; as TABLE_TITLES of the report
    "speaker", "files", "minutes", "sound", "clips", "f0", "loudness", "silence", "clipped", "snr", "rate",
)  # fmt: skip
NAMED_FILES = 3  # of a group of problems; more are counted


def list_speakers(raw: Path) -> dict[str, int]:
    """Speakers in dataset_raw/ and how many recordings each has; what a link brings in from elsewhere is not listed."""
    if not raw.is_dir():
        return {}
    inside = raw.resolve()
    found = {}
    for folder in sorted(raw.iterdir()):
        if folder.name.startswith((".", "-")) or not folder.is_dir() or folder.resolve().parent != inside:
            continue
        count = sum(
            path.suffix.lower() in AUDIO_EXTENSIONS and not path.name.startswith(".") for path in folder.iterdir()
        )
        if count:
            found[folder.name] = count
    return found


@dataclass(frozen=True)
class Added:
    """What became of an upload."""

    added: int
    same: int  # were there before
    refused: tuple[str, ...]  # names of what is no audio file


def add_recordings(raw: Path, speaker: str, files: Iterable[Path], uploads: Path) -> Added:
    """Copy uploaded files into the folder of a speaker.

    Args:
        uploads: where uploads lie; a file from elsewhere is refused.

    Raises:
        UserError: the speaker's name cannot be that of a folder, or a file is not an upload.
        OSError: the disk is full.
    """
    check_speaker_name(speaker)
    folder = raw / speaker
    if folder.exists() and folder.resolve().parent != raw.resolve():
        raise UserError("the folder of the speaker lies elsewhere", f"dataset_raw/{speaker}", "take another name")
    added = same = 0
    refused = []
    for path in files:
        if not path.resolve().is_relative_to(uploads.resolve()) or not path.is_file():
            raise UserError("this is not an uploaded file", path.name, "upload it")
        if path.suffix.lower() not in AUDIO_EXTENSIONS or path.name.startswith("."):
            refused.append(path.name)
            continue
        target = _free_place(folder / path.name, path)
        if target is None:
            same += 1
            continue
        with atomic_path(target) as temporary:
            shutil.copyfile(path, temporary)
        added += 1
    return Added(added, same, tuple(refused))


def _free_place(wanted: Path, source: Path) -> Path | None:
    """``wanted``, or with a number where another file has that name; None where the same content is there."""
    target, number = wanted, 1
    while target.exists():
        if filecmp.cmp(target, source, shallow=False):
            return None
        number += 1
        target = wanted.with_stem(f"{wanted.stem}_{number}")
    return target


def show_report(page: Page, path: Path) -> str:
    """The report of a file as HTML; empty where there is none."""
    try:
        report = RecordingsReport.from_json(path.read_text(encoding="utf-8"))
        written = path.stat().st_mtime
    except FileNotFoundError:
        return ""
    except (OSError, UserError, UnicodeDecodeError):
        return paragraph(html.escape(path.name), "bad")
    when = page.note("report.of", time=time.strftime("%Y-%m-%d %H:%M", time.localtime(written)))
    return f"{when}{_table(page, report)}{_problems(page, report)}"


def _table(page: Page, report: RecordingsReport) -> str:
    titles = [html.escape(page.say(f"report.{column}")) for column in COLUMNS]
    head = "".join(f"<th>{title}</th>" for title in titles)
    rows = ""
    for row in table_rows(report):
        # the title again in each cell: narrow screens show a row as a list
        cells = zip(titles, map(html.escape, row), strict=True)
        rows += "<tr>" + "".join(f'<td data-title="{title}">{cell}</td>' for title, cell in cells) + "</tr>"
    return f'<table class="prepare-report"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'


def _problems(page: Page, report: RecordingsReport) -> str:
    lines = [_problem(page, group) for group in problem_groups(report)]
    lines += [paragraph(f"{html.escape(path.name)}: {html.escape(why)}", "warn") for path, why in report.left_out]
    return "".join(lines) or page.note("report.no-problems", "good")


def _problem(page: Page, group: ProblemGroup) -> str:
    text = html.escape(page.say(f"problem.{group.kind}").format(group.details[0]))
    look = "bad" if group.kind in UNUSABLE else "warn"
    if not group.files:
        return paragraph(f"<b>{html.escape(group.speaker)}</b>: {text}", look)
    names = ", ".join(html.escape(name) for name in group.files[:NAMED_FILES])
    more = len(group.files) - NAMED_FILES
    names += f" {page.say('report.more-files', count=more)}" if more > 0 else ""
    return paragraph(f"<b>{html.escape(group.speaker)}</b> {names}: {text}", look)
