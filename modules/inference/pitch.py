"""f0 of a piece of any length, and a warning where a song leaves the range of the f0 predictor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modules.f0 import F0Contour, F0Predictor, cached_predictor, check_range
from modules.f0.range_check import RangeTally
from modules.inference.options import InferenceOptions

Reader = Callable[[int, int], np.ndarray]  # samples [start, stop) of a padded piece

WINDOW_SECONDS = 20.0  # predictors that are networks need memory for what they see at once
CONTEXT_SECONDS = 1.0  # Viterbi paths depend on what comes before and after


@dataclass
class PitchFinder:
    """Finds the pitch with the predictor that the options name; its weights stay loaded.

    Args:
        sample_rate, hop_length: of the model.
        device: where predictors that are networks run.
        pretrain_dir: where their weights are.
        watches_range: whether songs are looked through for notes outside the range.
        get_predictor: builds a predictor from its name and the parameters of F0Settings, or gives one that it has.
    """

    sample_rate: int
    hop_length: int
    device: str = "cpu"
    pretrain_dir: Path = Path("pretrain")
    watches_range: bool = True
    get_predictor: Callable[..., F0Predictor] = cached_predictor

    def predictor(self, options: InferenceOptions) -> F0Predictor:
        """The predictor of these options; every parameter counts, so that a changed threshold takes effect."""
        return self.get_predictor(
            options.f0_predictor,
            hop_length=self.hop_length,
            sample_rate=self.sample_rate,
            f0_min=options.f0_min,
            f0_max=options.f0_max,
            threshold=options.f0_filter_threshold,
            device=self.device,
            pretrain_dir=self.pretrain_dir,
        )

    def contour(
        self, read: Reader, n_frames: int, n_samples: int, options: InferenceOptions, check: Callable[[], None]
    ) -> F0Contour:
        """f0 [n_frames] of a padded piece, in overlapping windows where it is long.

        Args:
            read: gives samples of the piece.
            check: called before each window; may raise to stop.
        """
        predictor = self.predictor(options)
        longest, context = (int(s * self.sample_rate / self.hop_length) for s in (WINDOW_SECONDS, CONTEXT_SECONDS))
        if n_frames <= longest:
            check()
            return predictor(read(0, n_samples), n_frames)
        track = np.zeros(n_frames)
        for start in range(0, n_frames, longest):
            check()
            stop = min(start + longest, n_frames)
            first, last = max(0, start - context), min(n_frames, stop + context)
            window = predictor(read(first * self.hop_length, last * self.hop_length), last - first)
            track[start:stop] = (window.f0 * window.uv)[start - first : stop - first]
        return F0Contour.from_track(track)


class SongF0:
    """The f0 of a whole song, filled in piece by piece.

    Attributes:
        f0: float32 [T] Hz before transposition, one value each ``hop_length`` samples; 0 where it is not voiced.
    """

    def __init__(self, n_samples: int, hop_length: int) -> None:
        self.f0 = np.zeros(-(-n_samples // hop_length), dtype=np.float32)
        self.hop_length = hop_length

    def fill_in(self, contour: F0Contour, start: int, first: int, last: int) -> None:
        """Take the part [first, last) of the song, in samples, from a contour whose frame 0 begins at ``start``."""
        at = (start + (np.arange(len(contour.f0)) + 0.5) * self.hop_length).astype(np.int64)
        kept = (at >= first) & (at < last)
        self.f0[at[kept] // self.hop_length] = (contour.f0 * contour.uv)[kept]


class SongRange:
    """How far a song leaves the range of the f0 predictor, gathered piece by piece."""

    def __init__(self, finder: PitchFinder, options: InferenceOptions) -> None:
        self.finder, self.options = finder, options
        self.tally = RangeTally()

    def update(self, read: Reader, contour: F0Contour) -> None:
        """Take in a padded piece and the contour that was found in it."""
        rate, hop = self.finder.sample_rate, self.finder.hop_length
        longest = int(WINDOW_SECONDS * rate / hop)
        predictor = self.finder.predictor(self.options)
        low, high = predictor.reach
        for start in range(0, len(contour.uv), longest):
            stop = min(start + longest, len(contour.uv))
            voiced = float(contour.uv[start:stop].sum())
            if voiced:
                audio = read(start * hop, stop * hop)
                found = None if predictor.halves_notes else contour.uv[start:stop]
                report = check_range(audio, rate, hop_length=hop, f0_min=low, f0_max=high, found=found)
                self.tally.add(report, voiced)

    def message(self) -> str:
        """What to tell the user; empty where the song stays in the range."""
        return self.tally.message
