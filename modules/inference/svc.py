"""Singing voice conversion of whole songs: load once, convert many.

A song of any length, rate and channel count goes through in memory that does not grow with it: it lies as float32
in a temporary file, is cut at its silences, converted window by window, and written as the result comes.
"""

from __future__ import annotations

import gc
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from modules.audio.io import audio_writer, stream_audio
from modules.audio.slicer import Chunk, slice_rms, slicing_curve
from modules.errors import UserError
from modules.f0 import F0Contour, clear_cache
from modules.inference import windows
from modules.inference.assembly import AudioSpool, OverlapAdder, read_piece
from modules.inference.backend import open_networks
from modules.inference.options import InferenceOptions, ModelOptions
from modules.inference.pitch import PitchFinder, SongF0, SongRange
from modules.inference.speaker_mix import Speaker, SpeakerMix, speaker_id
from modules.inference.voice import load_voice
from modules.inference.windows import PaddedPiece, Piece, Window, WindowInput

Emit = Callable[[np.ndarray], None]
Progress = Callable[[float], None]  # share of the song that is done, 0 to 1
SILENT_DB = -120.0
NOTHING_DB = -90.0  # the loudest moment of a song that is silence
HEARD_DB = 30.0  # under the loudest moment of a song: what is heard beside it
WORTH_A_WARNING = 0.1  # of what is heard


class Cancelled(Exception):
    """The conversion was stopped by its cancel event."""


class Cancel(Protocol):
    """What a conversion asks now and then whether it should stop; a threading.Event is one."""

    def is_set(self) -> bool: ...


class Renderer(Protocol):
    """What turns a window of the song into the other voice; ``Voice`` is one."""

    @property
    def sample_rate(self) -> int: ...

    @property
    def hop_length(self) -> int: ...

    @property
    def speakers(self) -> dict[str, int]: ...

    @property
    def n_speakers(self) -> int: ...

    def check(self, options: InferenceOptions) -> None: ...

    def render(self, window: WindowInput, options: InferenceOptions) -> np.ndarray: ...


@dataclass
class Report:
    """What a conversion has to say besides its audio.

    Attributes:
        seconds: length of the song.
        peak: largest absolute sample of the result; what is over 1 was clipped in the file.
        f0: float32 [T] Hz, the song's melody at the frames of the model before transposition; 0 where unvoiced.
        warnings: lines for the user.
    """

    seconds: float = 0.0
    peak: float = 0.0
    f0: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.float32))
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Job:
    """One conversion: what all its steps need."""

    spool: AudioSpool
    options: InferenceOptions
    speaker: Speaker
    stop: Callable[[], None]  # raises Cancelled
    song_range: SongRange
    song_f0: SongF0


