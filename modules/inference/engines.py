"""What can be put into the flow of a conversion: blends of the units and refiners of the audio."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from modules.errors import UserError
from modules.inference.options import InferenceOptions, ModelOptions


def seeded(seed: int, device: torch.device) -> torch.Generator:
    """The random numbers of one engine in one window; nothing draws from torch's global ones."""
    return torch.Generator(device).manual_seed(seed)


class UnitsBlender(Protocol):
    """Moves units towards a speaker's own sounds."""

    def blend(self, units: np.ndarray, speaker: str, ratio: float) -> np.ndarray:
        """float32 [T, dim] -> [T, dim]; ratio 0 leaves the units, 1 takes the speaker's alone."""


class Refiner(Protocol):
    """Changes the audio of a window after the network: shallow diffusion, enhancer."""

    def check(self, options: InferenceOptions) -> None:
        """Refuse options that it cannot do. Raises UserError."""

    def refine(self, audio: Tensor, units: Tensor, f0: Tensor, speaker: Tensor, options: InferenceOptions) -> Tensor:
        """A better version of ``audio``, of the same length.

        Args:
            audio: [1, T * hop] of the network.
            units: [1, dim, T].
            f0: [1, T] Hz.
            speaker: int64 [1] or float [T, speakers].
        """


class RetrievalBlender:
    """A feature index, which knows speakers by id, behind speaker names."""

    def __init__(self, path: Path, speakers: Mapping[str, int]) -> None:
        from cluster import retrieval

        self._indexes = retrieval.load(path)
        self._speakers = speakers
        self._path = path

    def blend(self, units: np.ndarray, speaker: str, ratio: float) -> np.ndarray:
        """Towards the nearest frames of the speaker's recordings."""
        speaker_id = self._speakers[speaker]
        if speaker_id not in self._indexes:
            known = ", ".join(str(key) for key in self._indexes)
            raise UserError(
                f"the feature index has no speaker {speaker_id} ({speaker}); it has {known}",
                self._path,
                "make it anew with train_index.py, or use --cluster_infer_ratio 0",
            )
        return self._indexes[speaker_id].blend(units, ratio)


def load_blender(options: ModelOptions, speakers: Mapping[str, int]) -> UnitsBlender:
    """The k-means centres or the feature index that the options name."""
    if options.feature_retrieval:
        return RetrievalBlender(options.cluster_path(), speakers)
    from cluster import kmeans

    return kmeans.load(options.cluster_path())
