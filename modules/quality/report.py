"""The figures as a table on the terminal and as JSON."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modules.evaluation.base import Figure
from modules.evaluation.measure import Results, Summary
from modules.files import write_text

ARROWS = {"higher": "↑", "lower": "↓", None: ""}
LOG_WIDTH = 110  # columns where there is no terminal


def print_table(results: Results) -> None:
    """Means of all figures with what to read them by, and what was not measured."""
    from rich.console import Console
    from rich.table import Table

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else LOG_WIDTH
    console = Console(width=width)
    table = Table(title=f"{len(results.scored)} pair(s)", title_justify="left")
    table.add_column("figure")
    table.add_column("better")
    for heading in ("mean", "median", "worst", "pairs"):
        table.add_column(heading, justify="right")
    summary = results.summary()
    for figure in results.figures:
        row = summary.get(figure.key)
        shown = [figure.show(value) for value in (row.mean, row.median, row.worst)] if row else ["–"] * 3
        table.add_row(name(figure), ARROWS[figure.better], *shown, count_text(row, results))
        for baseline in results.baselines:
            if baseline.of == figure.key:
                shown = [figure.show(value) for value in (baseline.mean, baseline.lowest, baseline.highest)]
                text = f"  {baseline.title}: {shown[0]} ({shown[1]} to {shown[2]})"
                table.add_row(text, "", "", "", "", str(baseline.count), style="dim")
    console.print(table)
    for metric, reason in results.not_measured.items():
        console.print(f"{metric}: not measured: {reason}", markup=False, highlight=False)


def count_text(row: Summary | None, results: Results) -> str:
    """How many pairs have a figure, and of how many where some have not."""
    count, total = row.count if row else 0, len(results.scored)
    return str(count) if count == total else f"{count} of {total}"


def name(figure: Figure) -> str:
    """Title and unit."""
    return f"{figure.title} ({figure.unit})" if figure.unit and figure.unit != "%" else figure.title


def write_json(
    path: Path, results: Results, settings: Mapping[str, Any], failed: Sequence[tuple[str, str]]
) -> None:
    """Everything that was found out; a figure that a pair does not have is null."""
    content = {
        "settings": settings,
        "figures": {
            figure.key: {
                "title": figure.title,
                "unit": figure.unit,
                "better": figure.better,
                "source": figure.source,
                **({k: _number(v) for k, v in vars(row).items()} if (row := results.summary().get(figure.key)) else {}),
            }
            for figure in results.figures
        },
        "baselines": {row.key: vars(row) for row in results.baselines},
        "not_measured": results.not_measured,
        "pairs": [
            {
                "source": str(scored.pair.source),
                "output": str(scored.pair.output),
                "source_speaker": scored.pair.source_speaker,
                "target": scored.pair.target,
                "semitones": scored.semitones,
                "seconds": scored.pair.seconds,
                "values": {key: _number(value) for key, value in scored.values.items()},
                "notes": dict(scored.notes),
            }
            for scored in results.scored
        ],
        "failed": [{"pair": pair, "reason": reason} for pair, reason in failed],
    }
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _number(value: Any) -> Any:
    """JSON has no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
