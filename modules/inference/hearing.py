"""What every voice does with a window of the song before it sings, and with its audio after."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from modules.audio.loudness import adjust_envelope
from modules.audio.resample import resample
from modules.data.units import stretch_units
from modules.inference.engines import Refiner, UnitsBlender, load_blender
from modules.inference.options import InferenceOptions, ModelOptions
from modules.inference.windows import WindowInput
from vencoder.encoder import SpeechEncoder

ENCODER_RATE = 16000  # Hz


class Hearing(ABC):
    """The speech encoder and what surrounds the network of a voice.

    Attributes:
        encoder: the speech encoder that the model was trained with.
        options: what was asked for when loading; names the files that are loaded when first needed.
        refiners: run over the audio of the network, in order.
    """

    encoder: SpeechEncoder
    device: torch.device
    options: ModelOptions
    refiners: Sequence[Refiner]
    _blender: UnitsBlender | None

    @property
    @abstractmethod
    def sample_rate(self) -> int:
        """Hz, of input windows and output."""

    @property
    @abstractmethod
    def hop_length(self) -> int:
        """Samples a frame."""

    @property
    @abstractmethod
    def speakers(self) -> dict[str, int]:
        """Name -> id."""

    @property
    @abstractmethod
    def n_speakers(self) -> int:
        """Rows of the speaker embedding."""

    @property
    @abstractmethod
    def interpolate_mode(self) -> str:
        """How units are stretched to the frames of f0."""

    def check(self, options: InferenceOptions) -> None:
        """Refuse what this voice cannot do, before anything is computed. Raises UserError."""
        if options.cluster_infer_ratio:
            self._load_blender()
        for refiner in self.refiners:
            refiner.check(options)

    def encode(self, audio: np.ndarray) -> Tensor:
        """Units [dim, F] of audio [n] at the model's rate, 50 frames a second."""
        return self.encoder.encode(torch.from_numpy(resample(audio, self.sample_rate, ENCODER_RATE)))[0]

    def stretch(self, units: Tensor, n_frames: int) -> Tensor:
        """Units [dim, F] as [1, dim, n_frames] on the device."""
        return stretch_units(units, n_frames, self.interpolate_mode)[None].to(self.device)

    def finish(
        self, audio: Tensor, units: Tensor, f0: Tensor, speaker: Tensor, window: WindowInput, options: InferenceOptions
    ) -> np.ndarray:
        """Refine the network's audio [1, T * hop] and give it the loudness envelope that is asked for."""
        for refiner in self.refiners:
            audio = refiner.refine(audio, units, f0, speaker, options)
        out = audio[0].cpu().numpy()
        if options.loudness_envelope_adjustment != 1:
            rate = self.sample_rate
            out = adjust_envelope(window.audio, rate, out, rate, options.loudness_envelope_adjustment)
        return out

    def _units(self, window: WindowInput, n_frames: int, options: InferenceOptions) -> Tensor:
        """[1, dim, T] at the frame rate of the model."""
        units = self.encode(window.audio)
        if options.cluster_infer_ratio:
            units = self._blend(units, window, options.cluster_infer_ratio)
        return self.stretch(units, n_frames)

    def _blend(self, units: Tensor, window: WindowInput, ratio: float) -> Tensor:
        """Blend units [dim, F] with those of the speaker, or of each speaker by its share."""
        blender = self._load_blender()
        values = units.T.float().cpu().numpy()
        names = {speaker_id: name for name, speaker_id in self.speakers.items()}
        if isinstance(window.speaker, int):
            blended = blender.blend(values, names[window.speaker], ratio)
        else:
            shares = window.speaker[np.arange(len(values)) * len(window.speaker) // len(values)]
            blended = np.zeros_like(values)
            for speaker_id in np.flatnonzero(shares.any(axis=0)):
                blended += shares[:, speaker_id, None] * blender.blend(values, names[int(speaker_id)], ratio)
        return torch.from_numpy(blended).T

    def _load_blender(self) -> UnitsBlender:
        if self._blender is None:
            self._blender = load_blender(self.options, self.speakers)
        return self._blender

    def _speaker(self, window: WindowInput) -> Tensor:
        if isinstance(window.speaker, int):
            return torch.tensor([window.speaker], device=self.device)
        return self._tensor(window.speaker)

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(self.device)
