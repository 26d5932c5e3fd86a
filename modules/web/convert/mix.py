"""The speaker mix over time: a table of rows, the tracks they make, and a drawing of them."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
import numpy as np

from modules.errors import UserError
from modules.inference.speaker_mix import SpeakerMix, Track
from modules.web.page import QUIET, Page, Updates, paragraph

Row = list[Any]  # speaker, from %, to %, weight at the start, weight at the end
COLUMNS = ("speaker", "from", "to", "first", "last")
COLOURS = ("#0d9488", "#f59e0b", "#6366f1", "#ef4444", "#22c55e", "#a855f7", "#0ea5e9", "#84cc16")
WIDTH, HEIGHT = 600, 120
POINTS = 201


class MixBox:
    """The table, and how it looks. ``inputs`` are what a conversion reads."""

    def __init__(self, page: Page) -> None:
        self.page = page
        with page.field(gr.Accordion, "convert.mix", open=False):
            self.on = page.field(gr.Checkbox, "convert.mix-on")
            self.rows = page.field(
                gr.Dataframe,
                "convert.mix-rows",
                headers=[page.say(f"convert.mix-rows.{column}") for column in COLUMNS],
                datatype=["str", "number", "number", "number", "number"],
                type="array",
                interactive=True,
                row_count=1,
                column_count=(len(COLUMNS), "fixed"),  # none can be added or deleted
                show_label=False,
            )
            self.drawing = page.field(gr.HTML, "convert.mix-drawing")
        self.inputs = {self.on, self.rows}
        self.rows.change(page.guarded(self._draw), self.rows, self.drawing, **QUIET)

    def refill(self, speakers: Mapping[str, int]) -> Updates:
        """The table for the speakers of another model."""
        return {self.rows: gr.update(value=first_rows(list(speakers)))}

    def _draw(self, rows: list[Row]) -> str:
        try:
            speakers = {name: number for number, name in enumerate(tracks_of(rows))} if rows else {}
            return draw(rows, speakers) if speakers else ""
        except UserError as error:  # while a row is being typed
            return paragraph(self.page.describe(error))


def first_rows(speakers: Sequence[str]) -> list[Row]:
    """A mix to begin with: the first speaker fades into the second."""
    weights = {0: (1, 0), 1: (0, 1)} if len(speakers) > 1 else {0: (1, 1)}
    return [[name, 0, 100, *weights.get(number, (0, 0))] for number, name in enumerate(speakers)]


def tracks_of(rows: Sequence[Row]) -> dict[str, list[list[float]]]:
    """The tracks of spkmix.py, by speaker, in order of time.

    Raises:
        UserError: a cell that should hold a number holds none.
    """
    tracks: dict[str, list[list[float]]] = {}
    for number, row in enumerate(rows, 1):
        name = str(row[0] if row[0] is not None else "").strip()
        if not name and not any(str(cell or "").strip() for cell in row[1:]):
            continue  # an empty row
        try:
            start, stop, first, last = (float(cell) for cell in row[1:5])
        except (TypeError, ValueError):
            cells = ", ".join(str(cell) for cell in row[1:])
            raise UserError(f"row {number} of the mix is not all numbers: {cells}", name, "fill it in") from None
        tracks.setdefault(name, []).append([start / 100, stop / 100, first, last])
    return {name: sorted(track) for name, track in tracks.items()}


def mix_of(rows: Sequence[Row], speakers: Mapping[str, int], n_speakers: int) -> SpeakerMix:
    """The mix of a table. Raises UserError as SpeakerMix.from_map."""
    tracks: dict[int | str, Track] = dict(tracks_of(rows).items())
    return SpeakerMix.from_map(tracks, speakers, n_speakers)


def draw(rows: Sequence[Row], speakers: Mapping[str, int]) -> str:
    """The shares of all speakers over the song, stacked, as SVG. Raises UserError as mix_of."""
    names = {number: name for name, number in speakers.items()}
    mix = mix_of(rows, speakers, max(names, default=0) + 1)
    times = np.linspace(0, 1, POINTS)
    top = np.cumsum(mix.weights(times), axis=1)
    areas, legend = [], []
    for place, number in enumerate(sorted(names)):
        colour = COLOURS[place % len(COLOURS)]
        below = top[:, number - 1] if number else np.zeros(POINTS)
        line = [*_points(times, top[:, number]), *reversed(_points(times, below))]
        areas.append(f'<polygon points="{" ".join(line)}" fill="{colour}" fill-opacity="0.75"/>')
        legend.append(f'<span><i style="background:{colour}"></i>{html.escape(names[number])}</span>')
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" class="mix-drawing" role="img">'
        f'{"".join(areas)}</svg><div class="mix-legend">{"".join(legend)}</div>'
    )


def _points(times: np.ndarray, shares: np.ndarray) -> list[str]:
    return [f"{WIDTH * x:.1f},{HEIGHT * (1 - y):.1f}" for x, y in zip(times, shares, strict=True)]
