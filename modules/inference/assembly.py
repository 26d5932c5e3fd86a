"""The two ends of a conversion: the song on disk as float32, and the converted parts joined as they come.

Neither holds more than a few seconds in memory, however long the song is.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType

import numpy as np

from modules.inference.windows import Piece

BLOCK = 1 << 18  # samples written, read or emitted at a time


class AudioSpool:
    """A mono song in a temporary file that vanishes when it is closed, or when the process dies.

    Plain reads are used and no memory map: mapped pages would count as memory of the process.

    Args:
        folder: where the file lies; beside the result there is room for a song.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by __exit__)
        self.length = 0

    def __enter__(self) -> AudioSpool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def extend(self, blocks: Iterable[np.ndarray]) -> None:
        """Append blocks of float32 samples [n]."""
        self._file.seek(0, os.SEEK_END)
        for block in blocks:
            self._file.write(np.ascontiguousarray(block, dtype="<f4").data)
            self.length += len(block)

    def read(self, start: int, stop: int) -> np.ndarray:
        """float32 [stop - start]; zeros where the song is not."""
        out = np.zeros(stop - start, dtype=np.float32)
        first, last = max(0, start), min(self.length, stop)
        if first < last:
            self._file.seek(4 * first)
            data = self._file.read(4 * (last - first))
            out[first - start : last - start] = np.frombuffer(data, dtype="<f4")
        return out

    def blocks(self, size: int = BLOCK) -> Iterable[np.ndarray]:
        """The whole song in order, ``size`` samples at a time."""
        for start in range(0, self.length, size):
            yield self.read(start, min(start + size, self.length))


def read_piece(spool: AudioSpool, piece: Piece, offset: int, start: int, stop: int) -> np.ndarray:
    """Samples [start, stop) of a piece with silence around it, of which ``offset`` samples come before it."""
    origin = piece.start - offset
    out = np.zeros(stop - start, dtype=np.float32)
    first = max(start, piece.start - piece.margin_in - origin)
    last = min(stop, piece.stop + piece.margin_out - origin)
    if first < last:
        out[first - start : last - start] = spool.read(first + origin, last + origin)
    return out


class OverlapAdder:
    """Adds stretches of audio where they belong in the song and hands on what is finished.

    Stretches come ordered by their start; where none is, there are zeros.

    Args:
        emit: gets the finished samples, float32 [n], in order and without gaps.
    """

    def __init__(self, emit: Callable[[np.ndarray], None]) -> None:
        self._emit = emit
        self._done = 0  # samples emitted
        self._pending = np.zeros(0, dtype=np.float32)  # the song from there on, as far as it is known

    def add(self, start: int, audio: np.ndarray) -> None:
        """Add ``audio`` [n] at sample ``start``; no later stretch may begin before it."""
        self._emit_until(start)
        missing = start + len(audio) - self._done - len(self._pending)
        if missing > 0:
            self._pending = np.concatenate([self._pending, np.zeros(missing, dtype=np.float32)])
        self._pending[start - self._done : start - self._done + len(audio)] += audio

    def finish(self, length: int) -> None:
        """Hand on the rest, so that the song has ``length`` samples."""
        self._emit_until(length)

    def _emit_until(self, stop: int) -> None:
        ready = min(len(self._pending), stop - self._done)
        if ready > 0:
            self._emit(self._pending[:ready])
            self._pending = self._pending[ready:].copy()
            self._done += ready
        while self._done < stop:
            silence = np.zeros(min(BLOCK, stop - self._done), dtype=np.float32)
            self._emit(silence)
            self._done += len(silence)
