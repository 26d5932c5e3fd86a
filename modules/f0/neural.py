"""What rmvpe and fcpe share: 16 kHz audio, 10 ms frames, 360 bins of salience, windows over long audio.

Long audio goes through the network in windows that overlap: each gives its core, and the context on both
sides is thrown away, so memory stays that of one window (besides the samples themselves). Every window
starts at a multiple of the frames that the network pools into one, so a frame meets the same weights as in
one pass.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import librosa
import numpy as np
import torch
import torchaudio
from numpy.typing import NDArray
from torch import Tensor

from modules.audio.resample import SPEECH_RATE
from modules.devices import pick_device
from modules.f0.base import F0Predictor, F0Settings, Track, sample_track

HOP_LENGTH = 160  # 10 ms
N_FFT = 1024
N_MELS = 128
MEL_FLOOR = 1e-5
LOWPASS_FILTER_WIDTH = 128
CORE_FRAMES = 3840  # 38.4 s, a multiple of the 32 frames that RMVPE pools into one
CONTEXT_FRAMES = 480  # 4.8 s, likewise
BIN_RANGE = (33.0, 1976.0)  # Hz of the lowest and the highest bin; f0_min and f0_max change nothing
NEIGHBOURS = 4  # bins on each side of the highest one that are averaged


@dataclass(frozen=True)
class Window:
    """Frames ``first`` to ``last`` go in; of what comes out, ``start`` to ``stop`` is kept."""

    first: int
    start: int
    stop: int
    last: int

    @property
    def core(self) -> slice:
        """The kept frames, counted from ``first``."""
        return slice(self.start - self.first, self.stop - self.first)


def windows(total: int, core: int = CORE_FRAMES, context: int = CONTEXT_FRAMES) -> Iterator[Window]:
    """Windows over ``total`` frames; audio of up to one whole window goes in one pass."""
    if total <= core + 2 * context:
        yield Window(0, 0, total, total)
        return
    for start in range(0, total, core):
        stop = min(total, start + core)
        yield Window(max(0, start - context), start, stop, min(total, stop + context))


class SaliencePredictor(F0Predictor):
    """A network that gives the salience of 360 pitch bins for each 10 ms frame of 16 kHz audio."""

    halves_notes = False
    pad: int  # samples of padding on both sides of the audio
    core_frames = CORE_FRAMES
    context_frames = CONTEXT_FRAMES

    def __init__(self, settings: F0Settings) -> None:
        super().__init__(settings)
        self.device = pick_device(settings.device)
        resample = torchaudio.transforms.Resample(
            settings.sample_rate, SPEECH_RATE, lowpass_filter_width=LOWPASS_FILTER_WIDTH
        )
        self.resample = resample.to(self.device)
        self.hann = torch.hann_window(N_FFT, device=self.device)

    @property
    def reach(self) -> tuple[float, float]:
        return BIN_RANGE

    def _track(self, audio: NDArray[np.floating], n_frames: int) -> Track:
        times = np.arange(n_frames) * self.settings.hop_length / self.settings.sample_rate
        return sample_track(self.raw_track(audio), times * SPEECH_RATE / HOP_LENGTH)

    @torch.inference_mode()
    def raw_track(self, audio: NDArray[np.floating]) -> Track:
        """The track on the network's own 10 ms frames."""
        padded, total = self._prepare(audio)
        spans = list(windows(total, self.core_frames, self.context_frames))
        survey = self._survey(padded, spans, total)
        parts = [
            self._decode(self._salience(self._mel(padded, window, total), survey)[window.core]) for window in spans
        ]
        return torch.cat(parts).cpu().double().numpy()

    def _prepare(self, audio: NDArray[np.floating]) -> tuple[Tensor, int]:
        """The padded 16 kHz audio [n] on the device, and how many frames it has."""
        wave = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32)).to(self.device)
        wave = self.resample(wave)
        right = max(self.pad, N_FFT - len(wave) - self.pad)
        mode = "reflect" if right < len(wave) else "constant"
        padded = torch.nn.functional.pad(wave[None], (self.pad, right), mode=mode)[0]
        return padded, 1 + len(wave) // HOP_LENGTH

    def _spectrum(self, padded: Tensor, first: int, last: int) -> Tensor:
        """Complex spectrum [bins, frames] of the frames from ``first`` up to ``last``."""
        samples = padded[first * HOP_LENGTH : (last - 1) * HOP_LENGTH + N_FFT]
        return torch.stft(samples, N_FFT, HOP_LENGTH, window=self.hann, center=False, return_complex=True)

    @abstractmethod
    def _mel(self, padded: Tensor, window: Window, total: int) -> Tensor:
        """Log-mel [N_MELS, frames] of a window."""

    def _survey(self, padded: Tensor, spans: list[Window], total: int) -> Any:
        """What the network must know of the whole audio before it sees the windows."""
        return None

    @abstractmethod
    def _salience(self, mel: Tensor, survey: Any) -> Tensor:
        """Salience [frames, 360], 0 to 1, of log-mel [N_MELS, frames]."""

    @abstractmethod
    def _decode(self, salience: Tensor) -> Tensor:
        """f0 [frames] in Hz, 0 for unvoiced, of salience [frames, 360]."""


def mel_filters(fmin: float, fmax: float, htk: bool, device: torch.device) -> Tensor:
    """Slaney-normalised mel filters [N_MELS, bins]."""
    basis = librosa.filters.mel(sr=SPEECH_RATE, n_fft=N_FFT, n_mels=N_MELS, fmin=fmin, fmax=fmax, htk=htk)
    return torch.from_numpy(basis).float().to(device)


def local_average_f0(salience: Tensor, cents: Tensor, threshold: float | Tensor, repeat_edges: bool = False) -> Tensor:
    """f0 by the mean of the cents around each frame's highest bin, weighted by salience.

    Args:
        salience: [frames, bins], 0 to 1.
        cents: [bins], above 10 Hz.
        threshold: a frame whose highest salience is not above it is unvoiced.
        repeat_edges: bins beyond the ends count as copies of the last one; otherwise they do not count.

    Returns:
        [frames], Hz, 0 for unvoiced.
    """
    peak, highest = salience.max(dim=1)
    around = highest[:, None] + torch.arange(-NEIGHBOURS, NEIGHBOURS + 1, device=salience.device)
    inside = around.clamp(0, salience.shape[1] - 1)
    weights = salience.gather(1, inside)
    if not repeat_edges:
        weights = weights * (around == inside)
    mean = (weights * cents[inside]).sum(dim=1) / weights.sum(dim=1)
    return torch.where(peak > threshold, 10.0 * 2.0 ** (mean / 1200.0), torch.zeros_like(peak))
