"""The enhancer with graphs: the audio of a generator sung once more by the stand-alone NSF-HiFiGAN."""

from __future__ import annotations

import numpy as np

from modules.audio.resample import resample, shifted_rate
from modules.inference.options import InferenceOptions
from modules.onnx.diffusion import GraphVocoder

NOISE = 2  # added to the seed, so that the noise here is not that of the generator


class GraphEnhancer:
    """Runs a vocoder over audio; with an adaptive key at another rate, so that high notes come into its range."""

    def __init__(self, vocoder: GraphVocoder) -> None:
        self.vocoder = vocoder

    def check(self, options: InferenceOptions) -> None:
        """There is nothing that it refuses."""

    def refine(
        self,
        audio: np.ndarray,
        units: np.ndarray,
        f0: np.ndarray,
        speaker: int | np.ndarray,
        options: InferenceOptions,
    ) -> np.ndarray:
        """A better version of audio [T * hop]; f0 [T] Hz."""
        rate = self.vocoder.sample_rate
        adapted = shifted_rate(rate, options.enhancer_adaptive_key)
        factor = rate / adapted
        mel = self.vocoder.extract(resample(audio, rate, adapted))
        at = np.arange(len(mel)) * factor
        stretched = np.interp(at, np.arange(len(f0)), f0 * factor)
        enhanced = self.vocoder.synthesise(mel, stretched, options.seed + NOISE)
        out = resample(enhanced, adapted, rate)[: len(audio)]
        return np.pad(out, (0, len(audio) - len(out)))  # another rate does not make whole frames
