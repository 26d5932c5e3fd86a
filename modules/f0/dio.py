"""dio: WORLD's fast estimator (Morise 2009), refined by StoneMask, through pyworld."""

from __future__ import annotations

import numpy as np
import pyworld
from numpy.typing import NDArray

from modules.f0.base import F0Predictor, Track, stretch


class DioPredictor(F0Predictor):
    """DIO and StoneMask, on the CPU; f0 is rounded to 0.1 Hz."""

    def _track(self, audio: NDArray[np.floating], n_frames: int) -> Track:
        settings = self.settings
        wave = np.ascontiguousarray(audio, dtype=np.float64)
        f0, times = pyworld.dio(
            wave,
            settings.sample_rate,
            f0_floor=settings.f0_min,
            f0_ceil=settings.f0_max,
            frame_period=1000 * settings.hop_length / settings.sample_rate,
        )
        refined = pyworld.stonemask(wave, f0, times, settings.sample_rate)
        return stretch(np.round(refined, 1), n_frames)
