"""Does a song leave what its f0 predictor can find? Notes above come out an octave low, or unvoiced.

That cannot be seen in its contour, so Praat's autocorrelation looks at the audio once more, an octave further
on both sides. It is the cheapest predictor: about a hundredth of the audio's duration. On low voices it
sometimes takes a formant for a high note; a note has next to no energy below itself, a formant has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modules.f0.base import Track

WORTH_A_WARNING = 0.005  # share of voiced frames; stray frames of ordinary voices stay under it
SHORTEST_RUN = 4  # frames that a note outside the range must last; shorter ones are slips of the estimator
BELOW_NOTE = 0.75  # of the note's frequency
MOST_ENERGY_BELOW = 0.1
MARGIN = 1.1  # between the notes and the limit that is proposed
WINDOW = 2048  # samples
FRAMES_AT_ONCE = 4096


@dataclass(frozen=True)
class RangeReport:
    """How much of the voiced audio lies outside the f0 range.

    Attributes:
        above, below: shares of the voiced frames, 0 to 1.
        highest, lowest: f0 reached outside the range, Hz; 0 where it is not left on that side.
    """

    above: float
    below: float
    highest: float
    lowest: float
    f0_min: float
    f0_max: float

    @property
    def message(self) -> str:
        """One sentence for the user, empty where there is nothing to say."""
        parts = []
        if self.above > WORTH_A_WARNING:
            parts.append(
                f"{self.above:.1%} of the voice lies above {self.f0_max:g} Hz (up to {self.highest:.0f} Hz)"
            )
        if self.below > WORTH_A_WARNING:
            parts.append(f"{self.below:.1%} of the voice lies below {self.f0_min:g} Hz (to {self.lowest:.0f} Hz)")
        if not parts:
            return ""
        fix = "--f0_predictor pm or harvest with"
        if self.above > WORTH_A_WARNING:
            fix += f" --f0_max {math.ceil(self.highest * MARGIN / 100) * 100}"
        if self.below > WORTH_A_WARNING:
            fix += f" --f0_min {math.floor(self.lowest / MARGIN / 5) * 5}"
        return f"{' and '.join(parts)}: those notes are lost or come out in another octave; use {fix}"


@dataclass
class RangeTally:
    """The reports of the parts of a song, or of the clips of a speaker, together."""

    voiced: float = 0.0  # frames
    above: float = 0.0
    below: float = 0.0
    highest: float = 0.0  # Hz
    lowest: float = math.inf
    f0_min: float = 0.0
    f0_max: float = math.inf

    def add(self, report: RangeReport, voiced: float) -> None:
        """Take in the report of a part with so many voiced frames."""
        self.voiced += voiced
        self.above += report.above * voiced
        self.below += report.below * voiced
        self.highest = max(self.highest, report.highest)
        self.lowest = min(self.lowest, report.lowest or math.inf)
        self.f0_min, self.f0_max = report.f0_min, report.f0_max

    @property
    def message(self) -> str:
        """One sentence for the user, empty where there is nothing to say."""
        frames = max(1.0, self.voiced)
        above, below = self.above / frames, self.below / frames
        return RangeReport(above, below, self.highest, self.lowest, self.f0_min, self.f0_max).message


def check_range(
    audio: NDArray[np.floating],
    sample_rate: int = 44100,
    *,
    hop_length: int = 512,
    f0_min: float = 50.0,
    f0_max: float = 1100.0,
    found: NDArray[np.floating] | None = None,
) -> RangeReport:
    """Look for notes outside ``f0_min`` to ``f0_max`` in audio [T].

    Args:
        found: [frames], not 0 where a predictor that leaves notes out, rather than to halve them, found one: what Praat
            hears there outside the range is its own slip.
    """
    from modules.f0.pm import praat_track  # parselmouth is not part of every install

    track = praat_track(audio, sample_rate, hop_length, f0_min / 2, min(2 * f0_max, 0.49 * sample_rate))
    if found is not None:
        heard = np.pad(found[: len(track)], (0, max(0, len(track) - len(found)))) > 0
        track = np.where(heard, np.clip(track, f0_min, f0_max), track)
    high = np.flatnonzero(_lasting(track > f0_max))
    # Praat centres its frames in the audio.
    centres = (len(audio) + (2 * high - len(track) + 1) * hop_length) // 2
    above = track[high[_are_notes(audio, centres, track[high], sample_rate)]]
    below = track[_lasting((track > 0) & (track < f0_min))]
    voiced = max(1, int(np.count_nonzero(track)))
    return RangeReport(
        above=len(above) / voiced,
        below=len(below) / voiced,
        highest=float(above.max(initial=0.0)),
        lowest=float(below.min()) if len(below) else 0.0,
        f0_min=f0_min,
        f0_max=f0_max,
    )


def _lasting(flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The flags that stand in runs of at least SHORTEST_RUN frames."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    kept = np.zeros_like(flags)
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        kept[start:stop] = stop - start >= SHORTEST_RUN
    return kept


def _are_notes(
    audio: NDArray[np.floating], centres: NDArray[np.int64], f0: Track, sample_rate: int
) -> NDArray[np.bool_]:
    """Whether the energy around each of the sample positions [N] begins at its f0 [N]."""
    padded = np.pad(audio, WINDOW // 2)
    frequencies = np.fft.rfftfreq(WINDOW, 1 / sample_rate)
    notes = np.zeros(len(f0), bool)
    for start in range(0, len(f0), FRAMES_AT_ONCE):
        part = slice(start, start + FRAMES_AT_ONCE)
        windows = padded[np.clip(centres[part], 0, len(audio))[:, None] + np.arange(WINDOW)]
        power = np.abs(np.fft.rfft(windows * np.hanning(WINDOW))) ** 2
        below = np.where(frequencies < BELOW_NOTE * f0[part, None], power, 0.0).sum(axis=1)
        notes[part] = below < MOST_ENERGY_BELOW * power.sum(axis=1)
    return notes
