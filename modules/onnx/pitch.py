"""The f0 predictors that are networks, as graphs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modules.audio.resample import SPEECH_RATE, resample
from modules.errors import UserError
from modules.f0 import cached_predictor
from modules.f0.base import F0Predictor, F0Settings, Track, sample_track
from modules.onnx.crepe import CrepeGraph
from modules.onnx.manifest import Manifest, PredictorFacts
from modules.onnx.session import Session

HOP_LENGTH = 160  # samples between the frames of rmvpe and fcpe
SHORTEST = 2048  # samples; shorter audio is filled up with silence
GRAPHS = ("rmvpe", "fcpe", "crepe")
NEEDS_PACKAGE = {"pm": "parselmouth", "dio": "pyworld", "harvest": "pyworld"}


class SalienceGraph(F0Predictor):
    """rmvpe or fcpe: audio [1, n] at 16 kHz and a threshold [1] to f0 [frames], 0 where unvoiced."""

    halves_notes = False

    def __init__(self, settings: F0Settings, session: Session, facts: PredictorFacts) -> None:
        self.default_threshold = facts.threshold
        super().__init__(settings)
        self.session, self.facts = session, facts

    @property
    def reach(self) -> tuple[float, float]:
        return self.facts.lowest, self.facts.highest

    def _track(self, audio: NDArray[np.floating], n_frames: int) -> Track:
        times = np.arange(n_frames) * self.settings.hop_length / self.settings.sample_rate
        return sample_track(self.raw_track(audio), times * SPEECH_RATE / HOP_LENGTH)

    def raw_track(self, audio: NDArray[np.floating]) -> Track:
        """The track on the network's own 10 ms frames."""
        wave = resample(audio, self.settings.sample_rate, SPEECH_RATE)
        wave = np.pad(wave, (0, max(0, SHORTEST - len(wave))))
        return self.session(audio=wave[None], threshold=np.array([self.threshold], dtype=np.float32)).astype(np.float64)


class OnnxPredictors:
    """The f0 predictors of a folder; pm, dio and harvest where their packages are installed.

    Args:
        device: see session.providers.
    """

    def __init__(self, folder: Path, manifest: Manifest, device: str | None) -> None:
        self.folder, self.manifest, self.device = folder, manifest, device
        self._sessions: dict[str, Session] = {}

    @property
    def watches_range(self) -> bool:
        """Whether there is what looks through songs for notes outside the range."""
        return _installed("parselmouth")

    def get(self, name: str, **settings: Any) -> F0Predictor:
        """A predictor. Raises UserError where its graph or its package is missing.

        Args:
            settings: see F0Settings.
        """
        if name in NEEDS_PACKAGE:
            if not _installed(NEEDS_PACKAGE[name]):
                graphs = ", ".join(name for name in GRAPHS if name in self.manifest.parts)
                raise UserError(
                    f"{name} needs the package {NEEDS_PACKAGE[name]}",
                    "--f0_predictor",
                    f"install it, or use one of the exported graphs: {graphs or 'none is there'}",
                )
            return cached_predictor(name, **settings)
        if name not in self._sessions:
            path = self.manifest.file(self.folder, name, f"--f0_predictor {name}")
            self._sessions[name] = Session(path, {"frames" if name == "crepe" else "audio"}, self.device)
        facts = self.manifest.facts_of(name, PredictorFacts, self.folder)
        if name == "crepe":
            return CrepeGraph(F0Settings(**settings), self._sessions[name], facts.threshold)
        return SalienceGraph(F0Settings(**settings), self._sessions[name], facts)


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ImportError:
        return False
