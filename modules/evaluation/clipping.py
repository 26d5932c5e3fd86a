"""Whether the peaks of a result are cut off."""

from __future__ import annotations

import numpy as np

from modules.evaluation.base import Case, Figure, Measured, Metric
from modules.evaluation.recording import HOP

FULL_SCALE = 0.999
RUN = 3  # samples in a row: one sample at the top is a peak, three are a plateau
FLAT = 2.0**-15  # a step of 16 bit: samples of a plateau differ by less


class Clipping(Metric):
    """Share of the frames (512 samples) with cut-off peaks; lower is better.

    A peak is cut off where three samples in a row lie at full scale (0.999 or more), or, lower down, lie flat at the
    file's own peak, as they do after clipped audio is turned down. The source's own share stands beside it. Source:
    our own.
    """

    figures = (
        Figure("clipped", "clipped frames", "%", "lower", "own"),
        Figure("clipped_source", "clipped frames of the source", "%", None, "own"),
    )

    def measure(self, case: Case) -> Measured:
        return Measured(
            {"clipped": clipped_share(case.output.audio), "clipped_source": clipped_share(case.source.audio)}
        )


def clipped_share(audio: np.ndarray) -> float:
    """Share of the frames of audio [T] with a plateau at its peak; 0 for audio without a whole frame."""
    frames = len(audio) // HOP
    if frames == 0:
        return 0.0
    size = np.abs(audio)
    top = float(size.max())
    if top < 0.01:
        return 0.0
    at_top = size >= min(FULL_SCALE, FULL_SCALE * top)
    same_side = np.sign(audio[1:]) == np.sign(audio[:-1])
    flat = (np.abs(np.diff(audio)) < FLAT) | (np.minimum(size[1:], size[:-1]) >= FULL_SCALE)
    joined = at_top[1:] & at_top[:-1] & same_side & flat
    runs = np.flatnonzero(np.convolve(joined, np.ones(RUN - 1), mode="valid") == RUN - 1)
    return len(np.unique(runs[runs < frames * HOP] // HOP)) / frames
