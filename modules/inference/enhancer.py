"""The enhancer: the audio of a generator sung once more by the stand-alone NSF-HiFiGAN.

A vocoder knows a range of notes. With an adaptive key the audio is brought down by so many semitones before and up
again after, by playing it at another rate, so that high notes come into the range (DDSP-SVC's enhancer).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from modules.audio.resample import shifted_rate
from modules.inference.engines import seeded
from modules.inference.options import InferenceOptions
from vdecoder.mel_vocoder import MelVocoder, resample

DEFAULT_VOCODER = Path("pretrain/nsf_hifigan/model")
NOISE = 2  # added to the seed, so that the noise here is not that of the generator


class Enhancer:
    """Runs a vocoder over audio.

    Args:
        vocoder: made for the rate of the audio.
    """

    def __init__(self, vocoder: MelVocoder) -> None:
        self.vocoder = vocoder

    def check(self, options: InferenceOptions) -> None:
        """There is nothing that it refuses."""

    def refine(self, audio: Tensor, units: Tensor, f0: Tensor, speaker: Tensor, options: InferenceOptions) -> Tensor:
        """See modules.inference.engines.Refiner."""
        generator = seeded(options.seed + NOISE, audio.device)
        enhanced = self.enhance(audio, f0, options.enhancer_adaptive_key, generator=generator).float()
        missing = audio.shape[1] - enhanced.shape[1]  # another rate does not make whole frames
        return F.pad(enhanced, (0, max(0, missing)))[:, : audio.shape[1]]

    def enhance(
        self,
        audio: Tensor,
        f0: Tensor,
        adaptive_key: float = 0.0,
        silence_front: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Audio [B, about N] at the vocoder's rate.

        Args:
            audio: [B, N] at the vocoder's sampling rate.
            f0: Hz, [B, T] at its hop; is left as it is.
            adaptive_key: semitones by which the range of the vocoder is raised.
            silence_front: seconds at the start that are silent and are not computed.
            generator: where the vocoder's noise comes from.
        """
        rate, hop = self.vocoder.config.sampling_rate, self.vocoder.config.hop_size
        adapted_rate = shifted_rate(rate, adaptive_key)
        factor = rate / adapted_rate
        skipped = int(silence_front * rate / hop)  # frames
        mel = self.vocoder.to_mel(resample(audio[:, hop * skipped :], rate, adapted_rate))
        f0 = _stretch(f0[:, skipped:] * factor, mel.shape[1], factor)
        enhanced = self.vocoder.synthesise(mel, f0, generator).squeeze(1)
        return F.pad(resample(enhanced, adapted_rate, rate), (hop * skipped, 0))


def _stretch(f0: Tensor, n_frames: int, factor: float) -> Tensor:
    """f0 [B, T] at frames that lie ``factor`` of a frame apart, linearly between the old ones, [B, n_frames]."""
    if factor == 1 and f0.shape[1] == n_frames:
        return f0
    at = np.arange(n_frames) * factor
    rows = [np.interp(at, np.arange(f0.shape[1]), row) for row in f0.double().cpu().numpy()]
    return torch.from_numpy(np.stack(rows)).to(f0)
