"""A loaded voice in a process of its own.

The server answers while networks and f0 predictors compute, a conversion that does not react can be stopped by ending
its process, and unloading gives all memory back, that of the GPU included.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sys
import time
import traceback
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from modules.errors import UserError
from modules.inference.options import InferenceOptions, ModelOptions

if TYPE_CHECKING:
    import numpy as np

    from modules.inference.speaker_mix import SpeakerMix
    from modules.inference.svc import Svc

Value = TypeVar("Value")
POLL = 0.1  # seconds
GRACE = 0.7  # seconds that a conversion gets to stop by itself
CONVERSION_SHARE = 0.95  # of the progress; the rest is copies and the picture
LONGEST_FOR_COPIES = 20 * 60  # seconds of audio that are written in other formats too


@dataclass(frozen=True)
class VoiceFacts:
    """What the page shows of a loaded voice."""

    speakers: dict[str, int]
    n_speakers: int
    sample_rate: int
    device: str


@dataclass(frozen=True)
class ConversionJob:
    """One song to convert.

    Attributes:
        source, target: files; the suffix of ``target`` decides its format.
        copies: where the result is written in other formats, unless it is very long.
        picture: where the PNG of both spectrograms goes.
    """

    source: Path
    target: Path
    speaker: str | SpeakerMix
    options: InferenceOptions
    copies: tuple[Path, ...] = ()
    picture: Path | None = None


@dataclass(frozen=True)
class ConversionResult:
    """What became of a song.

    Attributes:
        seconds: of audio.
        elapsed: seconds that it took.
        warnings: for the user.
        copies: those of the job that were written.
    """

    seconds: float
    elapsed: float
    warnings: tuple[str, ...]
    copies: tuple[Path, ...]


@dataclass(frozen=True)
class Progress:
    """How far a conversion is, 0 to 1."""

    share: float


@dataclass(frozen=True)
class Waiting:
    """Nothing is converted yet: the voice is loading, or another page is using it."""

    reason: Literal["loading", "in-line"]


ConversionEvent = Progress | Waiting | ConversionResult


class VoiceProcessError(Exception):
    """The process of a voice broke down; the message is its traceback."""


class Stopped(Exception):
    """The conversion was cancelled."""


def finish(work: Generator[Any, None, Value]) -> Value:
    """What a generator returns at its end; what it yields is dropped."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            value: Value = end.value
            return value


