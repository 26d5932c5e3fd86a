"""Where a recording is cut: at its silences, by the plan of openvpi's audio-slicer.

A silence is a run of frames whose RMS is under a threshold. It is cut where it is long enough and the piece before
it has a minimum length; short silences are cut at their quietest frame, of long ones the middle is marked silent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_BLOCK_SECONDS = 10  # of audio at a time, so that the squares of a long file are never all in memory
_HOP_MS = 20  # the grid of the cuts


@dataclass(frozen=True)
class Chunk:
    """Samples ``start`` to ``stop`` of a recording."""

    start: int
    stop: int
    silent: bool

    def __len__(self) -> int:
        return self.stop - self.start


class RmsCurve:
    """RMS of overlapping windows, fed with audio block by block.

    Frame i covers samples i * hop - window // 2 to that + window, with silence outside the audio; T samples give
    1 + T // hop frames.

    Args:
        window, hop: samples.
        without_offset: take the mean of each window off; an offset, as cheap microphones have, is nothing to hear.
    """

    def __init__(self, window: int, hop: int, without_offset: bool = False) -> None:
        self.window = window
        self.hop = hop
        self.without_offset = without_offset
        self.samples = 0
        self._rest = np.zeros(window // 2, np.float32)  # samples that later frames still need
        self._skip = 0  # samples to come that no frame sees, where the hop is longer than the window
        self._frames: list[np.ndarray] = []
        self._count = 0

    def push(self, block: np.ndarray) -> None:
        """Add audio [n]."""
        self.samples += len(block)
        skipped = min(self._skip, len(block))
        self._skip -= skipped
        self._rest = np.concatenate([self._rest, np.asarray(block[skipped:], dtype=np.float32)])
        self._take((len(self._rest) - self.window) // self.hop + 1)

    def finish(self) -> np.ndarray:
        """The curve, float32 [1 + samples // hop]."""
        missing = 1 + self.samples // self.hop - self._count
        need = (missing - 1) * self.hop + self.window
        self._rest = np.pad(self._rest, (0, max(0, need - len(self._rest))))
        self._take(missing)
        return np.concatenate(self._frames) if self._frames else np.zeros(0, np.float32)

    def _take(self, frames: int) -> None:
        if frames <= 0:
            return
        power = self._means(np.square(self._rest), frames)
        if self.without_offset:
            power = np.maximum(power - self._power_of_offset(frames), 0)
        self._frames.append(np.sqrt(power))
        used = frames * self.hop
        self._skip += max(0, used - len(self._rest))
        self._rest = self._rest[used:]
        self._count += frames

    def _power_of_offset(self, frames: int) -> np.ndarray:
        starts = (self._count + np.arange(frames)) * self.hop - self.window // 2
        heard = np.minimum(starts + self.window, self.samples) - np.maximum(starts, 0)  # samples, not padding
        share = (self.window / np.maximum(heard, 1)).astype(np.float32)
        return np.square(self._means(self._rest, frames)) * share

    def _means(self, values: np.ndarray, frames: int) -> np.ndarray:
        windows = np.lib.stride_tricks.sliding_window_view(values, self.window)[:: self.hop][:frames]
        return windows.mean(axis=1, dtype=np.float32)


def slicing_curve(sample_rate: int, min_interval_ms: float = 300) -> RmsCurve:
    """The RMS curve by which slice_rms decides: windows of four hops."""
    hop = round(sample_rate * _HOP_MS / 1000)
    window = min(round(sample_rate * min_interval_ms / 1000), 4 * hop)
    return RmsCurve(window, hop, without_offset=True)


def slice_audio(
    audio: np.ndarray,
    sample_rate: int,
    threshold_db: float = -40.0,
    min_length_ms: float = 5000,
    min_interval_ms: float = 300,
    max_silence_ms: float = 5000,
) -> list[Chunk]:
    """Cut audio at its silences.

    Args:
        audio: [T] or [C, T].
        threshold_db: frames below this RMS (dB of full scale) are silent.
        min_length_ms: a piece is cut off once it is this long.
        min_interval_ms: silences shorter than this are not cut.
        max_silence_ms: how much of a silence stays at either side of it with the sound.

    Returns:
        Chunks in order, none empty, that cover the audio without gap or overlap.
    """
    curve = slicing_curve(sample_rate, min_interval_ms)
    samples = audio.shape[-1]
    for start in range(0, samples, _BLOCK_SECONDS * sample_rate):
        block = audio[..., start : start + _BLOCK_SECONDS * sample_rate]
        curve.push(block if block.ndim == 1 else block.mean(axis=0))
    rms = curve.finish()
    return slice_rms(rms, samples, sample_rate, threshold_db, min_length_ms, min_interval_ms, max_silence_ms)


def slice_rms(
    rms: np.ndarray,
    n_samples: int,
    sample_rate: int,
    threshold_db: float = -40.0,
    min_length_ms: float = 5000,
    min_interval_ms: float = 300,
    max_silence_ms: float = 5000,
) -> list[Chunk]:
    """What slice_audio returns, from the finished ``slicing_curve`` of the audio; for audio that is streamed."""
    hop = round(sample_rate * _HOP_MS / 1000)
    min_length = round(sample_rate * min_length_ms / 1000 / hop)
    min_interval = round(round(sample_rate * min_interval_ms / 1000) / hop)
    keep = round(sample_rate * max_silence_ms / 1000 / hop)
    quiet = rms < 10 ** (threshold_db / 20)
    if quiet.all():
        return [Chunk(0, n_samples, silent=True)] if n_samples else []
    cuts = _cuts(rms, quiet, min_length, min_interval, keep)
    return list(_chunks([(left * hop, right * hop) for left, right in cuts], n_samples))


def _cuts(
    rms: np.ndarray, quiet: np.ndarray, min_length: int, min_interval: int, keep: int
) -> list[tuple[int, int]]:
    """The silences to take out, as (first frame, frame after); equal frames are a plain cut."""
    cuts: list[tuple[int, int]] = []
    piece_start = 0
    for start, stop in _runs(quiet):
        if stop == len(quiet):
            if stop - start >= min_interval:
                cuts.append((_quietest(rms, start, min(stop, start + keep)), stop))
            continue
        leading = start == 0 and stop > keep
        if not leading and (stop - start < min_interval or stop - piece_start < min_length):
            continue
        left, right = _edges(rms, start, stop, keep)
        cuts.append((left, right))
        piece_start = right
    return cuts


def _edges(rms: np.ndarray, start: int, stop: int, keep: int) -> tuple[int, int]:
    """What to take out of the silence ``start`` to ``stop``; ``stop`` is its first loud frame."""
    if start == 0:
        return 0, _quietest(rms, max(0, stop - keep), stop)
    if stop - start <= keep:
        middle = _quietest(rms, start, stop)
        return middle, middle
    left = _quietest(rms, start, start + keep)
    right = _quietest(rms, stop - keep, stop)
    if stop - start <= 2 * keep:  # both sides overlap: what is quietest there may lie between them
        middle = _quietest(rms, stop - keep, start + keep)
        left, right = min(left, middle), max(right, middle)
    return left, right


def _quietest(rms: np.ndarray, first: int, last: int) -> int:
    """Index of the smallest value from ``first`` to ``last``, both included; the first one when tied."""
    return first + int(np.argmin(rms[first : last + 1]))


def _runs(flags: np.ndarray) -> Iterator[tuple[int, int]]:
    """(first, after last) of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def _chunks(cuts: list[tuple[int, int]], n_samples: int) -> Iterator[Chunk]:
    position = 0
    for left, right in [*cuts, (n_samples, n_samples)]:
        left, right = min(left, n_samples), min(right, n_samples)
        if left > position:
            yield Chunk(position, left, silent=False)
        if right > left:
            yield Chunk(left, right, silent=True)
        position = right
