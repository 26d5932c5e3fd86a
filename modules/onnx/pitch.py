"""The f0 predictors that are networks, as graphs."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modules.audio.resample import resample
from modules.errors import UserError
from modules.f0.base import F0Predictor, F0Settings, Track, sample_track
from modules.inference.options import InferenceOptions
from modules.inference.pitch import PitchFinder
from modules.onnx.crepe import CrepeGraph
from modules.onnx.manifest import Manifest
from modules.onnx.session import Session

SAMPLE_RATE = 16000  # Hz, of the graphs
HOP_LENGTH = 160  # samples between the frames of rmvpe and fcpe
SHORTEST = 2048  # samples; shorter audio is filled up with silence
NEEDS_PACKAGE = {"pm": "parselmouth", "dio": "pyworld", "harvest": "pyworld"}


class SalienceGraph(F0Predictor):
    """rmvpe or fcpe: audio [1, n] at 16 kHz and a threshold [1] to f0 [frames], 0 where unvoiced."""

    def __init__(self, settings: F0Settings, session: Session, threshold: float) -> None:
        self.default_threshold = threshold
        super().__init__(settings)
        self.session = session

    def _track(self, audio: NDArray[np.floating], n_frames: int) -> Track:
        times = np.arange(n_frames) * self.settings.hop_length / self.settings.sample_rate
        return sample_track(self.raw_track(audio), times * SAMPLE_RATE / HOP_LENGTH)

    def raw_track(self, audio: NDArray[np.floating]) -> Track:
        """The track on the network's own 10 ms frames."""
        wave = resample(audio, self.settings.sample_rate, SAMPLE_RATE)
        wave = np.pad(wave, (0, max(0, SHORTEST - len(wave))))
        return self.session(audio=wave[None], threshold=np.array([self.threshold], dtype=np.float32)).astype(np.float64)


@dataclass
class GraphPitchFinder(PitchFinder):
    """Finds the pitch with the graphs of a folder; pm, dio and harvest where their packages are installed."""

    folder: Path = Path()
    manifest: Manifest | None = None
    graph_device: str | None = None
    _sessions: dict[str, Session] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, folder: Path, manifest: Manifest, device: str | None) -> GraphPitchFinder:
        """For an exported model."""
        return cls(
            manifest.sampling_rate,
            manifest.hop_length,
            watches_range=_installed("parselmouth"),
            folder=folder,
            manifest=manifest,
            graph_device=device,
        )

    def predictor(self, options: InferenceOptions) -> F0Predictor:
        """The predictor of these options. Raises UserError where its graph or its package is missing."""
        name = options.f0_predictor
        if name in NEEDS_PACKAGE:
            if not _installed(NEEDS_PACKAGE[name]):
                raise UserError(
                    f"{name} needs the package {NEEDS_PACKAGE[name]}",
                    "--f0_predictor",
                    f"install it, or use one of the exported graphs: {', '.join(self._graphs()) or 'none is there'}",
                )
            return super().predictor(options)
        settings = F0Settings(
            hop_length=self.hop_length,
            sample_rate=self.sample_rate,
            f0_min=options.f0_min,
            f0_max=options.f0_max,
            threshold=options.f0_filter_threshold,
        )
        assert self.manifest is not None
        if name not in self._sessions:
            path = self.manifest.file(self.folder, name, f"--f0_predictor {name}")
            self._sessions[name] = Session(path, {"frames" if name == "crepe" else "audio"}, self.graph_device)
        graph = CrepeGraph if name == "crepe" else SalienceGraph
        return graph(settings, self._sessions[name], self.manifest.facts[name]["threshold"])

    def _graphs(self) -> list[str]:
        assert self.manifest is not None
        return [name for name in ("rmvpe", "fcpe", "crepe") if name in self.manifest.parts]


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ImportError:
        return False
