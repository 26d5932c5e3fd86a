"""crepe: the convolutional estimator of Kim et al. 2018 (the full model), through torchcrepe.

The steps are those of torchcrepe.predict with its Viterbi decoder, a median filter of 3 frames on the
periodicity, the silence gate, the threshold and a mean filter of 3 frames on f0. They are taken one by one
here so that long audio goes through in windows, the weights are loaded once, and the dither (triangular
noise of up to 20 cents that hides the 20-cent bins) comes from a generator of our own: the same audio gives
the same f0, and numpy's global generator is neither read nor moved.
"""

from __future__ import annotations

from importlib import resources

import librosa
import numpy as np
import scipy.stats
import torch
import torchcrepe
from numpy.typing import NDArray
from torch import Tensor, nn

from modules import checkpoint
from modules.devices import pick_device
from modules.f0.base import F0Predictor, F0Settings, Track, stretch_nearest
from modules.f0.crepe_gate import gate_gain

DITHER_SEED = 1234
SILENCE_DB = -60.0  # A-weighted
FILTER_FRAMES = 3
REACH = 12  # bins that the path may move between two frames
BATCH_FRAMES = 128  # the first layer holds 1 MB a frame
WINDOW_FRAMES = 3000
CONTEXT_FRAMES = 64  # paths of the Viterbi search have met long before this


class Crepe(torchcrepe.Crepe):
    """torchcrepe's network with its columns convolved as sequences: 1.5 times as fast on a CPU."""

    def layer(
        self, x: Tensor, conv: nn.Conv2d, batch_norm: nn.BatchNorm2d, padding: tuple[int, ...] = (0, 0, 31, 32)
    ) -> Tensor:
        """One layer over [B, C, T, 1]."""
        sequence = nn.functional.pad(x[..., 0], padding[2:])
        sequence = nn.functional.conv1d(sequence, conv.weight[..., 0], conv.bias, stride=conv.stride[0])
        normed = batch_norm(torch.relu(sequence)[..., None])
        return nn.functional.max_pool1d(normed[..., 0], 2)[..., None]


