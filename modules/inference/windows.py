"""Where a song is cut for conversion and how the parts are joined again: pure arithmetic on positions.

A song has three levels. The slicer's chunks are voiced or silent. A voiced chunk is one piece, or several where
clips are forced. A piece gets silence around it and is then one window of the model, or several overlapping ones
where it is long. Every kept stretch fades linearly over its ends, so that joining is adding:

    piece or window 1   ________________________
                                            \\
    piece or window 2                    /______________________
                                         |--| fade: the weights of both sum to 1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modules.audio.slicer import Chunk

FADE_SECONDS = 0.02  # joints without a linear gradient, and the way into silence
MAX_WINDOW_SECONDS = 15.0  # attention costs grow with the square of it
CONTEXT_SECONDS = 0.75  # seen by the encoder on the far side of a joint, then dropped
SEARCH_SECONDS = 2.0  # a joint may move by this much to a quieter place
WINDOW_FADE_SECONDS = 0.05  # joints inside a piece; periods of a low note must fit in
VOICED_PENALTY_DB = 20.0  # a voiced joint counts as so much louder than an unvoiced one
MIN_PIECE_SECONDS = 0.3  # encoders need a few frames; a shorter rest joins the clip before it


@dataclass(frozen=True)
class Piece:
    """A stretch of the song that is converted on its own; positions in samples of the song.

    Attributes:
        start, stop: the stretch itself; silence goes before and after it.
        margin_in, margin_out: samples of the song, not silence, next to it, for the joints.
        keep_start, keep_stop: what is kept of the converted audio.
        fade_in, fade_out: lengths of the linear fades over the ends of what is kept.
    """

    start: int
    stop: int
    margin_in: int
    margin_out: int
    keep_start: int
    keep_stop: int
    fade_in: int
    fade_out: int


def split_positions(length: int, clip: int, overlap: int, least: int = 1) -> list[tuple[int, int]]:
    """Start and stop of forced clips: every ``clip`` samples, all but the first starting ``overlap`` earlier.

    A clip of 0 means no cut. A rest shorter than ``least`` stays with the clip before it.
    """
    if clip <= 0 or length - clip < least:
        return [(0, length)]
    starts = list(range(0, length - least + 1, clip))
    return [(max(0, start - overlap), length if start == starts[-1] else start + clip) for start in starts]


def plan_pieces(chunks: Sequence[Chunk], sample_rate: int, clip: float, overlap: float, retain: float) -> list[Piece]:
    """The pieces of a song.

    Args:
        chunks: what the slicer made of the song, in order, touching.
        clip, overlap: seconds, 0 is none.
        retain: share of the overlap that is cross-faded; the rest of it is dropped on both sides.
    """
    clip_samples, overlap_samples = int(clip * sample_rate), int(overlap * sample_rate)
    fade = round(FADE_SECONDS * sample_rate) // 2 * 2
    least = round(MIN_PIECE_SECONDS * sample_rate)
    pieces: list[Piece] = []
    for index, chunk in enumerate(chunks):
        if chunk.silent:
            continue
        neighbours = [chunks[i] if 0 <= i < len(chunks) else None for i in (index - 1, index + 1)]
        ends = [_edge(len(chunk), fade, neighbour) for neighbour in neighbours]
        pieces += _clip_pieces(chunk, ends, clip_samples, overlap_samples, retain, fade, least)
    return pieces


@dataclass(frozen=True)
class _Edge:
    """One end of a kept stretch: how far it reaches over the end of the piece (negative: stays inside) and its fade."""

    reach: int
    fade: int


def _edge(length: int, fade: int, neighbour: Chunk | None) -> _Edge:
    """The end of a chunk: hard at the ends of the song, faded out before silence, cross-faded into another chunk."""
    if neighbour is None:
        return _Edge(0, 0)
    if neighbour.silent:
        return _Edge(0, min(fade, length // 2))
    reach = min(fade, length, len(neighbour)) // 2
    return _Edge(reach, 2 * reach)


def _clip_pieces(
    chunk: Chunk, ends: list[_Edge], clip: int, overlap: int, retain: float, fade: int, least: int
) -> list[Piece]:
    start = chunk.start
    spans = split_positions(len(chunk), clip, overlap, min(least, clip // 2))
    pieces = []
    for number, (first, last) in enumerate(spans):
        before = ends[0] if number == 0 else _joint(spans[number - 1], spans[number], overlap, retain, fade)[1]
        final = number == len(spans) - 1
        after = ends[1] if final else _joint(spans[number], spans[number + 1], overlap, retain, fade)[0]
        pieces.append(
            Piece(
                start=start + first,
                stop=start + last,
                margin_in=max(0, before.reach),
                margin_out=max(0, after.reach),
                keep_start=start + first - before.reach,
                keep_stop=start + last + after.reach,
                fade_in=before.fade,
                fade_out=after.fade,
            )
        )
    return pieces


def _joint(
    left: tuple[int, int], right: tuple[int, int], overlap: int, retain: float, fade: int
) -> tuple[_Edge, _Edge]:
    """How two forced clips meet: the end of the left one and the start of the right one.

    With an overlap, the middle ``retain`` of it is cross-faded. Without one, or where next to nothing of it is
    retained, both sides reach a little over the cut, so that there is no click.
    """
    faded = int(overlap * retain)
    if overlap > 0 and faded >= min(fade, overlap):
        dropped_right = (overlap - faded) // 2
        dropped_left = overlap - faded - dropped_right
        return _Edge(-dropped_left, faded), _Edge(-dropped_right, faded)
    faded = min(fade, left[1] - left[0], right[1] - right[0] - overlap) // 2 * 2
    middle = overlap // 2  # of the overlap, from the start of the right clip
    return _Edge(middle + faded // 2 - overlap, faded), _Edge(faded // 2 - middle, faded)


@dataclass(frozen=True)
class PaddedPiece:
    """A piece with silence around it, on the frame grid of the model.

    Attributes:
        offset: samples before the piece itself.
        n_frames: frames that the model makes; together they cover everything that is kept.
        n_samples: samples that encoder and f0 predictor take; up to one hop more than the frames hold.
    """

    offset: int
    n_frames: int
    n_samples: int


def pad_piece(piece: Piece, pad: int, hop_length: int, sample_rate: int) -> PaddedPiece:
    """Put silence around a piece.

    The model makes whole frames. As many as fit are made, as in the original; where the silence behind the piece
    is too short to hold the missing part of a frame, one more.
    """
    offset = max(pad, piece.margin_in)
    total = offset + piece.stop - piece.start + max(pad, piece.margin_out)
    needed = -(-(offset + piece.keep_stop - piece.start) // hop_length)
    least = -(-round(MIN_PIECE_SECONDS * sample_rate) // hop_length)
    n_frames = max(total // hop_length, needed, least)
    return PaddedPiece(offset, n_frames, max(total, n_frames * hop_length))


@dataclass(frozen=True)
class Window:
    """What the model sees at once.

    Attributes:
        first, last: frames of the padded piece.
        keep_start, keep_stop: samples of the padded piece that are kept.
        fade_in, fade_out: lengths of the linear fades over the ends of what is kept, samples.
    """

    first: int
    last: int
    keep_start: int
    keep_stop: int
    fade_in: int
    fade_out: int


def plan_windows(
    n_frames: int,
    hop_length: int,
    sample_rate: int,
    loudness_db: np.ndarray,
    f0: np.ndarray,
    uv: np.ndarray,
    max_seconds: float,
) -> list[Window]:
    """Windows over a padded piece; a single one where it is short enough.

    Joints lie at quiet and unvoiced places as far as there are any. Where a joint has to be in a note, the next
    window begins a whole number of its periods after the one before, so that both are in phase.

    Args:
        loudness_db: [n_frames] RMS of the frames in dB.
        f0: [n_frames] Hz, as the model gets it.
        uv: [n_frames] 1 voiced, 0 not.
        max_seconds: longest window.
    """
    longest = int(max_seconds * sample_rate / hop_length)
    total = n_frames * hop_length
    if n_frames <= longest:
        return [Window(0, n_frames, 0, total, 0, 0)]
    context, search = (round(s * sample_rate / hop_length) for s in (CONTEXT_SECONDS, SEARCH_SECONDS))
    context, search = min(context, longest // 6), min(search, longest // 6)
    half = min(round(WINDOW_FADE_SECONDS * sample_rate), hop_length * context) // 2
    phase = np.concatenate([[0.0], np.cumsum(f0, dtype=np.float64)]) * hop_length / sample_rate  # periods
    cost = np.clip(loudness_db, -80.0, 0.0) + VOICED_PENALTY_DB * uv

    windows: list[Window] = []
    first, joint = 0, 0
    while n_frames - first > longest:
        reach = first + longest - context - joint  # frames from here to the last possible joint
        steps = max(2, -(-(n_frames - joint) // reach))
        aim = joint + min(-(-(n_frames - joint) // steps), reach)
        lowest = max(joint + 2 * context, aim - search)
        following = _quietest(cost, min(lowest, aim), min(aim + search, joint + reach) + 1)
        windows.append(
            Window(
                first,
                following + context,
                joint * hop_length - half if windows else 0,
                following * hop_length + half,
                2 * half if windows else 0,
                2 * half,
            )
        )
        first, joint = _in_phase(phase, first, following - 2 * context, following - context), following
    windows.append(Window(first, n_frames, joint * hop_length - half, total, 2 * half, 0))
    return windows


def _quietest(cost: np.ndarray, low: int, high: int) -> int:
    """The frame border in [low, high) with the quietest frames on both sides."""
    borders = np.maximum(cost[low - 1 : high - 1], cost[low:high])
    return low + int(np.argmin(borders))


def _in_phase(phase: np.ndarray, start: int, low: int, high: int) -> int:
    """The frame in [low, high] nearest to a whole number of periods after frame ``start``."""
    periods = phase[low : high + 1] - phase[start]
    return low + int(np.argmin(np.abs(periods - np.round(periods))))


def fade_weights(length: int, fade_in: int, fade_out: int) -> np.ndarray:
    """float32 [length] weights of a kept stretch: 0 to 1, ones, 1 to 0.

    The two weights of a joint sum to 1 at every sample (equal gain).
    """
    weights = np.ones(length, dtype=np.float32)
    if fade_in:
        weights[:fade_in] *= np.linspace(0.0, 1.0, fade_in, dtype=np.float32)
    if fade_out:
        weights[length - fade_out :] *= 1.0 - np.linspace(0.0, 1.0, fade_out, dtype=np.float32)
    return weights


@dataclass(frozen=True)
class WindowInput:
    """What the networks get to see of a song at once.

    Attributes:
        audio: float32 [n] at the model's rate; a little longer than the frames where the song's grid ends.
        f0: [T] Hz, transposed.
        uv: [T] 1 voiced, 0 not.
        speaker: an id, or the weights of all speakers, float32 [T, speakers].
    """

    audio: np.ndarray
    f0: np.ndarray
    uv: np.ndarray
    speaker: int | np.ndarray


def fit(values: np.ndarray, length: int) -> np.ndarray:
    """Cut at the end, or repeat the last value."""
    return np.pad(values[:length], (0, max(0, length - len(values))), mode="edge")
