"""Where songs are cut and how the parts are joined: positions only, no networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modules.audio.slicer import Chunk
from modules.inference import windows
from modules.inference.assembly import AudioSpool, OverlapAdder
from modules.inference.windows import Piece, Window
from tests.parity import golden

GOLDENS = Path(__file__).parent / "parity" / "goldens"
RATE, HOP = 44100, 512
CROSSFADE_META, CROSSFADE = golden.load(GOLDENS / "a_crossfade.npz")


def original_pieces(length: int, clip: float, lg: float, lgr: float, chunks: list[Chunk] | None = None) -> list[Piece]:
    return windows.plan_pieces(chunks or [Chunk(0, length, False)], 1000, clip, lg, lgr)


def join(pieces: list[Piece], length: int, value: str) -> np.ndarray:
    """What comes out when sample j of piece i is 10000 * i + j, as in the golden, or its position in the song."""
    blocks: list[np.ndarray] = []
    adder = OverlapAdder(blocks.append)
    for number, piece in enumerate(pieces):
        position = np.arange(piece.keep_start, piece.keep_stop, dtype=np.float64)
        audio = position if value == "position" else 10000 * number + position - piece.start
        weights = windows.fade_weights(len(audio), piece.fade_in, piece.fade_out)
        adder.add(piece.keep_start, (audio * weights).astype(np.float32))
    adder.finish(length)
    return np.concatenate(blocks)


def stub_pad_shift(meta_case: dict, number: int) -> int:
    """By how much the original's stub shifts piece ``number``: its pads and its centring (fault A4)."""
    samples_in, samples_out, _ = meta_case["calls [samples in, samples out, frame counter]"][number]
    pad = int(meta_case["pad_seconds"] * meta_case["audio_sr"])
    return pad - (samples_in - samples_out) // 2


@pytest.mark.parametrize("case", ["clip1_lg0.2", "clip1_lg0.207_lgr0.6", "clip1_lg0.2_lgr1"])
def test_forced_clips_are_cross_faded_where_the_original_does(case: str) -> None:
    """At equal rates every output sample comes from the same piece and moment as in the original.

    The original's pieces are a few samples short and centred with zeros (A4), so its stub's sample j stands
    ``stub_pad_shift`` off; what it filled with zeros is left out.
    """
    meta = CROSSFADE_META["cases"][case]
    pieces = original_pieces(3300, meta["clip_seconds"], meta["lg_num"], meta["lgr_num"])
    got, want = join(pieces, 3300, "piece"), CROSSFADE[f"out_{case}"]
    assert len(got) == len(want) == meta["out_len"]
    compared = 0
    for number, piece in enumerate(pieces):
        shift = stub_pad_shift(meta, number)
        alone = slice(piece.keep_start + piece.fade_in + 20, piece.keep_stop - piece.fade_out - 20)
        np.testing.assert_allclose(want[alone] - got[alone], shift, atol=0.51)
        compared += alone.stop - alone.start
        if piece.fade_out and piece.stop < 3300:
            fade = slice(piece.keep_stop - piece.fade_out, piece.keep_stop)
            shifts = np.linspace(shift, stub_pad_shift(meta, number + 1), piece.fade_out)
            if np.ptp(want[fade] - got[fade]) < 40:  # not where the stub's zeros reach into the fade
                np.testing.assert_allclose(want[fade] - got[fade], shifts, atol=1.1)
                compared += piece.fade_out
    assert compared > 2400


def test_clips_without_overlap_lie_where_the_original_puts_them_but_meet_without_a_step() -> None:
    """The original puts them one after the other (A5); here the last 10 ms on both sides are mixed."""
    meta = CROSSFADE_META["cases"]["clip1_lg0"]
    pieces = original_pieces(3300, 1.0, 0, 0.75)
    assert [(piece.start, piece.stop) for piece in pieces] == [(0, 1000), (1000, 2000), (2000, 3000), (3000, 3300)]
    assert len(pieces) == len(meta["calls [samples in, samples out, frame counter]"])
    for left, right in zip(pieces, pieces[1:], strict=False):
        assert left.fade_out == right.fade_in == 20
        assert left.keep_stop - right.keep_start == 20
        assert left.margin_out == right.margin_in == 10


