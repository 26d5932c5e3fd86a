"""Audio files in and out: every format and width alike, damage reported, memory bounded."""

from __future__ import annotations

import functools
import io
import os
import struct
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from modules.audio.io import AUDIO_EXTENSIONS, audio_info, load_audio, save_audio, stream_audio
from modules.audio.resample import output_length, resample
from modules.errors import UserError
from tests.disk import small_disk
from tests.parity.signals import sine_sweep, voice_like

RATE = 44100


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@functools.cache
def _voice() -> np.ndarray:
    return voice_like(RATE, 1.0, [180, 220, 200], seed=1)


@pytest.fixture
def voice() -> np.ndarray:
    return _voice().copy()


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_every_sample_width_loads_at_its_own_level(tmp_path: Path, voice: np.ndarray, subtype: str) -> None:
    """(A22) The original took 24-bit files for 65536 times too loud."""
    soundfile.write(tmp_path / "a.wav", voice, RATE, subtype=subtype)
    audio, rate = load_audio(tmp_path / "a.wav")
    assert (audio.dtype, audio.shape, rate) == (np.float32, voice.shape, RATE)
    np.testing.assert_allclose(audio, voice, atol=0.008 if subtype == "PCM_U8" else 1e-6)


@pytest.mark.parametrize("name", ["a.flac", "a.aiff", "a.au", "a.caf", "a.w64", "a.ogg", "a.mp3", "a.opus", "A.WAV"])
def test_formats_of_libsndfile_load(tmp_path: Path, name: str) -> None:
    sweep = sine_sweep(48000, 1.0, amp=0.5)
    kind = {"AIF": "AIFF", "OPU": "OGG"}.get(name[2:5].upper(), name[2:].upper())
    soundfile.write(tmp_path / name, sweep, 48000, format=kind, subtype="OPUS" if name == "a.opus" else None)
    audio, rate = load_audio(tmp_path / name)
    assert rate == 48000 and abs(len(audio) - len(sweep)) < 0.1 * 48000
    assert np.sqrt(np.mean(audio**2)) == pytest.approx(np.sqrt(np.mean(sweep**2)), rel=0.05)
    assert Path(name).suffix.lower() in AUDIO_EXTENSIONS


def test_channels_are_averaged(tmp_path: Path, voice: np.ndarray) -> None:
    soundfile.write(tmp_path / "a.wav", np.stack([voice, 0 * voice, -0.5 * voice], axis=1), RATE, subtype="FLOAT")
    np.testing.assert_allclose(load_audio(tmp_path / "a.wav")[0], voice / 6, atol=1e-6)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.ogg"])
def test_of_channels_that_cancel_each_other_the_left_one_is_taken(tmp_path: Path, voice: np.ndarray, name: str) -> None:
    """Loaded whole, in blocks, and beginning with silence."""
    late = np.concatenate([np.zeros(2 * RATE, np.float32), voice])
    soundfile.write(tmp_path / name, np.stack([late, -late], axis=1), RATE)
    audio, _ = load_audio(tmp_path / name)
    level = float(np.sqrt(np.mean(voice**2)))
    assert np.sqrt(np.mean(audio[2 * RATE :] ** 2)) == pytest.approx(level, rel=0.2)
    np.testing.assert_allclose(np.concatenate(list(stream_audio(tmp_path / name, RATE, 0.5))), audio, atol=1e-6)
    with (tmp_path / name).open("rb") as file:
        np.testing.assert_allclose(load_audio(file)[0], audio, atol=1e-6)


@pytest.mark.parametrize("side", [0.0, 0.5, 0.8])
def test_a_wide_picture_is_mixed_and_so_is_a_start_in_antiphase(
    tmp_path: Path, voice: np.ndarray, side: float
) -> None:
    channels = np.stack([voice, (1 - 2 * side) * voice], axis=1)
    channels[: RATE // 10, 1] = -channels[: RATE // 10, 0]
    soundfile.write(tmp_path / "a.wav", channels, RATE, subtype="FLOAT")
    np.testing.assert_allclose(load_audio(tmp_path / "a.wav")[0], channels.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000, 96000])
