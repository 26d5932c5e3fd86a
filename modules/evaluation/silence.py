"""Whether a result is silent where its source sings, or sounds where its source rests."""

from __future__ import annotations

import numpy as np

from modules.evaluation.base import NAN, Case, Figure, Measured, Metric
from modules.evaluation.levels import frame_levels, is_silent, loudest, sounds

NEAR_SOUND = 3  # frames (35 ms) by which a sound may come early or late
NEAR_SILENCE = 8  # frames (93 ms) around a rest in which a voice may still ring
HUM_DB = 40.0  # under the loudest frames of the result can still be heard in a rest
FEWEST = 10  # frames of rest that are enough for a figure


class Silence(Metric):
    """Frames that are silent and should not be, and the other way round.

    Lost sound: share of the frames in which the source sounds (at most 30 dB under its loudest) and the result is
    silent (over 50 dB under its own loudest, or under -105 dB of full scale); lower is better. False sound: share of
    the frames in which the source is silent and the result lies at most 40 dB under its loudest; lower is better,
    not measured where the source never rests. Frames of 12 ms. Source: our own.
    """

    figures = (
        Figure("lost_sound", "silent where the source sounds", "%", "lower", "own"),
        Figure("false_sound", "sounding where the source is silent", "%", "lower", "own"),
    )

    def measure(self, case: Case) -> Measured:
        from scipy.ndimage import maximum_filter1d, minimum_filter1d

        source, output = frame_levels(case.source), frame_levels(case.output)
        if not len(source):
            return Measured({"lost_sound": NAN, "false_sound": NAN})
        output = np.pad(output[: len(source)], (0, max(0, len(source) - len(output))), constant_values=-120.0)
        source_top, output_top = loudest(source), loudest(output)
        sounding, resting = sounds(source, source_top), is_silent(source, source_top)
        resting = minimum_filter1d(resting.astype(np.int8), 2 * NEAR_SILENCE + 1) > 0
        lost = sounding & is_silent(maximum_filter1d(output, 2 * NEAR_SOUND + 1), output_top)
        false = resting & sounds(output, output_top, HUM_DB)
        return Measured(
            {
                "lost_sound": float(lost.sum() / sounding.sum()) if sounding.any() else NAN,
                "false_sound": float(false.sum() / resting.sum()) if resting.sum() >= FEWEST else NAN,
            }
        )
