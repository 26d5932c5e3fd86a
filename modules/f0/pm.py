"""pm: Praat's autocorrelation method (Boersma 1993), through parselmouth."""

from __future__ import annotations

import numpy as np
import parselmouth
from numpy.typing import NDArray

from modules.f0.base import F0Predictor, Track, centre

VOICING_THRESHOLD = 0.6
PERIODS_PER_WINDOW = 3  # Praat's autocorrelation window; it refuses sounds that are shorter


class PraatPredictor(F0Predictor):
    """Praat pitch, on the CPU. Cheap; halves notes above f0_max, see modules.f0.check_range."""

    def _track(self, audio: NDArray[np.floating], n_frames: int) -> Track:
        settings = self.settings
        return centre(
            praat_track(audio, settings.sample_rate, settings.hop_length, settings.f0_min, settings.f0_max),
            n_frames,
        )


def praat_track(
    audio: NDArray[np.floating], sample_rate: int, hop_length: int, f0_min: float, f0_max: float
) -> Track:
    """Praat's own frames, centred in the audio: a few less than T // hop_length; 0 is unvoiced."""
    needed = int(np.ceil(PERIODS_PER_WINDOW / f0_min * sample_rate)) + hop_length
    missing = max(0, needed - len(audio))
    padded = np.pad(np.asarray(audio, np.float64), (missing // 2, missing - missing // 2))
    pitch = parselmouth.Sound(padded, sample_rate).to_pitch_ac(
        time_step=hop_length / sample_rate,
        voicing_threshold=VOICING_THRESHOLD,
        pitch_floor=f0_min,
        pitch_ceiling=f0_max,
    )
    return np.asarray(pitch.selected_array["frequency"], dtype=np.float64)