class CrepePredictor(F0Predictor):
    """CREPE full on the given device."""

    def __init__(self, settings: F0Settings) -> None:
        super().__init__(settings)
        with torch.device("meta"):  # no random initialisation: it takes time and moves the global generator
            self.model = Crepe("full")
        self.model.to_empty(device="cpu")
        weights = resources.files(torchcrepe) / "assets" / "full.pth"
        with resources.as_file(weights) as path:
            checkpoint.load_into(self.model, checkpoint.load(path), path)
        self.device = pick_device(settings.device)
        self.model.eval().to(self.device)
        self.hop_length = max(1, int(settings.hop_length * torchcrepe.SAMPLE_RATE / settings.sample_rate))

    def _track(self, audio: NDArray[np.floating], n_frames: int) -> Track:
        return stretch_nearest(self.raw_track(audio), n_frames)

    @torch.inference_mode()
    def raw_track(self, audio: NDArray[np.floating]) -> Track:
        """The track on torchcrepe's own grid: hop_length in whole samples at 16 kHz."""
        wave = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32))[None]
        if self.settings.sample_rate != torchcrepe.SAMPLE_RATE:
            wave = torchcrepe.resample(wave, self.settings.sample_rate)
        total = 1 + wave.shape[1] // self.hop_length
        half = torchcrepe.WINDOW_SIZE // 2
        wave = nn.functional.pad(wave, (half, half))
        bins = torch.empty(1, total, dtype=torch.int64)
        periodicity = torch.empty(1, total)
        for start in range(0, total, WINDOW_FRAMES):
            stop = min(total, start + WINDOW_FRAMES)
            first, last = max(0, start - CONTEXT_FRAMES), min(total, stop + CONTEXT_FRAMES)
            probabilities = self._probabilities(self._samples(wave, first, last))
            path = self._best_path(probabilities)
            kept = slice(start - first, stop - first)
            bins[0, start:stop] = path[kept]
            periodicity[0, start:stop] = probabilities.gather(1, path[:, None])[kept, 0]
        periodicity = torchcrepe.filter.median(periodicity, FILTER_FRAMES)
        loudness = self._loudness(wave * gate_gain(audio, self.settings.sample_rate), total)
        periodicity[0, loudness < SILENCE_DB] = 0.0
        f0 = torchcrepe.threshold.At(self.threshold)(_bins_to_hz(bins), periodicity)
        f0 = torchcrepe.filter.mean(f0, FILTER_FRAMES)
        return torch.nan_to_num(f0[0], nan=0.0).double().numpy()

    def _samples(self, wave: Tensor, first: int, last: int) -> Tensor:
        """The samples [1, n] under the frames from ``first`` up to ``last``."""
        return wave[:, first * self.hop_length : (last - 1) * self.hop_length + torchcrepe.WINDOW_SIZE]

    def _probabilities(self, wave: Tensor) -> Tensor:
        """[frames, 360] on the CPU; bins outside the f0 range are minus infinity."""
        batches = torchcrepe.preprocess(
            wave, torchcrepe.SAMPLE_RATE, self.hop_length, BATCH_FRAMES, self.device, pad=False
        )
        probabilities = torch.cat([self.model(batch).cpu() for batch in batches])
        low, high = torch.tensor(self.settings.f0_min), torch.tensor(self.settings.f0_max)
        probabilities[:, : max(0, int(torchcrepe.convert.frequency_to_bins(low)))] = -torch.inf
        probabilities[:, int(torchcrepe.convert.frequency_to_bins(high, torch.ceil)) :] = -torch.inf
        return probabilities

    @staticmethod
    def _best_path(probabilities: Tensor) -> Tensor:
        """The most likely bin of each frame, int64 [frames], where neighbours lie within 12 bins."""
        # With a margin of bins that are never observed, the outermost ones have as many ways out as the others;
        # without it a path that silence once led there would stay.
        states = np.arange(torchcrepe.PITCH_BINS + 2 * REACH)
        transition = np.maximum(REACH - np.abs(np.subtract.outer(states, states)), 0)
        transition = transition / transition.sum(axis=1, keepdims=True)
        observed = np.pad(torch.softmax(probabilities, dim=1).T.numpy(), ((REACH, REACH), (0, 0)))
        return torch.from_numpy(librosa.sequence.viterbi(observed, transition).astype(np.int64) - REACH)

    def _loudness(self, wave: Tensor, total: int) -> Tensor:
        """A-weighted loudness in dB [frames], as torchcrepe.loudness has it for the whole audio at once."""
        starts = range(0, total, WINDOW_FRAMES)
        # librosa cuts 80 dB below the loudest bin of all, so the spectra are taken twice rather than kept.
        floor = max(float(self._decibels(wave, start, total).max()) for start in starts) - 80.0
        weights = torchcrepe.loudness.perceptual_weights()
        means = [
            np.maximum(
                np.maximum(self._decibels(wave, start, total), floor) + weights, torchcrepe.loudness.MIN_DB
            ).mean(axis=0)
            for start in starts
        ]
        return torch.from_numpy(np.concatenate(means)).float()

    def _decibels(self, wave: Tensor, start: int, total: int) -> NDArray[np.floating]:
        """Log-magnitudes [bins, frames] of the window that begins at frame ``start``."""
        samples = self._samples(wave, start, min(total, start + WINDOW_FRAMES))[0].numpy()
        spectrum = librosa.stft(samples, n_fft=torchcrepe.WINDOW_SIZE, hop_length=self.hop_length, center=False)
        return librosa.amplitude_to_db(np.abs(spectrum), top_db=None)


def _bins_to_hz(bins: Tensor) -> Tensor:
    """Hz of the bins [1, frames], dithered."""
    bin_width = torchcrepe.CENTS_PER_BIN
    noise = scipy.stats.triang.rvs(
        c=0.5,
        loc=-bin_width,
        scale=2 * bin_width,
        size=bins.shape,
        random_state=np.random.RandomState(DITHER_SEED),
    )
    cents = bin_width * bins + 1997.3794084376191
    return torchcrepe.convert.cents_to_frequency(cents + cents.new_tensor(noise, dtype=torch.float32))
