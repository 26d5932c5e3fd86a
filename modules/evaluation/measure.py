"""Takes all measures of many pairs, and adds them up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from modules.evaluation import METRICS, metric_class
from modules.evaluation.base import Baseline, Case, Figure, Metric, NotMeasured, Pair, Tools
from modules.evaluation.melody import heard_semitones
from modules.evaluation.recording import Recording


@dataclass(frozen=True)
class Scored:
    """A pair and everything that was found out about it."""

    pair: Pair
    semitones: float
    values: Mapping[str, float]
    notes: Mapping[str, str]


@dataclass(frozen=True)
class Summary:
    """What a figure comes to over all pairs that have it."""

    mean: float
    median: float
    worst: float
    count: int


@dataclass
class Results:
    """All pairs, the figures that were asked for, and why some are missing."""

    figures: list[Figure]
    baselines: list[Baseline] = field(default_factory=list)
    scored: list[Scored] = field(default_factory=list)
    not_measured: dict[str, str] = field(default_factory=dict)  # name of the measure -> what to do

    def summary(self) -> dict[str, Summary]:
        """By key of the figure; what no pair has is left out."""
        rows = {}
        for figure in self.figures:
            values = [scored.values[figure.key] for scored in self.scored if figure.key in scored.values]
            known = [value for value in values if np.isfinite(value)]
            if known:
                worst = min(known) if figure.better == "higher" else max(known)
                rows[figure.key] = Summary(float(np.mean(known)), float(np.median(known)), worst, len(known))
        return rows


class Evaluator:
    """Loads the measures once and scores pair by pair.

    Args:
        names: of the measures, all by default. One that misses something is left out and listed.
    """

    def __init__(self, tools: Tools, names: Iterable[str] = tuple(METRICS)) -> None:
        self.tools = tools
        self.metrics: dict[str, Metric] = {}
        self.not_measured: dict[str, str] = {}
        self._sources: dict[object, Recording] = {}
        for name in names:
            try:
                self.metrics[name] = metric_class(name)(tools)
            except NotMeasured as reason:
                self.not_measured[name] = str(reason)

    @property
    def figures(self) -> list[Figure]:
        """Of the measures that are taken."""
        return [figure for metric in self.metrics.values() for figure in metric.figures]

    def results(self, scored: Iterable[Scored]) -> Results:
        """Everything together, with the baselines."""
        baselines = [row for metric in self.metrics.values() for row in metric.baselines()]
        return Results(self.figures, baselines, list(scored), dict(self.not_measured))

    def source(self, pair: Pair) -> Recording:
        """The source of a pair; the last one is kept, because most sources are converted to several speakers."""
        if pair.source not in self._sources:
            self._sources = {pair.source: Recording.load(pair.source)}
        return self._sources[pair.source]

    def score(self, pair: Pair) -> Scored:
        """All figures of a pair. Raises UserError where one of its files cannot be read."""
        source, output = self.source(pair), Recording.load(pair.output)
        semitones = pair.semitones
        if semitones is None:
            semitones = heard_semitones(source, output, self.tools.reference_predictor)
        case = Case(pair, source, output, semitones)
        values: dict[str, float] = {}
        notes: dict[str, str] = {}
        for metric in self.metrics.values():
            measured = metric.measure(case)
            values.update(measured.values)
            notes.update(measured.notes)
        return Scored(pair, semitones, values, notes)
