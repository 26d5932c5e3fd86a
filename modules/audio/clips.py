"""Long recordings into clips of a length that training likes, cut where it is quiet."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from modules.audio.loudness import peak
from modules.audio.slicer import Chunk, RmsCurve, slice_audio

_KEPT_SILENCE_MS = 500  # of a long silence, at each side
_FADE_SECONDS = 0.005  # where the middle of a silence was taken out
_GRID_SECONDS = 0.02


def trim_silence(audio: np.ndarray, top_db: float = 40.0) -> np.ndarray:
    """Audio [T] without leading and trailing frames that lie ``top_db`` below the loudest frame.

    The frames are librosa's: 2048 samples every 512. The RMS curve is made block by block, since librosa's trim needs
    several times the memory of the audio.
    """
    hop = 512
    curve = RmsCurve(2048, hop)
    for start in range(0, len(audio), 1 << 20):
        curve.push(audio[start : start + (1 << 20)])
    rms = np.maximum(curve.finish(), 1e-5)
    loud = np.flatnonzero(rms > rms.max() * 10 ** (-top_db / 20))
    return audio[loud[0] * hop : (loud[-1] + 1) * hop] if len(loud) else audio[:0]


def split_into_clips(
    audio: np.ndarray, sample_rate: int, shortest: float = 5.0, longest: float = 15.0, top_db: float = 40.0
) -> list[np.ndarray]:
    """Clips of ``shortest`` to ``longest`` seconds, cut in silences where there are any.

    The middle of silences over a second is left out. A recording that is shorter than ``shortest`` without its
    silences becomes one clip.

    Args:
        audio: [T].
        longest: at least three times ``shortest``, or no even split need exist.
        top_db: what lies this far below the peak is silence.
    """
    threshold = 20 * math.log10(max(peak(audio), 1e-5)) - top_db
    chunks = slice_audio(
        audio, sample_rate, threshold, min_length_ms=shortest * 1000, max_silence_ms=_KEPT_SILENCE_MS
    )
    spans = [(chunk.start, chunk.stop) for chunk in chunks if not chunk.silent]
    if not spans:
        return [audio]
    sound, bounds = _without_gaps(audio, spans, int(_FADE_SECONDS * sample_rate))
    bounds = _split_long(sound, _merge_short(bounds, shortest * sample_rate), sample_rate, shortest, longest)
    return [sound[start:stop] for start, stop in zip(bounds[:-1], bounds[1:], strict=True)]


def count_clips(
    chunks: Sequence[Chunk], sample_rate: int, shortest: float = 5.0, longest: float = 15.0
) -> int:
    """How many clips split_into_clips makes of audio whose silences are where ``chunks`` says."""
    lengths = [len(chunk) for chunk in chunks if not chunk.silent]
    bounds = _merge_short([0, *np.cumsum(lengths).tolist()], shortest * sample_rate)
    pieces = zip(bounds[:-1], bounds[1:], strict=True)
    return sum(_parts((stop - start) / sample_rate, longest) for start, stop in pieces if stop > start)


def _without_gaps(
    audio: np.ndarray, spans: list[tuple[int, int]], fade: int
) -> tuple[np.ndarray, list[int]]:
    """The spans of ``audio`` put together, and the bounds between them, from 0 to the length."""
    sound = np.concatenate([audio[start:stop] for start, stop in spans])
    bounds = [0, *np.cumsum([stop - start for start, stop in spans]).tolist()]
    ramp = np.linspace(0, 1, fade, dtype=np.float32)
    for bound, before, after in zip(bounds[1:-1], spans[:-1], spans[1:], strict=True):
        if before[1] != after[0] and fade <= min(before[1] - before[0], after[1] - after[0]):
            sound[bound - fade : bound] *= ramp[::-1]
            sound[bound : bound + fade] *= ramp
    return sound, bounds


def _merge_short(bounds: list[int], shortest: float) -> list[int]:
    """Bounds without those that would leave a piece under ``shortest`` samples."""
    kept = [0]
    for bound in bounds[1:-1]:
        if bound - kept[-1] >= shortest and bounds[-1] - bound >= shortest:
            kept.append(bound)
    return [*kept, bounds[-1]]


def _split_long(
    sound: np.ndarray, bounds: list[int], sample_rate: int, shortest: float, longest: float
) -> list[int]:
    """Bounds with further ones inside pieces over ``longest`` seconds, at the quietest moment near an even split."""
    split = [0]
    for start, stop in zip(bounds[:-1], bounds[1:], strict=True):
        seconds = (stop - start) / sample_rate
        parts = _parts(seconds, longest)
        if parts > 1:
            part = seconds / parts
            play = min(part - shortest, longest - part) / 2
            for index in range(1, parts):
                split.append(_quietest(sound, start + index * part * sample_rate, play, sample_rate))
        split.append(stop)
    return split


def _parts(seconds: float, longest: float) -> int:
    """Into how many pieces a stretch of sound is split, with 2 s of play for finding a quiet moment."""
    return math.ceil(seconds / (longest - 2)) if seconds > longest else 1


def _quietest(sound: np.ndarray, near: float, play: float, sample_rate: int) -> int:
    hop = max(1, int(_GRID_SECONDS * sample_rate))
    start, stop = (int(near + side * play * sample_rate) for side in (-1, 1))
    curve = RmsCurve(4 * hop, hop)
    curve.push(sound[start:stop])
    inner = curve.finish()[2:-2]  # the outer frames see silence that is not there
    return start + (int(np.argmin(inner)) + 2) * hop if len(inner) else int(near)
