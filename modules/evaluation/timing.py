"""Whether a result is as long as its source."""

from __future__ import annotations

from modules.evaluation.base import Case, Figure, Measured, Metric
from modules.evaluation.recording import RATE


class Timing(Metric):
    """How much longer or shorter the result is than the source (milliseconds, lower is better).

    The other measures compare frame by frame, so a result that is shifted in time does badly in all of them. Source:
    our own.
    """

    figures = (Figure("length_error", "length error", "ms", "lower", "own", 1),)

    def measure(self, case: Case) -> Measured:
        difference = abs(len(case.output.audio) - len(case.source.audio))
        return Measured({"length_error": 1000 * difference / RATE})
