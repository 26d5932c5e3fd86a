"""crepe around its graph, in numpy: what modules.f0.crepe does with torchcrepe, librosa and scipy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from modules.audio.resample import SPEECH_RATE, resample
from modules.f0.base import F0Predictor, F0Settings, Track, stretch_nearest
from modules.f0.crepe_gate import gate_gain
from modules.onnx.session import Session

WINDOW = 1024  # samples
BINS = 360
CENTS_PER_BIN = 20
LOWEST_CENTS = 1997.3794084376191  # of bin 0 above 10 Hz
REACH = 12  # bins that the path may move between two frames
DITHER_SEED = 1234
SILENCE_DB, LOWEST_DB, REFERENCE_DB, DYNAMIC_DB = -60.0, -100.0, 20.0, 80.0
BATCH_FRAMES = 128  # the first layer holds 1 MB a frame

Array = NDArray[np.floating]


class CrepeGraph(F0Predictor):
    """CREPE full: stretches [N, 1024] at 16 kHz to the probabilities [N, 360] of its bins."""

    def __init__(self, settings: F0Settings, session: Session, threshold: float) -> None:
        self.default_threshold = threshold
        super().__init__(settings)
        self.session = session
        self.hop_length = max(1, int(settings.hop_length * SPEECH_RATE / settings.sample_rate))

    def _track(self, audio: Array, n_frames: int) -> Track:
        return stretch_nearest(self.raw_track(audio), n_frames)

    def raw_track(self, audio: Array) -> Track:
        """The track on crepe's own grid: hop_length in whole samples at 16 kHz."""
        wave = resample(audio, self.settings.sample_rate, SPEECH_RATE)
        wave = np.pad(wave, WINDOW // 2)
        frames = np.lib.stride_tricks.sliding_window_view(wave, WINDOW)[:: self.hop_length]
        batches = (frames[start : start + BATCH_FRAMES] for start in range(0, len(frames), BATCH_FRAMES))
        probabilities = np.concatenate([self.session(frames=np.ascontiguousarray(batch)) for batch in batches])
        probabilities[:, : max(0, int(self._bin(self.settings.f0_min)))] = -np.inf
        probabilities[:, int(np.ceil(self._bin(self.settings.f0_max))) :] = -np.inf
        path = best_path(softmax(probabilities))
        periodicity = median_of_three(probabilities[np.arange(len(path)), path])
        gain = gate_gain(audio, self.settings.sample_rate)
        periodicity[loudness(frames, gain) < SILENCE_DB] = 0.0
        return mean_of_three(np.where(periodicity < self.threshold, 0.0, hertz(path)))

    @staticmethod
    def _bin(frequency: float) -> float:
        return (1200 * np.log2(frequency / 10) - LOWEST_CENTS) / CENTS_PER_BIN


def softmax(values: Array) -> Array:
    """Over the last axis."""
    shifted = np.exp(values - values.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def best_path(observed: Array) -> NDArray[np.int64]:
    """The most likely bin of each frame (Viterbi, 1967), of probabilities [frames, 360]; neighbours lie within 12."""
    distance = np.abs(np.subtract.outer(np.arange(BINS), np.arange(BINS)))
    # The same for all bins: rows that were normalised each for itself would hold a path at the outermost bins.
    transition = np.maximum(REACH - distance, 0.0) / REACH**2
    tiny = np.finfo(np.float32).tiny
    step, seen = np.log(transition + tiny).T, np.log(observed + tiny).astype(np.float64)
    best = seen[0] + np.log(1 / BINS + tiny)
    came_from = np.zeros(observed.shape, dtype=np.int64)
    for frame in range(1, len(observed)):
        ways = step + best  # [to, from]
        came_from[frame] = ways.argmax(axis=1)
        best = seen[frame] + ways[np.arange(BINS), came_from[frame]]
    path = np.empty(len(observed), dtype=np.int64)
    path[-1] = best.argmax()
    for frame in range(len(path) - 1, 0, -1):
        path[frame - 1] = came_from[frame, path[frame]]
    return path


def hertz(path: NDArray[np.int64]) -> Array:
    """Hz of bins [frames], with triangular noise of up to a bin that hides the steps between them."""
    noise = np.random.RandomState(DITHER_SEED).triangular(-1.0, 0.0, 1.0, size=len(path)) * CENTS_PER_BIN
    return 10 * 2 ** ((CENTS_PER_BIN * path + LOWEST_CENTS + noise) / 1200)


def median_of_three(values: Array) -> Array:
    """Of each value and its neighbours; at the ends the smaller of the two."""
    if len(values) < 2:
        return values.copy()
    ends = np.array([values[:2].min(), values[-2:].min()])
    if len(values) == 2:
        return ends
    inside = np.median(np.lib.stride_tricks.sliding_window_view(values, 3), axis=1)
    return np.concatenate([ends[:1], inside, ends[1:]])


def mean_of_three(track: Array) -> Track:
    """Of those of each frame and its neighbours that are voiced; 0 where none is."""
    padded = np.pad(np.asarray(track, dtype=np.float64), 1)
    total = padded[:-2] + padded[1:-1] + padded[2:]
    voiced = (padded > 0).astype(np.float64)
    return total / np.maximum(voiced[:-2] + voiced[1:-1] + voiced[2:], 1)


def loudness(frames: Array, gain: float = 1.0) -> Array:
    """A-weighted loudness in dB [frames] of stretches [frames, 1024] that are made louder by a factor."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    decibels = np.empty((len(frames), WINDOW // 2 + 1), dtype=np.float32)
    for start in range(0, len(frames), BATCH_FRAMES):
        spectrum = np.abs(np.fft.rfft(frames[start : start + BATCH_FRAMES] * (gain * window)))
        decibels[start : start + BATCH_FRAMES] = 20 * np.log10(np.maximum(spectrum, 1e-5))
    heard = np.maximum(decibels, decibels.max() - DYNAMIC_DB) + a_weighting() - REFERENCE_DB
    return np.maximum(heard, LOWEST_DB).mean(axis=1)


def a_weighting() -> Array:
    """A-weighting (IEC 61672-1) of the bins in dB, not under -80 dB."""
    squared = np.square(np.fft.rfftfreq(WINDOW, 1 / SPEECH_RATE))
    low, first, second, high = np.square([20.598997, 107.65265, 737.86223, 12194.217])
    with np.errstate(divide="ignore"):
        gain = (
            20 * np.log10(high)
            + 40 * np.log10(squared)
            - 20 * np.log10(squared + high)
            - 20 * np.log10(squared + low)
            - 10 * np.log10(squared + first)
            - 10 * np.log10(squared + second)
        )
    return np.maximum(2.0 + gain, -80.0)