def test_streamed_blocks_join_to_the_whole_resampled_file(tmp_path: Path, rate: int) -> None:
    sweep = sine_sweep(rate, 1.7, f_hi=3000)
    soundfile.write(tmp_path / "a.wav", np.stack([sweep, sweep], axis=1), rate, subtype="FLOAT")
    blocks = list(stream_audio(tmp_path / "a.wav", RATE, block_seconds=0.1))
    whole, _ = load_audio(tmp_path / "a.wav", RATE)
    assert len(blocks) > 10 and len(whole) == output_length(len(sweep), rate, RATE)
    np.testing.assert_array_equal(np.concatenate(blocks), whole)
    np.testing.assert_allclose(whole, resample(sweep, rate, RATE), atol=1e-6)


def test_no_sound_is_lost_between_the_blocks_of_an_mp3(tmp_path: Path, voice: np.ndarray) -> None:
    soundfile.write(tmp_path / "a.mp3", np.concatenate([np.zeros(RATE, np.float32), voice]), RATE)
    whole = soundfile.read(tmp_path / "a.mp3", dtype="float32")[0]
    for seconds in (0.02, 0.5):
        blocks = np.concatenate(list(stream_audio(tmp_path / "a.mp3", RATE, seconds)))
        np.testing.assert_allclose(blocks, whole, atol=1e-5)


