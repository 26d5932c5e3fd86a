"""Whether the speech encoder gives the same units for a result as for its source."""

from __future__ import annotations

import numpy as np

from modules.evaluation.base import NAN, Case, Figure, Measured, Metric, NotMeasured, Tools


class UnitDistance(Metric):
    """How far the units of the result are from those of the source (0 the same, about 1 nothing in common).

    The result goes through the model's own speech encoder once more; the figure is the mean cosine distance of the
    frames, after the source's mean unit is taken out of both (encoders have a strong mean, which would hide
    everything else); lower is better. Source: as used for unit-based models by Polyak et al., "Speech resynthesis
    from discrete disentangled self-supervised representations", 2021, there on discrete units.
    """

    figures = (Figure("unit_distance", "distance of units", "", "lower", "after Polyak et al., 2021"),)

    def __init__(self, tools: Tools) -> None:
        super().__init__(tools)
        if tools.encode is None:
            raise NotMeasured("no speech encoder is at hand: convert with a model, or name one with --speech_encoder")
        self.encode = tools.encode

    def measure(self, case: Case) -> Measured:
        source, output = (
            recording.remember("units", lambda audio=recording.audio: self.encode(audio))  # type: ignore[misc]
            for recording in (case.source, case.output)
        )
        return Measured({"unit_distance": unit_distance(source, output)})


def unit_distance(source: np.ndarray, output: np.ndarray) -> float:
    """Mean cosine distance of units [dim, F]; the longer one is cut. NaN where there are none."""
    count = min(source.shape[1], output.shape[1])
    if count == 0:
        return NAN
    middle = source.mean(axis=1, keepdims=True)
    a, b = source[:, :count] - middle, output[:, :count] - middle
    lengths = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
    return float(np.mean(1 - (a * b).sum(axis=0) / np.maximum(lengths, 1e-9)))
