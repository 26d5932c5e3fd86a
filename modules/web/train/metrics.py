"""Curves of training, from metrics.jsonl."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.progress import format_seconds
from modules.training.logging import METRICS_NAME, read_metrics
from modules.web.page import Page, paragraph

CURVES = ("val/mel_distance", "loss/g/mel", "loss/g/kl", "loss/d/total", "train/loss", "val/loss")  # in their order
POINTS = 300  # of a curve; more are thinned out
WIDTH, HEIGHT = 420, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 24  # around the plot
SMOOTHING = 0.9  # of the thick line, a point

Points = list[tuple[int, float]]


@dataclass(frozen=True)
class Curves:
    """What metrics.jsonl says.

    Attributes:
        values: name to (step, value).
        last: the newest row of training.
    """

    values: dict[str, Points]
    last: dict[str, Any]


def read_curves(logs: Path) -> Curves:
    """The figures of a model: those of its voice, and of its diffusion model where there is one."""
    values: dict[str, Points] = {}
    last: dict[str, Any] = {}
    for folder in (logs / "diffusion", logs):
        for row in read_metrics(folder / METRICS_NAME):
            for name in CURVES:
                value = row.get(name)
                if isinstance(value, (int, float)) and math.isfinite(value):
                    values.setdefault(name, []).append((row["step"], float(value)))
            last = {**last, **row}
    return Curves(values, last)


def modified(logs: Path) -> tuple[float, ...]:
    """Changes when there are new figures."""
    files = (logs / METRICS_NAME, logs / "diffusion" / METRICS_NAME)
    return tuple(path.stat().st_mtime if path.is_file() else 0.0 for path in files)


def show_curves(page: Page, logs: Path) -> str:
    """All charts as HTML."""
    curves = read_curves(logs)
    if not curves.values:
        return page.note("prepare.no-curves")
    charts = [chart(page, name, curves.values[name]) for name in CURVES if name in curves.values]
    return f'{paragraph(_where(page, curves.last))}<div class="prepare-charts">{"".join(charts)}</div>'


def _where(page: Page, row: dict[str, Any]) -> str:
    speed = row.get("steps_per_second")
    return page.say(
        "prepare.step-now",
        step=row.get("step", 0),
        epoch=row.get("epoch", 0),
        time=format_seconds(row.get("seconds") or 0),
        speed=f"{speed:.2f}" if isinstance(speed, float) else "–",
    )


def chart(page: Page, name: str, points: Points) -> str:
    """One curve as an SVG with axes: the values thin, their course thick."""
    caption = html.escape(page.say(f"curve.{name}"))
    if name.startswith("val/"):
        step, value = min(points, key=lambda point: point[1])
        caption += f" · {page.say('prepare.best', value=f'{value:.3f}', step=step)}"
    points = thinned(points)
    frame = Frame.around(points)
    raw = frame.path(points)
    course = frame.path(smoothed(points)) if len(points) > 10 and not name.startswith("val/") else raw
    marks = "".join(
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{frame.y(tick):.1f}" y2="{frame.y(tick):.1f}"/>'
        f'<text x="{LEFT - 5}" y="{frame.y(tick) + 4:.1f}" text-anchor="end">{short(tick)}</text>'
        for tick in ticks(frame.low, frame.high)
    )
    marks += "".join(
        f'<text x="{frame.x(tick):.1f}" y="{HEIGHT - 7}" text-anchor="middle">{short(tick)}</text>'
        for tick in ticks(frame.first, frame.last)
    )
    dots = "".join(f'<circle cx="{frame.x(step):.1f}" cy="{frame.y(value):.1f}" r="2.5"/>' for step, value in points)
    return (
        f'<figure data-curve="{name}"><figcaption>{caption}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
        f'<g class="marks">{marks}</g><path class="raw" d="{raw}"/><path class="course" d="{course}"/>'
        f"{dots if len(points) <= 30 else ''}</svg></figure>"
    )


@dataclass(frozen=True)
class Frame:
    """Where a step and a value lie in the picture."""

    first: float
    last: float
    low: float
    high: float

    @classmethod
    def around(cls, points: Points) -> Frame:
        """With room for all points; what towers above the rest in the first tenth is cut off."""
        steps = [step for step, _ in points]
        values = [value for _, value in points]
        late = values[len(values) // 10 :] if len(values) >= 20 else values
        low, high = min(values), max(late)
        room = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
        return cls(min(steps), max(max(steps), min(steps) + 1), low - room, high + room)

    def x(self, step: float) -> float:
        """Pixels from the left."""
        return LEFT + (WIDTH - LEFT - RIGHT) * (step - self.first) / (self.last - self.first)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        share = (min(value, self.high) - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    def path(self, points: Points) -> str:
        """The points as the d of a path."""
        return "M" + " L".join(f"{self.x(step):.1f} {self.y(value):.1f}" for step, value in points)


def thinned(points: Points) -> Points:
    """At most POINTS points: means of neighbours, the last one kept."""
    if len(points) <= POINTS:
        return points
    size = math.ceil(len(points) / POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def smoothed(points: Points) -> Points:
    """A running mean that begins without bias."""
    total = weight = 0.0
    course = []
    for step, value in points:
        total, weight = SMOOTHING * total + value, SMOOTHING * weight + 1
        course.append((step, total / weight))
    return course


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from low to high."""
    rough = (high - low) / most
    power = 10 ** math.floor(math.log10(rough))
    size = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [index * size for index in range(math.ceil(low / size), math.floor(high / size) + 1)]


def short(value: float) -> str:
    """12000 as 12k."""
    return f"{value / 1000:g}k" if abs(value) >= 10000 else f"{value:.6g}"
