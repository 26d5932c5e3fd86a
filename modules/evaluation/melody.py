"""How closely a result follows the melody of its source."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modules.evaluation.base import NAN, Case, Figure, Measured, Metric
from modules.evaluation.recording import Recording
from modules.f0 import F0Contour, F0Predictor

OCTAVE_CENTS = 600.0  # a frame that is further off is nearer to another octave than to its own


@dataclass(frozen=True)
class Melody:
    """How closely a result follows the melody of its source.

    Attributes:
        correlation: of log f0, over frames that are voiced in both.
        median_cents: middle distance from the moved source melody, over the same frames.
        agreement: share of frames on which both agree whether they are voiced.
        frames: voiced in both.
        octave_errors: share of the frames voiced in both that are over OCTAVE_CENTS off.
    """

    correlation: float
    median_cents: float
    agreement: float
    frames: int
    octave_errors: float = NAN


def compare_melodies(source: F0Contour, result: F0Contour, semitones: float) -> Melody:
    """Figures for two contours; the source is moved by ``semitones`` first, and the longer one is cut."""
    count = min(len(source.f0), len(result.f0))
    voiced_source, voiced_result = source.uv[:count] > 0.5, result.uv[:count] > 0.5
    both = voiced_source & voiced_result
    agreement = float(np.mean(voiced_source == voiced_result)) if count else 0.0
    if both.sum() < 2:
        return Melody(NAN, NAN, agreement, int(both.sum()))
    wanted = np.log2(source.f0[:count][both]) + semitones / 12
    found = np.log2(result.f0[:count][both])
    cents = np.abs(found - wanted) * 1200
    return Melody(
        correlation=_correlation(wanted, found),
        median_cents=float(np.median(cents)),
        agreement=agreement,
        frames=int(both.sum()),
        octave_errors=float(np.mean(cents > OCTAVE_CENTS)),
    )


def _correlation(wanted: np.ndarray, found: np.ndarray) -> float:
    """NaN where one of them does not move at all."""
    if wanted.std() == 0 or found.std() == 0:
        return NAN
    return float(np.corrcoef(wanted, found)[0, 1])


def choose_semitones(own: float, usual: float) -> int:
    """How far to move a song of the median pitch ``own`` to a voice whose usual pitch is ``usual``, both in Hz.

    Whole octaves where they are near, because they keep a song in its key; 0 where either is 0.
    """
    if not usual or not own:
        return 0
    semitones = round(12 * np.log2(usual / own))
    octave = 12 * round(semitones / 12)
    return octave if abs(semitones - octave) <= 2 else semitones


def heard_semitones(source: Recording, output: Recording, predictor: F0Predictor) -> float:
    """The whole number of semitones that lies nearest to how far ``output`` was moved; 0 where nothing is voiced."""
    contours = source.contour(predictor), output.contour(predictor)
    count = min(len(contour.f0) for contour in contours)
    both = (contours[0].uv[:count] > 0.5) & (contours[1].uv[:count] > 0.5)
    if not both.any():
        return 0.0
    return float(round(12 * float(np.median(np.log2(contours[1].f0[:count][both] / contours[0].f0[:count][both])))))


class MelodyAgreement(Metric):
    """Whether the melody is that of the source, after the shift that was asked for is taken out.

    f0 of both sides is found by the same predictor at 86 frames a second. Correlation (of log f0; plain number up to
    1, higher is better), median error (cents, lower is better) and octave errors (share over 600 cents off, lower is
    better) are over frames that are voiced in both; the voicing error (share, lower is better) is over all frames.
    Source: the usual figures of pitch tracking, see Salamon et al., "Melody extraction from polyphonic music
    signals", 2014.
    """

    _SOURCE = "Salamon et al., 2014"
    figures = (
        Figure("f0_correlation", "f0 correlation", "", "higher", _SOURCE, 4),
        Figure("f0_cents", "median f0 error", "cents", "lower", _SOURCE, 1),
        Figure("octave_errors", "octave errors", "%", "lower", _SOURCE),
        Figure("voicing_error", "voiced/unvoiced error", "%", "lower", _SOURCE),
    )

    def measure(self, case: Case) -> Measured:
        predictor = self.tools.reference_predictor
        melody = compare_melodies(case.source.contour(predictor), case.output.contour(predictor), case.semitones)
        return Measured(
            {
                "f0_correlation": melody.correlation,
                "f0_cents": melody.median_cents,
                "octave_errors": melody.octave_errors,
                "voicing_error": 1 - melody.agreement,
            }
        )
