"""Whose voice it is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modules.errors import UserError
from modules.evaluation.base import NAN, Baseline, Case, Figure, Measured, Metric, NotMeasured, Tools
from modules.evaluation.ge2e import Ge2eEncoder
from modules.evaluation.recording import Recording

SIMILARITIES = ("similarity_target", "similarity_source", "nearer_target")


class SpeakerSimilarity(Metric):
    """How alike voices are: the cosine of Resemblyzer's speaker vectors (at most 1).

    A speaker is the mean vector of the recordings that are given of him or her, without the files that are
    measured. Similarity to the target: higher is better. Similarity to the source: lower is better; where no
    recordings of the source's speaker are given, it is that to the source itself. Nearer to target: share of pairs
    whose target similarity is the higher one, higher is better. The cosine of the source and the target stands
    beside them, and the baselines: single recordings against the mean of the others of the same speaker, and
    against other speakers. A silent result is like nobody: its similarities are 0. Without the baselines the
    numbers mean nothing: singing is further from speech than from another singer, and a synthetic voice is always
    near to itself. Source: Wan et al., 2018; weights by Resemblyzer (Apache-2.0).
    """

    _SOURCE = "Wan et al., 2018; Resemblyzer"
    figures = (
        Figure("similarity_target", "similarity to target", "", "higher", _SOURCE),
        Figure("similarity_source", "similarity to source", "", "lower", _SOURCE),
        Figure("nearer_target", "nearer to target than to source", "%", "higher", _SOURCE),
        Figure("source_to_target", "the source's own similarity to target", "", None, _SOURCE),
    )

    def __init__(self, tools: Tools) -> None:
        super().__init__(tools)
        if not list(tools.voices.files):
            raise NotMeasured("give recordings of the speakers: --voices FOLDER or --voice NAME=FOLDER")
        try:
            self.encoder = Ge2eEncoder.load(device=tools.device, pretrain_dir=tools.pretrain_dir)
        except UserError as error:
            raise NotMeasured(f"{error.what}; {error.fix}") from None
        self._vectors: dict[str, list[np.ndarray]] = {}

    def vector(self, recording: Recording) -> np.ndarray | None:
        """The vector of a recording, None where it is silent."""
        return recording.remember("speaker", lambda: self.encoder.embed(recording.speech))

    def speaker_vectors(self, name: str) -> list[np.ndarray]:
        """The vectors of a speaker's recordings."""
        if name not in self._vectors:
            found = [self.vector(recording) for recording in self.tools.voices.recordings(name)]
            self._vectors[name] = [vector for vector in found if vector is not None]
        return self._vectors[name]

    def measure(self, case: Case) -> Measured:
        output, source = self.vector(case.output), self.vector(case.source)
        if output is None:
            return Measured({**dict.fromkeys(SIMILARITIES, 0.0), "source_to_target": NAN})
        target = mean_vector(self.speaker_vectors(case.pair.target))
        owner = case.pair.source_speaker
        source_voice = mean_vector(self.speaker_vectors(owner)) if owner in self.tools.voices else source
        to_target, to_source = cosine(output, target), cosine(output, source_voice)
        known = np.isfinite(to_target) and np.isfinite(to_source)
        return Measured(
            {
                "similarity_target": to_target,
                "similarity_source": to_source,
                "nearer_target": float(to_target > to_source) if known else NAN,
                "source_to_target": cosine(source, target),
            }
        )

    def baselines(self) -> list[Baseline]:
        names = list(self.tools.voices.files)
        same: list[float] = []
        different: list[float] = []
        for name in names:
            vectors = self.speaker_vectors(name)
            for index, vector in enumerate(vectors):
                others = vectors[:index] + vectors[index + 1 :]
                if others:
                    same.append(cosine(vector, mean_vector(others)))
                different += [
                    cosine(vector, mean_vector(self.speaker_vectors(other)))
                    for other in names
                    if other != name and self.speaker_vectors(other)
                ]
        rows = (
            ("same_speaker", "recordings of one speaker", same),
            ("different_speaker", "recordings of two speakers", different),
        )
        return [
            Baseline(key, title, "similarity_target", float(np.mean(v)), min(v), max(v), len(v))
            for key, title, v in rows
            if v
        ]


def mean_vector(vectors: Sequence[np.ndarray]) -> np.ndarray | None:
    """The direction in the middle of vectors [WIDTH]; None where there are none."""
    if not vectors:
        return None
    middle = np.mean(vectors, axis=0)
    return middle / np.linalg.norm(middle)


def cosine(a: np.ndarray | None, b: np.ndarray | None) -> float:
    """Of two vectors of length 1; NaN where one is missing."""
    return NAN if a is None or b is None else float(np.dot(a, b))
