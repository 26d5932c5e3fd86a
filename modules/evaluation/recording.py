"""What all measures of quality work on: recordings at one sampling rate, and what was computed from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from modules.audio.io import load_audio
from modules.audio.resample import SPEECH_RATE, resample

if TYPE_CHECKING:
    from modules.f0 import F0Contour, F0Predictor

RATE = 44100  # Hz, of everything that is measured
HOP = 512  # samples a frame at RATE

Encode = Callable[[np.ndarray], np.ndarray]  # audio [T] at RATE to units [dim, F]
T = TypeVar("T")


class Recording:
    """Audio that several measures read; what one of them computes from it, the others need not compute again.

    Args:
        audio: float32 [T] at RATE.
        name: for messages.
    """

    def __init__(self, audio: np.ndarray, name: str = "") -> None:
        self.audio = np.asarray(audio, dtype=np.float32)
        self.name = name
        self._memo: dict[str, Any] = {}

    @classmethod
    def load(cls, path: Path, seconds: float | None = None) -> Recording:
        """A file as mono at RATE, its first ``seconds`` where given. Raises UserError as load_audio."""
        audio, _ = load_audio(path, RATE)
        return cls(audio if seconds is None else audio[: round(seconds * RATE)], str(path))

    @property
    def seconds(self) -> float:
        return len(self.audio) / RATE

    @property
    def speech(self) -> np.ndarray:
        """float32 [T] at SPEECH_RATE."""
        return self.remember("speech", lambda: resample(self.audio, RATE, SPEECH_RATE))

    def contour(self, predictor: F0Predictor) -> F0Contour:
        """f0 by ``predictor``, a frame each HOP samples."""
        return self.remember(f"f0/{id(predictor)}", lambda: predictor(self.audio))

    def pitch(self, predictor: F0Predictor) -> float:
        """The middle of the voiced f0 in Hz; 0 where nothing is voiced."""
        contour = self.contour(predictor)
        return median_pitch(contour.f0, contour.uv)

    def remember(self, key: str, compute: Callable[[], T]) -> T:
        """The value under ``key``, computed the first time it is asked for."""
        if key not in self._memo:
            self._memo[key] = compute()
        value: T = self._memo[key]
        return value


def median_pitch(f0: np.ndarray, uv: np.ndarray) -> float:
    """The middle of the voiced f0 in Hz; 0 where nothing is voiced."""
    voiced = f0[uv > 0.5]
    return float(np.median(voiced)) if len(voiced) else 0.0