class VoiceProcess:
    """Starts the process; ``load`` waits for the model.

    Args:
        options: which model, where and how.
        pretrain: the folder of the pretrained weights.
    """

    def __init__(self, options: ModelOptions, pretrain: Path) -> None:
        context = _context()
        self.options = options
        self._pipe, theirs = context.Pipe()
        self._flag = context.RawValue("b", 0)  # without a lock, which a killed process could hold for ever
        arguments = (theirs, self._flag, options, pretrain)
        self.process = context.Process(target=_serve, args=arguments, daemon=True, name="voice")
        self.process.start()
        theirs.close()

    @property
    def alive(self) -> bool:
        """Whether it can be given a job."""
        return self.process.is_alive()

    def load(self, cancel: Any = None) -> VoiceFacts:
        """Wait for the model, as ``loading`` does."""
        return finish(self.loading(cancel))

    def loading(self, cancel: Any = None) -> Generator[Waiting, None, VoiceFacts]:
        """Yield now and then until the model is there.

        Raises:
            UserError: it cannot be loaded.
            Stopped: ``cancel`` was set.
        """
        while not self._has_answer():
            yield Waiting("loading")
            if cancel is not None and cancel.is_set():
                self.close()
                raise Stopped
        answer = self._receive()
        if isinstance(answer, Exception):
            self.close()
            raise answer
        assert isinstance(answer, VoiceFacts)
        return answer

    def convert(self, job: ConversionJob, cancel: Any) -> Iterator[ConversionEvent]:
        """Yield Progress now and then, also where nothing moved, and at last the ConversionResult.

        Args:
            cancel: an event; when it is set the conversion stops, within GRACE by itself or else with the process.

        Raises:
            UserError: as Svc.convert_file, or the process ended.
            Stopped: by ``cancel``.
        """
        self._flag.value = 0
        self._pipe.send(job)
        share, answered = 0.0, False
        try:
            while not cancel.is_set():
                if not self._has_answer():
                    yield Progress(share)
                    continue
                answer = self._receive()
                if isinstance(answer, Progress):
                    share = answer.share
                    continue
                answered = True
                if isinstance(answer, Exception):
                    raise answer
                yield answer
                return
        except UserError:
            if not cancel.is_set():
                raise
        finally:  # also where nobody wants the rest any more
            if not answered:
                self._stop()
        raise Stopped

    def _stop(self) -> None:
        """Ask the conversion to stop, and end the process if it does not in time."""
        self._flag.value = 1
        deadline = time.monotonic() + GRACE
        try:
            while time.monotonic() < deadline:
                if self._has_answer() and not isinstance(self._receive(), Progress):
                    return
        except (UserError, Stopped):
            pass
        self.close()

    def close(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.join()
        with contextlib.suppress(OSError):
            self._pipe.close()

    def _has_answer(self) -> bool:
        try:
            return self._pipe.poll(POLL)
        except OSError:  # another page's thread has closed it
            raise Stopped from None

    def _receive(self) -> Any:
        try:
            return self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join(5)
            fix = "it may have been out of memory: close other programs, or choose a smaller model or another device"
            what = f"the process of the model ended (exit code {self.process.exitcode})"
            raise UserError(what, self.options.model_path, fix) from None


def _context() -> Any:
    """How processes start. On Linux they are copies of one that has torch imported, and begin seconds earlier."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["modules.inference.networks", "modules.web.convert.spectrogram"])
    return context


def _serve(pipe: Connection, flag: Any, options: ModelOptions, pretrain: Path) -> None:
    """The other process: load, then do one job after the other until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to handle
    with contextlib.suppress(BrokenPipeError, EOFError):
        try:
            svc, facts = _load(options, pretrain)
        except Exception as error:
            pipe.send(_sendable(error))
            return
        pipe.send(facts)
        while True:
            job = pipe.recv()
            pipe.send(_answer(svc, job, pipe, _Flag(flag)))


class _Flag:
    def __init__(self, value: Any) -> None:
        self._value = value

    def is_set(self) -> bool:
        return bool(self._value.value)


def _load(options: ModelOptions, pretrain: Path) -> tuple[Svc, VoiceFacts]:
    from modules.inference.svc import Svc

    svc = Svc.load(options, pretrain)
    device = str(getattr(svc.voice, "device", None) or "cpu")
    return svc, VoiceFacts(svc.speakers, svc.n_speakers, svc.sample_rate, device)


def _answer(svc: Svc, job: ConversionJob, pipe: Connection, cancel: _Flag) -> ConversionResult | Exception | None:
    from modules.inference.svc import Cancelled

    start = time.monotonic()
    try:
        report = svc.convert_file(
            job.source,
            job.target,
            job.speaker,
            job.options,
            lambda share: pipe.send(Progress(CONVERSION_SHARE * min(1.0, share))),
            cancel,
        )
        elapsed = time.monotonic() - start
        copies = job.copies if report.seconds <= LONGEST_FOR_COPIES else ()
        for copy in copies:
            _copy(job.target, copy)
        if cancel.is_set():
            return None
        if job.picture is not None:
            _draw(svc, job, report.f0)
        return ConversionResult(report.seconds, elapsed, tuple(report.warnings), copies)
    except Cancelled:
        return None
    except Exception as error:
        return _sendable(error)


def _sendable(error: Exception) -> Exception:
    """The error as one that the other process can unpickle: a UserError, or the traceback of anything else."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError):
        return UserError(error.strerror or str(error), error.filename or "")
    return VoiceProcessError("".join(traceback.format_exception(error)))


def _copy(source: Path, target: Path) -> None:
    from modules.audio.io import audio_info, audio_writer, stream_audio

    rate = audio_info(source).sample_rate
    with audio_writer(target, rate) as write:
        for block in stream_audio(source, rate):
            write(block)


def _draw(svc: Svc, job: ConversionJob, f0: np.ndarray) -> None:
    from modules.web.convert.spectrogram import Panel, draw

    panels = [Panel(job.source, f0), Panel(job.target, _f0_of(svc, job.target))]
    assert job.picture is not None
    draw(panels, svc.sample_rate, job.picture)


def _f0_of(svc: Svc, path: Path) -> np.ndarray:
    """The melody of a result, by the quickest predictor, for the eye."""
    from modules.audio.io import stream_audio
    from modules.inference.assembly import AudioSpool

    with AudioSpool(path.parent) as spool:
        spool.extend(stream_audio(path, svc.sample_rate))
        frames = spool.length // svc.pitch.hop_length
        options = InferenceOptions(f0_predictor="pm")
        contour = svc.pitch.contour(spool.read, frames, spool.length, options, lambda: None)
    track: np.ndarray = contour.f0 * contour.uv
    return track