def test_resampling_has_the_numbers_of_librosa() -> None:
    import librosa

    sweep = sine_sweep(48000, 0.5)
    want = librosa.resample(sweep, orig_sr=48000, target_sr=RATE)
    np.testing.assert_allclose(resample(sweep, 48000, RATE), want[: len(sweep) * 147 // 160], atol=1e-7)


def test_header_tells_length_rate_and_channels(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", np.zeros((12345, 2)), 48000)
    info = audio_info(tmp_path / "a.flac")
    assert (info.frames, info.sample_rate, info.channels) == (12345, 48000, 2)
    assert info.duration == pytest.approx(12345 / 48000)


def test_a_long_file_needs_little_more_memory_than_its_samples(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.flac", np.zeros((150 * 48000, 2), np.int16), 48000)
    for rate in (None, RATE):
        tracemalloc.start()
        audio, _ = load_audio(tmp_path / "long.flac", rate)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2 * audio.nbytes
    tracemalloc.start()
    total = sum(len(block) for block in stream_audio(tmp_path / "long.flac", RATE, block_seconds=5))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 150 * RATE and peak < 10e6


@pytest.mark.parametrize(
    ("suffix", "kept"), [(".wav", 30), (".wav", 2000), (".wav", 60000), (".flac", 60), (".flac", 0.5)]
)
def test_a_file_that_ends_too_early_is_refused(tmp_path: Path, voice: np.ndarray, suffix: str, kept: float) -> None:
    path = tmp_path / f"cut{suffix}"
    soundfile.write(path, voice, RATE)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if kept < 1 else int(kept)])
    with pytest.raises(UserError, match="cut off|cannot be read") as caught:
        load_audio(path)
    assert caught.value.where == str(path)


def test_a_wav_whose_writer_did_not_know_its_length_loads(tmp_path: Path, voice: np.ndarray) -> None:
    path = tmp_path / "piped.wav"
    soundfile.write(path, voice, RATE, subtype="PCM_16")
    data = bytearray(path.read_bytes())
    position = data.index(b"data") + 4
    data[position : position + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    np.testing.assert_allclose(load_audio(path)[0], voice, atol=1e-4)


@pytest.mark.parametrize(
    "content",
    [b"", b"these are the lyrics\n" * 50, np.random.default_rng(0).bytes(5000)],
    ids=["empty", "text", "noise"],
)
def test_what_is_not_audio_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as audio"):
        load_audio(tmp_path / "a.wav")


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.wav", tmp_path):
        with pytest.raises(UserError, match="no such audio file"):
            load_audio(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_refused_with_their_time(
    tmp_path: Path, voice: np.ndarray, value: float
) -> None:
    voice[RATE // 2] = value
    soundfile.write(tmp_path / "a.wav", np.stack([np.ones_like(voice), voice], axis=1), RATE, subtype="FLOAT")
    with pytest.raises(UserError, match=r"NaN or infinite samples \(first at 0.500 s\)"):
        load_audio(tmp_path / "a.wav")


def test_a_file_without_samples_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(0), RATE)
    with pytest.raises(UserError, match="no samples"):
        audio_info(tmp_path / "a.wav")


def test_open_files_load_and_errors_use_the_given_name(voice: np.ndarray) -> None:
    file = io.BytesIO()
    soundfile.write(file, voice, RATE, format="WAV", subtype="FLOAT")
    data = file.getvalue()
    np.testing.assert_array_equal(load_audio(io.BytesIO(data))[0], voice)
    with pytest.raises(UserError) as caught:
        load_audio(io.BytesIO(data[:1000]), name="song.wav")
    assert caught.value.where == "song.wav"


FAKE_FFMPEG = """#!{python}
import shutil, sys
source = sys.argv[sys.argv.index("-i") + 1]
assert source.startswith("file:/") and sys.argv[sys.argv.index("-protocol_whitelist") + 1] == "file"
if open(source[5:]).read() != "an m4a":
    sys.exit("[in#0 @ 0x1] Invalid data found when processing input")
shutil.copy("{decoded}", sys.argv[-1])
"""


@pytest.fixture
def ffmpeg(tmp_path: Path, voice: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in that obeys the same command line; the real program is not a dependency."""
    soundfile.write(tmp_path / "decoded.wav", voice, RATE, subtype="FLOAT")
    program = tmp_path / "bin" / "ffmpeg"
    program.parent.mkdir()
    program.write_text(FAKE_FFMPEG.format(python=sys.executable, decoded=tmp_path / "decoded.wav"))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a script with a #! line")
@pytest.mark.usefixtures("ffmpeg")
def test_what_libsndfile_cannot_read_goes_through_ffmpeg(tmp_path: Path, voice: np.ndarray) -> None:
    (tmp_path / "song.m4a").write_text("an m4a")
    np.testing.assert_array_equal(load_audio(tmp_path / "song.m4a")[0], voice)
    assert audio_info(tmp_path / "song.m4a").frames == len(voice)
    (tmp_path / "broken.m4a").write_text("lyrics")
    with pytest.raises(UserError, match=r"\(Invalid data found when processing input\)"):
        load_audio(tmp_path / "broken.m4a")


def test_without_ffmpeg_the_error_says_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "song.m4a").write_text("an m4a")
    with pytest.raises(UserError) as caught:
        load_audio(tmp_path / "song.m4a")
    assert "install ffmpeg" in caught.value.fix


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_saved_audio_has_24_bits(tmp_path: Path, voice: np.ndarray, name: str) -> None:
    save_audio(tmp_path / name, voice, RATE)
    assert soundfile.info(tmp_path / name).subtype == "PCM_24"
    np.testing.assert_allclose(load_audio(tmp_path / name)[0], voice, atol=2e-7)
    assert names(tmp_path) == [name]


@pytest.mark.parametrize("name", ["a.ogg", "a.mp3"])
def test_saved_audio_can_be_lossy(tmp_path: Path, voice: np.ndarray, name: str) -> None:
    save_audio(tmp_path / name, voice, RATE)
    audio, rate = load_audio(tmp_path / name)
    assert (rate, len(audio)) == (RATE, len(voice))
    assert np.corrcoef(audio, voice)[0, 1] > 0.97


def test_audio_over_full_scale_is_clipped_and_never_wraps(tmp_path: Path) -> None:
    save_audio(tmp_path / "a.wav", np.array([0.5, 1.5, -1.5, 3.0]), RATE)
    np.testing.assert_allclose(soundfile.read(tmp_path / "a.wav")[0], [0.5, 1, -1, 1], atol=1e-6)


def test_stereo_and_int16_are_saved_as_they_are(tmp_path: Path) -> None:
    stereo = np.array([[1, -2, 30000], [4, 5, -30000]], np.int16)
    save_audio(tmp_path / "a.wav", stereo, RATE, "PCM_16")
    np.testing.assert_array_equal(soundfile.read(tmp_path / "a.wav", dtype="int16")[0], stereo.T)


def test_an_unwritable_format_is_refused_and_leaves_nothing(tmp_path: Path, voice: np.ndarray) -> None:
    with pytest.raises(UserError, match="cannot write .m4a"):
        save_audio(tmp_path / "a.m4a", voice, RATE)
    with pytest.raises(UserError, match="cannot write .mp3 at 96000 Hz"):
        save_audio(tmp_path / "a.mp3", voice, 96000)
    assert names(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="file size limits are POSIX")
def test_a_write_that_fails_is_reported_with_its_cause_and_the_old_file_stays(tmp_path: Path) -> None:
    """libsndfile tells of a failed write without a reason; here the operating system refuses it for real."""
    import resource

    save_audio(tmp_path / "a.wav", np.zeros(10), RATE)
    before = (tmp_path / "a.wav").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_audio(tmp_path / "a.wav", np.zeros(RATE * 10), RATE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "a.wav").read_bytes() == before
    assert names(tmp_path) == ["a.wav"]


def test_a_full_disk_is_reported_as_one(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        with pytest.raises(OSError, match="No space left"):
            save_audio(disk / "a.wav", np.zeros(RATE * 30), RATE)
        assert names(disk) == []


def riff(claimed: int, pcm: bytes, rate: int = 44100) -> bytes:
    """A mono 16-bit wav whose header counts ``claimed`` bytes of samples."""
    head = struct.pack("<4sI8s", b"RIFF", (claimed + 36) & 0xFFFFFFFF, b"WAVEfmt ")
    head += struct.pack("<IHHIIHH", 16, 1, 1, rate, 2 * rate, 2, 16)
    return head + struct.pack("<4sI", b"data", claimed) + pcm


PCM = (np.sin(np.arange(44100) * 0.05) * 9000).astype("<i2").tobytes()


@pytest.mark.parametrize("claimed", [0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, len(PCM) + 16, len(PCM) + 2])
def test_wavs_of_programs_that_cannot_count_are_read_whole(claimed: int, tmp_path: Path) -> None:
    """sox and others that write to a pipe put a huge size into the header; CubicSDR counts its own chunks in."""
    (tmp_path / "a.wav").write_bytes(riff(claimed, PCM))
    audio, rate = load_audio(tmp_path / "a.wav")
    assert len(audio) == 44100 and rate == 44100


def test_a_wav_that_lacks_half_a_second_is_cut_off(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(riff(len(PCM), PCM[:44100]))
    with pytest.raises(UserError, match="cut off"):
        load_audio(tmp_path / "a.wav")


def test_a_wav_of_one_sample_a_second_does_not_unfold(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(riff(len(PCM), PCM, rate=1))
    with pytest.raises(UserError, match="sampling rate of 1 Hz"):
        load_audio(tmp_path / "a.wav", 44100)


def test_a_flac_that_promises_too_much_is_one_clear_message(tmp_path: Path) -> None:
    """STREAMINFO holds the number of samples in 36 bits."""
    soundfile.write(tmp_path / "a.flac", np.frombuffer(PCM, "<i2"), 44100)
    data = bytearray((tmp_path / "a.flac").read_bytes())
    data[21] |= 0x0F
    data[22:26] = b"\xff\xff\xff\xff"
    (tmp_path / "a.flac").write_bytes(data)
    with pytest.raises(UserError):
        load_audio(tmp_path / "a.flac")
