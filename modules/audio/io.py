"""Audio files in and out: one loader for every format, mono float32 whatever the file holds.

Samples come as float32 in [-1, 1] for every integer width (8, 16, 24, 32 bit) and as they are for float files.
libsndfile decodes wav, flac, ogg, opus, mp3, aiff and more; what it cannot read goes through ffmpeg where that is
installed. Nothing here needs more memory than the result and one block.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr

from modules.audio.resample import output_length
from modules.errors import UserError
from modules.files import atomic_path

NATIVE_EXTENSIONS = frozenset(
    {".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64", ".rf64"}
)
FFMPEG_EXTENSIONS = frozenset(
    {".m4a", ".m4b", ".aac", ".wma", ".mka", ".ac3", ".ape", ".wv"}
    | {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".flv", ".3gp"}
)
AUDIO_EXTENSIONS = NATIVE_EXTENSIONS | FFMPEG_EXTENSIONS

BLOCK_SECONDS = 30.0  # of stream_audio
CANCELLED = 10 ** (-20 / 10)  # power of a mix over that of its channels; a wide stereo picture stays far above
INAUDIBLE = 10 ** (-60 / 10)  # power of what lossy formats make of silence
_LOAD_SECONDS = 10.0  # decoded at a time by load_audio, which holds the result besides
_DEFAULT_SUBTYPES = {".wav": "PCM_24", ".flac": "PCM_24", ".ogg": "VORBIS", ".opus": "OPUS", ".mp3": "MPEG_LAYER_III"}
_UNKNOWN_FRAMES = 1 << 40  # libsndfile gives a huge count where the header does not know the length
_UNKNOWN_SIZE = 0x7FF00000  # from here on: what programs that write to a pipe leave in a RIFF header; or 0
_SLACK_SECONDS = 0.1  # by which a header may count too much: some recorders count their own chunks in
_MIN_RATE = 1000  # Hz; less is no recording, and unfolds to gigabytes at 44.1 kHz

Source = str | os.PathLike[str] | BinaryIO


@dataclass(frozen=True)
class AudioInfo:
    """What the header of an audio file says."""

    frames: int  # samples a channel
    sample_rate: int  # Hz
    channels: int

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.frames / self.sample_rate


def load_audio(source: Source, sample_rate: int | None = None, name: object = None) -> tuple[np.ndarray, int]:
    """A whole file as mono.

    Args:
        source: a path, or an open binary file.
        sample_rate: resample to this rate in Hz; None keeps the file's own.
        name: what to call the source in errors; the path by default.

    Returns:
        Samples float32 [T], T = round(frames * sample_rate / own rate), and their rate in Hz.

    Raises:
        UserError: no such file, not audio, cut off, empty, or with samples that are not finite.
    """
    name = source if name is None else name
    with _open(source, name) as sound:
        rate = sample_rate or sound.samplerate
        blocks = _resampled(_mono_blocks(sound, name, _LOAD_SECONDS), sound.samplerate, rate)
        expected = None if sound.frames >= _UNKNOWN_FRAMES else output_length(sound.frames, sound.samplerate, rate)
        return _collect(blocks, expected), rate


def stream_audio(source: Source, sample_rate: int, block_seconds: float = BLOCK_SECONDS) -> Iterator[np.ndarray]:
    """Blocks of a file as mono at ``sample_rate``, in bounded memory.

    The blocks joined are what load_audio returns: float32, round(frames * sample_rate / own rate) samples.

    Raises:
        UserError: as load_audio; damage in the middle of a file is met when its block is asked for.
    """
    with _open(source, source) as sound:
        yield from _resampled(_mono_blocks(sound, source, block_seconds), sound.samplerate, sample_rate)


def stream_channels(
    source: Source, block_seconds: float = BLOCK_SECONDS
) -> Iterator[tuple[np.ndarray, int]]:
    """Blocks float32 [n, C] of a file as it is, also samples that are not finite, each with the rate in Hz.

    Raises:
        UserError: as load_audio, but for samples that are not finite.
    """
    with _open(source, source) as sound:
        for block in _raw_blocks(sound, source, block_seconds):
            yield block, sound.samplerate


def audio_info(source: Source) -> AudioInfo:
    """Length, rate and channels of a file from its header. Raises UserError as load_audio."""
    with _open(source, source) as sound:
        if sound.frames < _UNKNOWN_FRAMES:
            return AudioInfo(sound.frames, sound.samplerate, sound.channels)
        frames = sum(len(block) for block in _mono_blocks(sound, source, _LOAD_SECONDS))
        return AudioInfo(frames, sound.samplerate, sound.channels)


def save_audio(
    path: str | os.PathLike[str], audio: np.ndarray, sample_rate: int, subtype: str | None = None
) -> None:
    """Write audio atomically; the suffix decides the format.

    Args:
        audio: [T] or [C, T]; float in [-1, 1] (beyond that it is clipped, never wrapped) or int16.
        subtype: libsndfile's name of the encoding; PCM_24 for wav and flac by default.

    Raises:
        UserError: a format or rate that cannot be written.
        OSError: the disk is full or the folder may not be written.
    """
    frames = np.asarray(audio).T
    channels = 1 if frames.ndim == 1 else frames.shape[1]
    with audio_writer(path, sample_rate, channels, subtype) as write:
        write(frames)


@contextlib.contextmanager
def audio_writer(
    path: str | os.PathLike[str], sample_rate: int, channels: int = 1, subtype: str | None = None
) -> Iterator[Callable[[np.ndarray], None]]:
    """Write audio atomically as it comes: gives a function that takes blocks [n] or [n, C].

    Nothing appears under ``path`` unless the block ends well. Raises as save_audio.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    subtype = subtype or _DEFAULT_SUBTYPES.get(suffix)
    kind = suffix.removeprefix(".").upper().replace("OPUS", "OGG")
    try:
        valid = soundfile.check_format(kind, subtype)
    except ValueError:
        valid = False
    if not valid:
        raise UserError(f"cannot write {suffix or 'a file without suffix'} as {subtype}", path, "use flac or wav")
    with atomic_path(path) as temporary, _WholeFile(temporary) as target:

        @contextlib.contextmanager
        def explained() -> Iterator[None]:
            try:
                yield
            except (soundfile.LibsndfileError, AssertionError) as error:
                target.raise_error()
                what = f"cannot write {suffix} at {sample_rate} Hz: {error}"
                raise UserError(what, path, "use flac or wav") from None
            target.raise_error()

        with explained():
            sound = soundfile.SoundFile(target, "w", sample_rate, channels, subtype, format=kind)

        def write(frames: np.ndarray) -> None:
            with explained():
                for start in range(0, len(frames), sample_rate):  # libvorbis crashes on one very long block
                    sound.write(frames[start : start + sample_rate])

        try:
            yield write
        except BaseException:
            with contextlib.suppress(soundfile.LibsndfileError):
                sound.close()
            raise
        with explained():
            sound.close()


