"""Whether a result is as loud as its source, on the whole and from moment to moment."""

from __future__ import annotations

import numpy as np

from modules.audio.loudness import loudness
from modules.evaluation.base import NAN, Case, Figure, Measured, Metric
from modules.evaluation.levels import frame_levels, loudest, sounds
from modules.evaluation.recording import RATE


class LoudnessError(Metric):
    """How far the loudness is from the source's.

    Loudness error: distance of the integrated loudness (LU, lower is better). Envelope error: median distance of the
    levels of frames in which both sound, after the difference of the whole is taken out (dB, lower is better).
    Source: ITU-R BS.1770-4 for the first; the second is our own.
    """

    figures = (
        Figure("loudness_error", "loudness error", "LU", "lower", "ITU-R BS.1770-4", 1),
        Figure("envelope_error", "loudness envelope error", "dB", "lower", "own", 1),
    )

    def measure(self, case: Case) -> Measured:
        whole = abs(loudness(case.source.audio, RATE) - loudness(case.output.audio, RATE))
        source, output = (frame_levels(recording) for recording in (case.source, case.output))
        count = min(len(source), len(output))
        source, output = source[:count], output[:count]
        both = sounds(source, loudest(source)) & sounds(output, loudest(output))
        envelope = NAN
        if both.any():
            difference = output[both] - source[both]
            envelope = float(np.median(np.abs(difference - np.median(difference))))
        return Measured({"loudness_error": whole if np.isfinite(whole) else NAN, "envelope_error": envelope})