@pytest.mark.parametrize(
    "clip,lg,lgr", [(0, 0, 0.75), (1, 0, 0.75), (1, 0.2, 0.75), (1, 0.2, 1), (1, 0.2, 0), (1, 1, 1)]
)
@pytest.mark.parametrize("length", [3300, 3001, 2000, 999, 40])
def test_no_sample_is_lost_or_moved_whatever_the_clips(clip: float, lg: float, lgr: float, length: int) -> None:
    """(A3) Every output sample is its own position in the song, wherever pieces meet."""
    got = join(original_pieces(length, clip, lg, lgr), length, "position")
    np.testing.assert_allclose(got, np.arange(length), atol=1e-3)


def test_sizes_come_from_the_rate_of_the_audio_they_are_used_on() -> None:
    """(A3) The golden of the original makes 5250 samples of 4950; pieces here are planned at one rate."""
    pieces = windows.plan_pieces([Chunk(0, 4950, False)], 1500, 1.0, 0.2, 0.75)
    assert pieces[0].fade_out == 225
    np.testing.assert_allclose(join(pieces, 4950, "position"), np.arange(4950), atol=1e-3)
    assert CROSSFADE_META["cases"]["rate1.5_clip1_lg0.2"]["out_len"] == 5250


def test_silent_chunks_give_zeros_and_sound_fades_into_them() -> None:
    """(A5) As long as they were, and without an edge; the ends of the song have none."""
    chunks = [Chunk(0, 5000, False), Chunk(5000, 7000, True), Chunk(7000, 9000, False)]
    pieces = windows.plan_pieces(chunks, 1000, 0, 0, 0.75)
    blocks: list[np.ndarray] = []
    adder = OverlapAdder(blocks.append)
    for piece in pieces:
        length = piece.keep_stop - piece.keep_start
        adder.add(piece.keep_start, windows.fade_weights(length, piece.fade_in, piece.fade_out))
    adder.finish(9000)
    got = np.concatenate(blocks)
    assert not got[5000:7000].any()
    assert got[0] == got[4979] == got[-1] == 1
    assert 0 < got[4990] < 1
    assert np.abs(np.diff(got)).max() < 0.06


def test_split_is_that_of_the_original() -> None:
    meta, _ = golden.load(GOLDENS / "a_split_pad.npz")
    for name, pieces in meta["split"].items():
        clip, overlap = (int(part.strip("npre")) for part in name.split("_"))
        got = [[start, stop - 1, stop - start] for start, stop in windows.split_positions(23, clip, overlap)]
        assert got == pieces, name


def test_a_short_rest_stays_with_the_clip_before_it() -> None:
    assert windows.split_positions(1020, 500, 0, least=100) == [(0, 500), (500, 1020)]
    assert windows.split_positions(1100, 500, 0, least=100) == [(0, 500), (500, 1000), (1000, 1100)]


@pytest.mark.parametrize("length", [1, 4410, 44100, 100000, 194922])
@pytest.mark.parametrize("pad", [0, 100, 22050])
def test_the_frames_of_a_piece_hold_all_that_is_kept(length: int, pad: int) -> None:
    """(A4) As many frames as the original makes, or one more, and the piece begins at a known sample."""
    (piece,) = windows.plan_pieces([Chunk(0, length, False)], RATE, 0, 0, 0.75)
    padded = windows.pad_piece(piece, pad, HOP, RATE)
    assert padded.offset == pad
    assert padded.n_frames * HOP >= pad + length
    if pad >= HOP:
        assert padded.n_frames == (length + 2 * pad) // HOP
    assert padded.n_samples >= padded.n_frames * HOP


def plan(n_frames: int, loudness: np.ndarray, f0: np.ndarray, uv: np.ndarray, seconds: float = 15.0) -> list[Window]:
    return windows.plan_windows(n_frames, HOP, RATE, loudness, f0, uv, seconds)


