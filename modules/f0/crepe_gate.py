"""How loud audio is made before crepe's silence gate hears it.

The gate knows one absolute level (-60 dB A-weighted, the mean over all bins), which sung tones of a quiet recording
lie under. Every other predictor takes a recording as it is, however quiet.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LOUD_FRAMES_DB = -6.0  # RMS that the loudest hundredth of the frames is brought to, re full scale
LARGEST_GAIN_DB = 36.0  # noise of a silent room is not made a voice
FRAME_SECONDS = 0.01


def gate_gain(audio: NDArray[np.floating], sample_rate: int) -> float:
    """The factor, 1 or more, for audio [T] before the gate."""
    frame = max(1, int(FRAME_SECONDS * sample_rate))
    if len(audio) < frame:
        return 1.0
    frames = audio[: len(audio) // frame * frame].reshape(-1, frame)
    loud = float(np.percentile(np.sqrt(np.square(frames, dtype=np.float64).mean(axis=1)), 99))
    if loud == 0:
        return 1.0
    return 10 ** (float(np.clip(LOUD_FRAMES_DB - 20 * np.log10(loud), 0.0, LARGEST_GAIN_DB)) / 20)
