"""What all f0 predictors share: the contour they give, the checks, the filling and stretching of tracks.

A *track* is a float64 array [frames] in Hz where 0 means unvoiced. A contour is what the rest of the system
sees: f0 without gaps, and the voicing flags beside it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modules.errors import UserError

Track = NDArray[np.float64]

# A frame count this near to T // hop is a matter of padding conventions and is met by the predictor's own
# rule; a larger difference is cut or filled at the end, so that the frames keep their times.
NEAR_FRAMES = 3
# Beyond both of these the frame count belongs to other audio.
MAX_EXTRA_FRAMES = 100
MAX_EXTRA_SHARE = 0.1


@dataclass(frozen=True)
class F0Contour:
    """An f0 contour.

    Attributes:
        f0: float64 [T], Hz; unvoiced frames are filled linearly between their voiced neighbours and hold the
            nearest voiced value at both ends, so there is no zero unless all frames are unvoiced.
        uv: float32 [T], 1 where a frame is voiced, 0 where it is not.
    """

    f0: NDArray[np.float64]
    uv: NDArray[np.float32]

    @classmethod
    def from_track(cls, track: NDArray[np.floating]) -> F0Contour:
        """A contour from a track [T] in Hz with 0 for unvoiced; values that are not finite count as unvoiced."""
        track = np.asarray(track, dtype=np.float64)
        voiced = np.isfinite(track) & (track > 0)
        where = np.flatnonzero(voiced)
        if where.size == 0:
            return cls(np.zeros(len(track)), np.zeros(len(track), np.float32))
        f0 = np.interp(np.arange(len(track)), where, track[where])
        return cls(f0, voiced.astype(np.float32))


@dataclass(frozen=True)
class F0Settings:
    """The parameters of a predictor; get_predictor says what they mean."""

    hop_length: int = 512
    sample_rate: int = 44100
    f0_min: float = 50.0
    f0_max: float = 1100.0
    threshold: float | None = None
    device: str = "cpu"
    pretrain_dir: Path = Path("pretrain")

    def __post_init__(self) -> None:
        if not 0 < self.f0_min < self.f0_max <= self.sample_rate / 2:
            raise UserError(
                f"the f0 range is {self.f0_min} to {self.f0_max} Hz at {self.sample_rate} Hz",
                "f0_min, f0_max",
                "take 0 < f0_min < f0_max < half the sampling rate; 50 and 1100 are the defaults",
            )
        if self.hop_length < 1:
            raise UserError(f"the hop is {self.hop_length} samples", "hop_length", "take 1 or more")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise UserError(
                f"the voicing threshold is {self.threshold}", "--f0_filter_threshold", "take a value from 0 to 1"
            )


class F0Predictor(ABC):
    """Finds f0 and voicing in audio. Weights are loaded when the object is built, once.

    Attributes:
        threshold: voicing threshold, where the predictor has one: what was asked for, or its own.
        halves_notes: notes above its reach come out an octave low; else they come out as unvoiced.
    """

    default_threshold = 0.05
    halves_notes = True

    def __init__(self, settings: F0Settings) -> None:
        self.settings = settings
        self.threshold = self.default_threshold if settings.threshold is None else settings.threshold

    @property
    def reach(self) -> tuple[float, float]:
        """Lowest and highest f0 it finds, Hz; a note outside comes out in another octave or as unvoiced."""
        return self.settings.f0_min, self.settings.f0_max

    def __call__(self, audio: NDArray[np.floating], n_frames: int | None = None) -> F0Contour:
        """The f0 contour of ``audio``.

        Args:
            audio: [T] mono at ``settings.sample_rate``, nominally within -1 to 1.
            n_frames: frames of the result; T // hop_length by default.

        Raises:
            UserError: the audio is not mono or holds NaN or infinity, or ``n_frames`` belongs to other audio.
        """
        audio = np.asarray(audio)
        if audio.ndim != 1:
            raise UserError(f"f0 needs mono audio [T]; found shape {list(audio.shape)}", fix="mix it to mono")
        if not np.isfinite(audio).all():
            raise UserError("the audio holds NaN or infinite samples", fix="mend or leave out the recording")
        expected = len(audio) // self.settings.hop_length
        wanted = expected if n_frames is None else n_frames
        self._check_frames(wanted, expected)
        near = wanted if abs(wanted - expected) <= NEAR_FRAMES else expected
        track = np.zeros(near) if near == 0 or not audio.any() else self._track(audio, near)
        return F0Contour.from_track(fit(track, wanted))

    @abstractmethod
    def _track(self, audio: NDArray[np.floating], n_frames: int) -> Track:
        """The track [n_frames] of audio [T] that is finite and not digital silence."""

    def _check_frames(self, wanted: int, expected: int) -> None:
        allowed = max(MAX_EXTRA_FRAMES, MAX_EXTRA_SHARE * expected)
        if wanted < 0 or abs(wanted - expected) > allowed:
            raise UserError(
                f"{wanted} f0 frames were asked for, but the audio has {expected}",
                fix="check that the audio and its features have one sampling rate and belong together",
            )


def fit(track: Track, n_frames: int) -> Track:
    """Cut a track at its end, or lengthen it there with unvoiced frames, to ``n_frames``."""
    return np.pad(track[:n_frames], (0, max(0, n_frames - len(track))))


def centre(track: Track, n_frames: int) -> Track:
    """Put a track that misses frames on both sides (or has too many) in the middle of ``n_frames``."""
    left = (n_frames - len(track) + 1) // 2
    if left < 0:
        return fit(track[-left:], n_frames)
    return np.pad(track, (left, max(0, n_frames - len(track) - left)))[:n_frames]


def stretch(track: Track, n_frames: int) -> Track:
    """Stretch a track linearly to ``n_frames``; a frame that touches an unvoiced one becomes unvoiced."""
    gaps = np.where(track < 0.001, np.nan, track)
    positions = np.arange(n_frames) * (len(track) / max(1, n_frames))
    return np.nan_to_num(np.interp(positions, np.arange(len(track)), gaps))


def stretch_nearest(track: Track, n_frames: int) -> Track:
    """Stretch a track to ``n_frames`` by repeating or leaving out frames."""
    return track[np.arange(n_frames) * len(track) // max(1, n_frames)]


def sample_track(track: Track, positions: NDArray[np.float64]) -> Track:
    """Read a track at fractional frames: linear in log f0 where both neighbours are voiced, else the nearer one."""
    positions = np.clip(positions, 0, len(track) - 1)
    left = np.minimum(positions.astype(np.int64), len(track) - 1)
    right = np.minimum(left + 1, len(track) - 1)
    share = positions - left
    nearer = np.where(share < 0.5, track[left], track[right])
    both = (track[left] > 0) & (track[right] > 0)
    low, high = np.where(both, track[left], 1.0), np.where(both, track[right], 1.0)
    return np.where(both, low ** (1 - share) * high**share, nearer)