def constant(n_frames: int, f0: float = 440.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.full(n_frames, -20.0), np.full(n_frames, f0), np.ones(n_frames)


@pytest.mark.parametrize("seconds", [2.0, 5.0, 15.0])
@pytest.mark.parametrize("n_frames", [3, 172, 173, 431, 1291, 1292, 1293, 2000, 20000])
def test_windows_cover_a_piece_once_and_never_grow(n_frames: int, seconds: float) -> None:
    rng = np.random.default_rng(n_frames)
    loudness, f0, uv = rng.uniform(-60, 0, n_frames), rng.uniform(80, 900, n_frames), rng.integers(0, 2, n_frames)
    got = plan(n_frames, loudness, f0, uv, seconds)
    weight = np.zeros(n_frames * HOP, dtype=np.float32)
    for window in got:
        assert 0 <= window.first < window.last <= n_frames
        assert (window.last - window.first) * HOP <= seconds * RATE
        assert window.first * HOP <= window.keep_start and window.keep_stop <= window.last * HOP
        kept = slice(window.keep_start, window.keep_stop)
        weight[kept] += windows.fade_weights(kept.stop - kept.start, window.fade_in, window.fade_out)
    np.testing.assert_allclose(weight, 1.0, atol=1e-6)


def test_both_sides_of_a_joint_have_heard_what_comes_beyond_it() -> None:
    got = plan(6000, *constant(6000))
    for left, right in zip(got, got[1:], strict=False):
        joint = (left.keep_stop + right.keep_start) / 2 / HOP
        assert left.last - joint >= 0.7 * RATE / HOP
        assert joint - right.first >= 0.7 * RATE / HOP


def test_joints_go_to_quiet_and_to_unvoiced_places() -> None:
    loudness, f0, uv = constant(1800)
    loudness[905:915] = -50.0
    (left, _) = plan(1800, loudness, f0, uv)
    assert 905 <= left.keep_stop / HOP - 0.025 * RATE / HOP <= 915
    loudness, f0, uv = constant(1800)
    uv[950:960] = 0.0
    (left, _) = plan(1800, loudness, f0, uv)
    assert 950 <= left.keep_stop / HOP - 0.025 * RATE / HOP <= 960


def test_a_joint_in_a_note_keeps_its_phase() -> None:
    """The excitation begins with every window anew; windows a whole number of periods apart go on in phase."""
    for f0 in (97.3, 440.0, 719.7):
        got = plan(6000, *constant(6000, f0))
        assert len(got) > 3
        for left, right in zip(got, got[1:], strict=False):
            periods = (right.first - left.first) * HOP * f0 / RATE
            assert abs(periods - round(periods)) < 0.04


def test_the_spool_gives_zeros_outside_the_song(tmp_path: Path) -> None:
    with AudioSpool(tmp_path) as spool:
        spool.extend([np.arange(5), np.arange(5, 10)])
        np.testing.assert_array_equal(spool.read(-2, 3), [0, 0, 0, 1, 2])
        np.testing.assert_array_equal(spool.read(8, 12), [8, 9, 0, 0])
        np.testing.assert_array_equal(spool.read(20, 22), [0, 0])
        spool.extend([np.array([10.0])])
        np.testing.assert_array_equal(spool.read(9, 11), [9, 10])
    assert not list(tmp_path.iterdir())


def test_the_song_is_handed_on_as_it_is_finished() -> None:
    """(C8) No more waits in memory than what a later stretch may still overlap."""
    handed: list[int] = []
    adder = OverlapAdder(lambda block: handed.append(len(block)))
    adder.add(0, np.ones(100, np.float32))
    assert sum(handed) == 0
    adder.add(90, np.ones(100, np.float32))
    assert sum(handed) == 90
    adder.add(400, np.ones(10, np.float32))
    assert sum(handed) == 400
    adder.finish(500)
    assert sum(handed) == 500
