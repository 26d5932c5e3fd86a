"""harvest: WORLD's careful estimator (Morise 2017), refined by StoneMask, through pyworld."""

from __future__ import annotations

import numpy as np
import pyworld
from numpy.typing import NDArray

from modules.f0.base import F0Predictor, Track, stretch


class HarvestPredictor(F0Predictor):
    """Harvest and StoneMask, on the CPU. Slow, and calls breaths voiced; not rounded."""

    def _track(self, audio: NDArray[np.floating], n_frames: int) -> Track:
        settings = self.settings
        wave = np.ascontiguousarray(audio, dtype=np.float64)
        f0, times = pyworld.harvest(
            wave,
            settings.sample_rate,
            f0_floor=settings.f0_min,
            f0_ceil=settings.f0_max,
            frame_period=1000 * settings.hop_length / settings.sample_rate,
        )
        return stretch(pyworld.stonemask(wave, f0, times, settings.sample_rate), n_frames)
