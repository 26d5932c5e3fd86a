"""The pitch of a piece of any length, and a word to the user where a song leaves the range looked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modules.f0 import F0Contour, F0Predictor, cached_predictor
from modules.inference.options import InferenceOptions

Reader = Callable[[int, int], np.ndarray]  # samples [start, stop) of a laid out piece

WINDOW_SECONDS = 20.0  # predictors that are networks need memory for what they see at once
CONTEXT_SECONDS = 1.0  # path finders need to hear what comes before and after
PROBE_HOPS = 8  # the range check looks at every 8th frame
RANGE_FACTOR = 2.0  # and this far beyond both limits
REPORT_SECONDS = 0.3  # less than that outside the range is noise
REPORT_SHARE = 0.01


@dataclass
class PitchFinder:
    """Finds the pitch with the predictor that the options name; its weights stay loaded.

    Args:
        sample_rate, hop_length: of the model.
        device: where predictors that are networks run.
        pretrain_dir: where their weights are.
    """

    sample_rate: int
    hop_length: int
    device: str = "cpu"
    pretrain_dir: Path = Path("pretrain")

    def predictor(self, options: InferenceOptions) -> F0Predictor:
        """The predictor of these options; every parameter counts, so that a changed threshold takes effect."""
        return cached_predictor(
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
        """f0 [n_frames] of a laid out piece, in overlapping windows where it is long.

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


@dataclass
class RangeCheck:
    """Counts how long a song is above or below the range of the f0 predictor.

    A predictor that may not say 1200 Hz says 600 Hz, and nobody sees the mistake in its contour. So the autocorrelation
    of Praat looks at a few frames with wider limits.
    """

    finder: PitchFinder
    options: InferenceOptions
    above: float = 0.0  # seconds
    below: float = 0.0
    voiced: float = 0.0
    highest: float = 0.0  # Hz
    lowest: float = float("inf")

    def listen(self, read: Reader, n_samples: int) -> None:
        """Take in a laid out piece."""
        step = int(WINDOW_SECONDS * self.finder.sample_rate)
        for start in range(0, n_samples, step):
            self._listen(read(start, min(start + step, n_samples)))

    def _listen(self, audio: np.ndarray) -> None:
        finder, options = self.finder, self.options
        hop = finder.hop_length * PROBE_HOPS
        if len(audio) < 4 * hop or not audio.any():
            return
        low = max(options.f0_min / RANGE_FACTOR, 20.0)
        high = min(options.f0_max * RANGE_FACTOR, finder.sample_rate / 4)
        probe = cached_predictor("pm", hop_length=hop, sample_rate=finder.sample_rate, f0_min=low, f0_max=high)
        contour = probe(audio)
        found = contour.f0[contour.uv > 0]
        seconds = hop / finder.sample_rate
        over, under = found[found > options.f0_max * 1.03], found[found < options.f0_min / 1.03]
        self.voiced += seconds * len(found)
        self.above += seconds * len(over)
        self.below += seconds * len(under)
        self.highest = max(self.highest, float(over.max(initial=0.0)))
        self.lowest = min(self.lowest, float(under.min(initial=np.inf)))

    def warnings(self) -> list[str]:
        """What to tell the user; empty where the song stays in the range."""
        out = []
        least = max(REPORT_SECONDS, REPORT_SHARE * self.voiced)
        if self.above >= least:
            out.append(
                f"{self.above:.1f} s of the song are above {self.options.f0_max:g} Hz, up to about "
                f"{self.highest:.0f} Hz, where {self.options.f0_predictor} stops or takes the octave below; "
                f"try --f0_max {self.highest * 1.1:.0f}"
            )
        if self.below >= least:
            out.append(
                f"{self.below:.1f} s of the song are below {self.options.f0_min:g} Hz, down to about "
                f"{self.lowest:.0f} Hz; try --f0_min {self.lowest / 1.1:.0f}"
            )
        return out