class _Forward(soundfile.SoundFile):
    """A file that is read from its start to its end.

    soundfile seeks after every block to where it is already, and there decoders of mp3 begin anew: up to 30 ms of
    silence at the border of two blocks.
    """

    def seekable(self) -> bool:
        """Never, so that it does not."""
        return False


class _WholeFile(io.FileIO):
    """A file that remembers why a write failed; libsndfile itself only says that one did."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data)
        written = 0
        try:
            while written < len(view):
                written += super().write(view[written:]) or 0
        except OSError as error:  # an exception cannot pass through libsndfile
            self.error = self.error or error
        return written

    def raise_error(self) -> None:
        if self.error is not None:
            raise self.error


@contextlib.contextmanager
def _open(source: Source, name: object) -> Iterator[soundfile.SoundFile]:
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if not path.is_file():
            raise UserError("there is no such audio file", name, "check the path")
        with path.open("rb") as file:
            _check_riff_is_whole(file, name)
        opened: str | BinaryIO = str(path)
    else:
        _check_riff_is_whole(source, name)
        opened = source
    with contextlib.ExitStack() as stack:
        try:
            sound = stack.enter_context(_Forward(opened))
        except soundfile.LibsndfileError as error:
            decoded = stack.enter_context(_decoded_by_ffmpeg(source, name, error))
            sound = stack.enter_context(_Forward(decoded))
        if sound.frames == 0:
            raise UserError("the audio file holds no samples", name, "record or export it again")
        if sound.samplerate < _MIN_RATE:
            what = f"the audio file has a sampling rate of {sound.samplerate} Hz"
            raise UserError(what, name, "record or export it again")
        yield sound


def _check_riff_is_whole(file: BinaryIO, name: object) -> None:
    """libsndfile plays a wav that ends too early without a word; a half copied file is no training data."""
    start, bytes_a_second = file.tell(), 0
    try:
        if file.read(4) != b"RIFF" or file.read(8)[4:] != b"WAVE":
            return
        while len(header := file.read(8)) == 8:
            chunk, size = struct.unpack("<4sI", header)
            position = file.tell()
            if chunk == b"fmt ":
                bytes_a_second = struct.unpack("<8xI", file.read(12).ljust(12, b"\0"))[0]
            if chunk == b"data":
                there = file.seek(0, os.SEEK_END) - position
                if there + _SLACK_SECONDS * bytes_a_second < size < _UNKNOWN_SIZE:
                    raise _cut_off(f"{there} of {size} bytes of samples are there", name)
                return
            file.seek(position + size + size % 2)
        raise _cut_off("it ends before its samples begin", name)
    finally:
        file.seek(start)


def _cut_off(detail: str, name: object) -> UserError:
    return UserError(f"the audio file is cut off: {detail}", name, "copy or export it again")


@contextlib.contextmanager
def _decoded_by_ffmpeg(source: Source, name: object, error: Exception) -> Iterator[Path]:
    """A temporary wav with the decoded audio, for what libsndfile cannot read."""
    program = shutil.which("ffmpeg")
    if program is None or not isinstance(source, (str, os.PathLike)):
        readable = Path(str(name)).suffix.lower() not in FFMPEG_EXTENSIONS
        fix = "convert it to wav or flac" if readable else "install ffmpeg, or convert it to wav or flac"
        raise UserError(f"cannot be read as audio ({_reason(error)})", name, fix) from None
    with tempfile.TemporaryDirectory(prefix="decode_") as folder:
        target = Path(folder) / "decoded.wav"
        # "file:" and the whitelist keep a crafted playlist or file name from reaching anything but this file.
        command = [program, "-nostdin", "-v", "error", "-xerror", "-protocol_whitelist", "file"]
        command += ["-i", f"file:{Path(source).resolve()}", "-map", "0:a:0", "-c:a", "pcm_f32le", "-rf64", "auto"]
        result = subprocess.run([*command, str(target)], capture_output=True, text=True, errors="replace")
        if result.returncode != 0 or not target.is_file():
            first = (result.stderr.strip().splitlines() or [f"ffmpeg ended with {result.returncode}"])[0]
            detail = re.sub(r"^(\[[^]]*\]\s*)+", "", first).replace(f"file:{Path(source).resolve()}: ", "")
            raise UserError(f"cannot be read as audio ({detail})", name, "convert it to wav or flac") from None
        yield target


def _reason(error: Exception) -> str:
    text = getattr(error, "error_string", None) or str(error)
    return str(text).strip().rstrip(".")


def _mono_blocks(sound: soundfile.SoundFile, name: object, block_seconds: float) -> Iterator[np.ndarray]:
    """Blocks float32 [n] of an open file, its channels averaged, every sample finite.

    Of two channels that cancel each other, as one of them with its poles swapped does, the left one is taken.
    """
    cancel = sound.channels == 2 and _channels_cancel(sound, name)
    position = 0
    for block in _raw_blocks(sound, name, block_seconds):
        if not np.isfinite(block).all():
            seconds = (position + int(np.argmin(np.isfinite(block).all(axis=1)))) / sound.samplerate
            what = f"the audio holds NaN or infinite samples (first at {seconds:.3f} s)"
            raise UserError(what, name, "export it again from the program that made it")
        position += len(block)
        yield block[:, 0] if cancel or block.shape[1] == 1 else block.mean(axis=1)


def _channels_cancel(sound: soundfile.SoundFile, name: object) -> bool:
    """Whether next to nothing is left of the mix, wherever in the file there is sound.

    Of most files only the first second with sound is looked at. Damage is for the reader that comes after.
    """
    if isinstance(sound.name, (str, os.PathLike)):
        with _Forward(sound.name) as again:
            return _mix_is_silent(_raw_blocks(again, name, 1.0))
    cancel = _mix_is_silent(_raw_blocks(sound, name, 1.0))
    sound.seek(0)
    return cancel


def _mix_is_silent(blocks: Iterable[np.ndarray]) -> bool:
    cancelled = False
    with contextlib.suppress(UserError), np.errstate(all="ignore"):
        for block in blocks:
            apart, mixed = (float(np.square(x, dtype=np.float64).mean()) for x in (block, block.mean(axis=1)))
            if apart < INAUDIBLE:
                continue
            cancelled = mixed < CANCELLED * apart
            if not cancelled:
                break
    return cancelled


def _raw_blocks(sound: soundfile.SoundFile, name: object, block_seconds: float) -> Iterator[np.ndarray]:
    """Blocks float32 [n, C] of an open file, whatever is in them."""
    size = max(1, int(block_seconds * sound.samplerate))
    position = 0
    while True:
        try:
            block = sound.read(size, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            seconds = position / sound.samplerate
            raise _cut_off(f"it cannot be decoded after {seconds:.1f} s ({_reason(error)})", name) from None
        if len(block) == 0:
            break
        position += len(block)
        yield block
    # The length in the header of an mp3 is an estimate; the other formats know theirs.
    if position < sound.frames < _UNKNOWN_FRAMES and sound.format != "MP3":
        raise _cut_off(f"{position} of {sound.frames} samples are there", name)


def _resampled(blocks: Iterable[np.ndarray], from_rate: int, to_rate: int) -> Iterator[np.ndarray]:
    if from_rate == to_rate:
        yield from blocks
        return
    stream = soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32", quality="HQ")
    frames = produced = 0
    for block in blocks:
        frames += len(block)
        out = stream.resample_chunk(block)
        produced += len(out)
        if len(out):
            yield out
    rest = stream.resample_chunk(np.zeros(0, np.float32), last=True)
    missing = output_length(frames, from_rate, to_rate) - produced
    if missing > 0:
        yield np.pad(rest[:missing], (0, max(0, missing - len(rest))))


def _collect(blocks: Iterable[np.ndarray], expected: int | None) -> np.ndarray:
    """Join blocks; with a known length straight into the result, so that nothing is held twice."""
    if expected is None:
        return np.concatenate([np.zeros(0, np.float32), *blocks])
    try:
        out = np.empty(expected, np.float32)
    except (MemoryError, ValueError):  # a header that promises more than there can be
        out = np.empty(0, np.float32)
    filled = 0
    for block in blocks:
        end = filled + len(block)
        if end > len(out):  # an mp3 that is longer than its header says
            out = np.concatenate([out[:filled], np.empty(2 * end - filled, np.float32)])
        out[filled:end] = block
        filled = end
    return out[:filled]