class Svc:
    """Converts songs with one loaded voice.

    Args:
        voice: makes the audio of a window.
        pitch: finds f0.
        window_seconds: how much the voice sees at once.
    """

    def __init__(self, voice: Renderer, pitch: PitchFinder, window_seconds: float = windows.MAX_WINDOW_SECONDS) -> None:
        self.voice: Renderer | None = voice
        self.pitch = pitch
        self.window_seconds = window_seconds

    @classmethod
    def load(cls, options: ModelOptions, pretrain_dir: Path = Path("pretrain")) -> Svc:
        """Load what the options name, with torch or, where they name a folder of graphs, with onnxruntime.

        Args:
            pretrain_dir: where encoders, f0 predictors and the enhancer's vocoder are; graphs come with their own.

        Raises:
            UserError: a file is missing or broken, or parts do not fit together.
        """
        networks = open_networks(options, pretrain_dir)
        voice = load_voice(networks, options)
        pitch = PitchFinder(
            voice.sample_rate,
            voice.hop_length,
            networks.device,
            pretrain_dir,
            networks.watches_range,
            networks.get_predictor,
        )
        return cls(voice, pitch)

    @property
    def speakers(self) -> dict[str, int]:
        """Name -> id of the loaded model."""
        return self._voice().speakers

    @property
    def n_speakers(self) -> int:
        """Rows of the speaker embedding; not all of them need a name."""
        return self._voice().n_speakers

    @property
    def sample_rate(self) -> int:
        """Hz of the results."""
        return self._voice().sample_rate

    def unload(self) -> None:
        """Give the memory of model, encoder and predictors back."""
        self.voice = None
        clear_cache()
        gc.collect()
        torch = sys.modules.get("torch")  # the ONNX path has not got it
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()

    def resolve_speaker(self, speaker: str | int | SpeakerMix) -> Speaker:
        """The id of a speaker, by name or number; a mix stays what it is. Raises UserError for an unknown one."""
        if isinstance(speaker, SpeakerMix):
            return speaker
        return speaker_id(speaker, self.speakers, self.n_speakers)

    def check(self, options: InferenceOptions) -> None:
        """Refuse options out of range, and what the loaded voice cannot do. Raises UserError."""
        options.check()
        self._voice().check(options)

    def convert_file(
        self,
        source: Path,
        target: Path,
        speaker: str | int | SpeakerMix,
        options: InferenceOptions | None = None,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> Report:
        """Convert a file into another; the suffix of ``target`` decides its format.

        The result has round(duration * sample_rate) samples. It appears under its name when it is whole.

        Args:
            source: any rate, any number of channels (averaged), any length.
            speaker: name or id, or a mix over the song.
            progress: called with the share that is done.
            cancel: set it to stop.

        Raises:
            UserError: the source is no audio, or an option is out of range.
            Cancelled: by ``cancel``.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        with AudioSpool(target.parent) as spool:
            blocks = stream_audio(source, self.sample_rate)
            with audio_writer(target, self.sample_rate) as emit:
                return self._convert(spool, blocks, emit, speaker, options, progress, cancel)

    def convert(
        self,
        audio: np.ndarray,
        speaker: str | int | SpeakerMix,
        options: InferenceOptions | None = None,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> tuple[np.ndarray, Report]:
        """Convert mono float32 [T] at ``sample_rate`` in memory; gives float32 [T]. Raises as convert_file."""
        out = np.zeros(len(audio), dtype=np.float32)
        position = 0

        def emit(block: np.ndarray) -> None:
            nonlocal position
            out[position : position + len(block)] = block
            position += len(block)

        with AudioSpool() as spool:
            report = self._convert(spool, [audio], emit, speaker, options, progress, cancel)
        return out, report

    def _voice(self) -> Renderer:
        if self.voice is None:
            raise RuntimeError("the voice was unloaded")
        return self.voice

    def _convert(
        self,
        spool: AudioSpool,
        blocks: Iterable[np.ndarray],
        emit: Emit,
        speaker: str | int | SpeakerMix,
        options: InferenceOptions | None,
        progress: Progress | None,
        cancel: Cancel | None,
    ) -> Report:
        options = options or InferenceOptions()
        self.check(options)
        singer, stop = self.resolve_speaker(speaker), _stopper(cancel)
        chunks, lost = self._slice(spool, blocks, options, stop)
        song_f0 = SongF0(spool.length, self._voice().hop_length)
        job = _Job(spool, options, singer, stop, SongRange(self.pitch, options), song_f0)
        report = Report(seconds=spool.length / self.sample_rate, f0=song_f0.f0)

        def measure_and_emit(block: np.ndarray) -> None:
            peak = float(np.abs(block).max(initial=0.0))
            if not np.isfinite(peak):
                fix = "use another checkpoint; a model that was mixed or trained until it broke cannot be mended"
                raise UserError("the model makes NaN or infinite samples", "--model_path", fix)
            report.peak = max(report.peak, peak)
            emit(block)

        adder = OverlapAdder(measure_and_emit)
        rate = self.sample_rate
        for piece in windows.plan_pieces(
            chunks, rate, options.clip, options.linear_gradient, options.linear_gradient_retain
        ):
            for start, audio in self._sing(piece, job):
                adder.add(start, audio)
                if progress is not None:
                    progress((start + len(audio)) / spool.length)
        adder.finish(spool.length)
        report.warnings += [line for line in (lost, job.song_range.message()) if line]
        if report.peak > 1.0:
            report.warnings.append(f"the result is up to {20 * np.log10(report.peak):.1f} dB over full scale")
        return report

    def _slice(
        self, spool: AudioSpool, blocks: Iterable[np.ndarray], options: InferenceOptions, stop: Callable[[], None]
    ) -> tuple[list[Chunk], str]:
        """Put the song on disk and find its silences on the way; gives them, and what to tell of them."""
        curve = slicing_curve(self.sample_rate)
        for block in blocks:
            stop()
            spool.extend([block])
            curve.push(block)
        rms = curve.finish()
        chunks = slice_rms(rms, spool.length, self.sample_rate, threshold_db=options.slice_db)
        chunks = [mark_silent(chunk, rms, curve.hop, options.slice_db) for chunk in chunks]
        return chunks, left_silent(chunks, rms, curve.hop, options.slice_db)

    def _sing(self, piece: Piece, job: _Job) -> Iterator[tuple[int, np.ndarray]]:
        """Convert a piece; gives positions in the song and audio, faded, to be added up."""
        voice, options = self._voice(), job.options
        pad = round(options.pad_seconds * voice.sample_rate)
        padded = windows.pad_piece(piece, pad, voice.hop_length, voice.sample_rate)
        read = partial(read_piece, job.spool, piece, padded.offset)
        origin = piece.start - padded.offset  # position in the song of sample 0 of the padded piece
        contour = self._contour(read, padded, job)
        job.song_f0.fill_in(contour, origin, piece.start, piece.stop)
        contour = F0Contour(contour.f0 * 2.0 ** (options.trans / 12), contour.uv)
        for window in self._windows(read, padded, contour):
            job.stop()
            first = window.first * voice.hop_length
            last = padded.n_samples if window.last == padded.n_frames else window.last * voice.hop_length
            seen = WindowInput(
                read(first, last),
                contour.f0[window.first : window.last],
                contour.uv[window.first : window.last],
                self._who(job, origin + first, window.last - window.first),
            )
            audio = voice.render(seen, options)
            kept = audio[window.keep_start - first : window.keep_stop - first]
            kept = kept * windows.fade_weights(len(kept), window.fade_in, window.fade_out)
            yield from _trim(origin + window.keep_start, kept, piece)

    def _contour(self, read: Callable[[int, int], np.ndarray], padded: PaddedPiece, job: _Job) -> F0Contour:
        options = job.options
        contour = self.pitch.contour(read, padded.n_frames, padded.n_samples, options, job.stop)
        if self.pitch.watches_range and not options.auto_predict_f0:
            job.song_range.update(read, contour)
        return contour

    def _windows(self, read: Callable[[int, int], np.ndarray], padded: PaddedPiece, contour: F0Contour) -> list[Window]:
        voice = self._voice()
        rate, hop = voice.sample_rate, voice.hop_length
        loudness = np.zeros(padded.n_frames)
        if padded.n_frames * hop > self.window_seconds * rate:
            loudness = _frame_loudness(read, padded.n_frames, hop)
        return windows.plan_windows(padded.n_frames, hop, rate, loudness, contour.f0, contour.uv, self.window_seconds)

    def _who(self, job: _Job, first: int, n_frames: int) -> int | np.ndarray:
        """The id of the speaker, or the weights of all at each frame of the song's own time line."""
        if not isinstance(job.speaker, SpeakerMix):
            return job.speaker
        middle = first + (np.arange(n_frames) + 0.5) * self._voice().hop_length
        return job.speaker.weights(middle / job.spool.length)


def _stopper(cancel: Cancel | None) -> Callable[[], None]:
    def stop() -> None:
        if cancel is not None and cancel.is_set():
            raise Cancelled

    return stop


def mark_silent(chunk: Chunk, rms: np.ndarray, hop: int, threshold_db: float) -> Chunk:
    """A chunk that the slicer left whole although nothing in it is loud enough is silent as well."""
    loudest = rms[chunk.start // hop : -(-chunk.stop // hop) + 1].max(initial=0.0)
    return Chunk(chunk.start, chunk.stop, chunk.silent or bool(loudest < 10 ** (threshold_db / 20)))


def left_silent(chunks: Sequence[Chunk], rms: np.ndarray, hop: int, threshold_db: float) -> str:
    """What to tell the user where much of what can be heard is silent in the result; empty where all is well.

    Args:
        rms: [F] of the song, a frame each ``hop`` samples.
    """
    loudest = float(rms.max(initial=0.0))
    if loudest < 10 ** (NOTHING_DB / 20):
        return ""
    heard = rms >= loudest * 10 ** (-HEARD_DB / 20)
    silent = np.zeros(len(rms), dtype=bool)
    for chunk in chunks:
        silent[chunk.start // hop : -(-chunk.stop // hop)] = chunk.silent
    share = float((heard & silent).sum() / heard.sum())
    if share <= WORTH_A_WARNING:
        return ""
    lower = max(SILENT_DB, math.floor((20 * math.log10(loudest) - HEARD_DB) / 10) * 10)
    what = f"{share:.0%} of what can be heard is quieter than --slice_db {threshold_db:g} and left silent"
    return f"{what}; try -sd {lower:g}"


def _frame_loudness(read: Callable[[int, int], np.ndarray], n_frames: int, hop_length: int) -> np.ndarray:
    """[n_frames] dB, read a little at a time."""
    loudness = np.full(n_frames, SILENT_DB)
    for start in range(0, n_frames, 1000):
        stop = min(start + 1000, n_frames)
        frames = read(start * hop_length, stop * hop_length).reshape(-1, hop_length)
        power = np.square(frames, dtype=np.float64).mean(axis=1)
        loudness[start:stop] = 10 * np.log10(np.maximum(power, 10 ** (SILENT_DB / 10)))
    return loudness


def _trim(start: int, audio: np.ndarray, piece: Piece) -> Iterator[tuple[int, np.ndarray]]:
    """The part of a window that the piece keeps, with the fades of the piece on it."""
    first, last = max(start, piece.keep_start), min(start + len(audio), piece.keep_stop)
    if first >= last:
        return
    kept = audio[first - start : last - start]
    into, left = first - piece.keep_start, piece.keep_stop - last
    if into < piece.fade_in or left < piece.fade_out:
        weights = windows.fade_weights(piece.keep_stop - piece.keep_start, piece.fade_in, piece.fade_out)
        kept = kept * weights[into : into + len(kept)]
    yield first, kept
