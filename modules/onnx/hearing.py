"""What every voice of graphs does with a window of the song before it sings, and with its audio after."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from modules.audio.loudness import adjust_envelope
from modules.audio.resample import resample
from modules.inference.options import InferenceOptions, ModelOptions
from modules.inference.windows import WindowInput
from modules.onnx.arrays import interpolate, unit_frames
from modules.onnx.manifest import Manifest
from modules.onnx.session import Session
from modules.onnx.timbre import Blender, CentreBlender, RetrievalBlender, blend

ENCODER_RATE = 16000  # Hz
SHORTEST = 400  # samples that an encoder needs for one frame


class Refiner(Protocol):
    """Changes the audio of a window after the generator: shallow diffusion, enhancer."""

    def check(self, options: InferenceOptions) -> None:
        """Refuse options that it cannot do. Raises UserError."""

    def refine(
        self,
        audio: np.ndarray,
        units: np.ndarray,
        f0: np.ndarray,
        speaker: int | np.ndarray,
        options: InferenceOptions,
    ) -> np.ndarray:
        """A better version of audio [T * hop]; units [T, dim], f0 [T] Hz, speaker an id or weights [T, S]."""


@dataclass
class GraphHearing(ABC):
    """The speech encoder of a folder and what surrounds the network of a voice.

    Attributes:
        encoder: audio at 16 kHz [1, 1, n] to units [1, F, dim].
        options: what was asked for when loading.
        refiners: run over the audio of the network, in order.
    """

    folder: Path
    manifest: Manifest
    encoder: Session
    options: ModelOptions
    refiners: Sequence[Refiner] = ()
    _blender: Blender | None = field(default=None, repr=False)

    @property
    def sample_rate(self) -> int:
        """Hz, of input windows and output."""
        return self.manifest.sampling_rate

    @property
    def hop_length(self) -> int:
        """Samples a frame."""
        return self.manifest.hop_length

    @property
    @abstractmethod
    def speakers(self) -> dict[str, int]:
        """Name -> id."""

    def check(self, options: InferenceOptions) -> None:
        """Refuse what this voice cannot do, before anything is computed. Raises UserError."""
        if options.cluster_infer_ratio:
            self._load_blender()
        for refiner in self.refiners:
            refiner.check(options)

    def encode(self, audio: np.ndarray) -> np.ndarray:
        """Units [F, dim] of audio [n] at the model's rate, 50 frames a second."""
        wave = resample(audio, self.sample_rate, ENCODER_RATE)
        wave = np.pad(wave, (0, max(0, SHORTEST - len(wave))))
        return self.encoder(source=wave[None, None])[0]

    def blended(self, window: WindowInput, options: InferenceOptions) -> np.ndarray:
        """Units [F, dim] of a window, moved towards the speaker's own as far as is asked for."""
        units = self.encode(window.audio)
        if not options.cluster_infer_ratio:
            return units
        return blend(self._load_blender(), units, window, options.cluster_infer_ratio)

    def finish(
        self, audio: np.ndarray, units: np.ndarray, f0: np.ndarray, window: WindowInput, options: InferenceOptions
    ) -> np.ndarray:
        """Refine the network's audio [T * hop] and give it the loudness envelope that is asked for."""
        for refiner in self.refiners:
            audio = refiner.refine(audio, units, f0, window.speaker, options)
        if options.loudness_envelope_adjustment != 1:
            rate = self.sample_rate
            audio = adjust_envelope(window.audio, rate, audio, rate, options.loudness_envelope_adjustment)
        return audio

    def _load_blender(self) -> Blender:
        if self._blender is None:
            if self.options.feature_retrieval:
                self._blender = RetrievalBlender(self.manifest.file(self.folder, "retrieval", "--feature_retrieval"))
            else:
                path = self.manifest.file(self.folder, "cluster", "--cluster_infer_ratio")
                self._blender = CentreBlender(path, self.speakers)
        return self._blender


def stretch(units: np.ndarray, n_frames: int, mode: str) -> np.ndarray:
    """Units [F, dim] at ``n_frames`` frames, by linear, left or nearest."""
    return interpolate(units, n_frames) if mode == "linear" else units[unit_frames(len(units), n_frames, mode)]
