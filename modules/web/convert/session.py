"""What a page has chosen, loaded and converted, apart from how it is shown."""

from __future__ import annotations

import shlex
import shutil
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from modules.errors import UserError
from modules.files import atomic_path
from modules.inference.names import result_name, song_stem
from modules.inference.options import WAV_FORMATS, InferenceOptions, ModelOptions
from modules.inference.speaker_mix import SpeakerMix
from modules.options import flags
from modules.web.catalog import BASE_NAME, Catalog, ModelEntry, list_models
from modules.web.convert.notes import note_command
from modules.web.convert.pool import PooledVoice, VoicePool
from modules.web.convert.worker import POLL, ConversionJob, Progress, Stopped, Waiting, finish
from modules.web.folders import Folders
from pretrain import BASE_DIR, BASE_GENERATOR

DOWNLOADS = ("wav", "flac", "mp3")
MIX_NAME = "spk_mix"


@dataclass(frozen=True)
class ConversionRequest:
    """One click on Convert.

    Attributes:
        mix: the speaker mix; None where ``speaker`` sings.
        tracks: the same as in spkmix.py.
    """

    model: ModelOptions
    speaker: str
    options: InferenceOptions
    audio_format: str
    mix: SpeakerMix | None = None
    tracks: dict[str, list[list[float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class ConvertedSong:
    """A converted song.

    Attributes:
        saved: the file in results/.
        files: the same for the browser, by format.
        command: the same as a command line.
        mix: what goes into spkmix.py for it; empty where one speaker sings.
    """

    source: Path
    saved: Path
    files: dict[str, Path]
    picture: Path
    command: str
    mix: str


@dataclass
class SongState:
    """A row of the queue."""

    name: str
    status: str = "waiting"  # loading, in-line, running, done, failed, cancelled
    share: float = 0.0
    started: float | None = None  # by time.monotonic
    elapsed: float = 0.0  # seconds since then
    error: Exception | None = None
    warnings: tuple[str, ...] = ()


class ResultNames:
    """ResultNames of results that nobody else has taken or is about to take."""

    def __init__(self) -> None:
        self._taken: set[Path] = set()
        self._lock = threading.Lock()

    def reserve(self, path: Path) -> Path:
        """``path``, or the same with _2, _3 and so on."""
        with self._lock:
            candidate, number = path, 1
            while candidate in self._taken or candidate.exists():
                number += 1
                candidate = path.with_name(f"{path.stem}_{number}{path.suffix}")
            self._taken.add(candidate)
            return candidate

    def release(self, path: Path) -> None:
        """It is written, or will not be."""
        with self._lock:
            self._taken.discard(path)


class ConversionSession:
    """The convert tab of one page.

    Args:
        name: of the session.
        folder: the session's temporary files.
        voices, names: shared with the other sessions.
    """

    def __init__(self, name: str, folder: Path, folders: Folders, voices: VoicePool, names: ResultNames) -> None:
        self.name, self.folder, self.folders = name, folder, folders
        self.voices, self.names = voices, names
        self.uploads: dict[str, ModelEntry] = {}
        self.voice: PooledVoice | None = None
        self.songs: dict[str, ConvertedSong] = {}
        self.speech: Path | None = None
        self.queue: list[SongState] = []
        self._cancels: list[threading.Event] = []  # one for each click on Convert whose songs are not done
        self._loading = threading.Event()
        self._busy = threading.Lock()

    @property
    def busy(self) -> bool:
        """Whether it converts, or is about to."""
        return bool(self._cancels)

    def catalog(self) -> Catalog:
        """What this page can choose."""
        return list_models(self.folders, self.uploads.values())

    def load(self, options: ModelOptions) -> PooledVoice:
        """Load a voice, or share it. Raises UserError, Stopped."""
        if self.busy:
            raise UserError("this page is converting", "", "wait, or cancel it first")
        self._loading.clear()
        return finish(self._acquire(options, self._loading))

    def cancel(self) -> None:
        """Stop what runs, and drop what waits."""
        for event in (self._loading, *self._cancels):
            event.set()

    def unload(self) -> None:
        """Stop what runs, and release the voice."""
        self.cancel()
        self.voice = None
        self.voices.release(self.name)

    def convert(self, request: ConversionRequest, songs: Sequence[Path]) -> Iterator[list[SongState]]:
        """Convert songs one after the other; yields the queue as it changes. A bad song does not stop the others.

        What is converting already comes first: the songs are put behind it.

        Raises:
            UserError: no songs.
        """
        if not songs:
            raise UserError("there is no song", "", "choose a file, record one, or let one be spoken")
        cancel, states = threading.Event(), [SongState(song_stem(song)) for song in songs]
        self.queue = [*self.queue, *states] if self.busy else states
        self._cancels.append(cancel)
        try:
            yield self.queue
            while not self._busy.acquire(timeout=POLL):
                yield self.queue
            try:
                for song, state in zip(songs, states, strict=True):
                    yield from self._convert(request, song, state, cancel)
            finally:
                self._busy.release()
        finally:
            self._cancels.remove(cancel)

    def _convert(
        self, request: ConversionRequest, song: Path, state: SongState, cancel: threading.Event
    ) -> Iterator[list[SongState]]:
        if cancel.is_set():
            state.status = "cancelled"
            yield self.queue
            return
        state.status, state.started = "loading", time.monotonic()
        yield self.queue
        try:
            yield from self._convert_one(request, song, state, cancel)
        except Stopped:
            state.status = "cancelled"
        except Exception as error:
            state.status, state.error = "failed", error
        yield self.queue

    def _acquire(self, options: ModelOptions, cancel: threading.Event) -> Generator[Waiting, None, PooledVoice]:
        """The voice of these options; waits for it where another page is using it."""
        self.voice = yield from self.voices.acquiring(options, self.folders.pretrain, self.name, cancel)
        return self.voice

    def _convert_one(
        self, request: ConversionRequest, song: Path, state: SongState, cancel: threading.Event
    ) -> Iterator[list[SongState]]:
        loading = self._acquire(request.model, cancel)
        while True:
            try:
                state.status = next(loading).reason
            except StopIteration as end:
                voice = end.value
                break
            yield self.queue
        who = MIX_NAME if request.mix is not None else request.speaker
        name = result_name(song, who, request.model, request.options, request.audio_format)
        saved = self.names.reserve(self.folders.of_user("results") / name)
        own = self.folder / f"{len(self.songs)}"
        try:
            files = {kind: own / f"{saved.stem}.{kind}" for kind in dict.fromkeys((request.audio_format, *DOWNLOADS))}
            picture = own / "picture.png"
            copies = tuple(path for kind, path in files.items() if kind != request.audio_format)
            speaker: Any = request.mix if request.mix is not None else request.speaker
            job = ConversionJob(song, files[request.audio_format], speaker, request.options, copies, picture)
            for event in self.voices.convert(voice, job, self.folders.pretrain, cancel):
                if isinstance(event, Waiting):
                    state.status = event.reason
                    yield self.queue
                    continue
                if isinstance(event, Progress):
                    state.status, state.share = "running", event.share
                    yield self.queue
                    continue
                written = {kind: path for kind, path in files.items() if path == job.target or path in event.copies}
                command = command_line(request, song.name, self.folders.work_dir)
                mix = mix_text(request.tracks) if request.mix is not None else ""
                self._keep(request, ConvertedSong(song, saved, written, picture, command, mix))
                state.status, state.warnings = "done", event.warnings
                state.elapsed = time.monotonic() - (state.started or 0.0)
        except BaseException:
            shutil.rmtree(own, ignore_errors=True)
            raise
        finally:
            self.names.release(saved)

    def _keep(self, request: ConversionRequest, song: ConvertedSong) -> None:
        """Copy what was made into results/, and remember it."""
        with atomic_path(song.saved) as temporary:
            shutil.copyfile(song.files[request.audio_format], temporary)
        note_command(song.saved, song.command)
        self.songs[song.saved.name] = song


def model_options(
    entry: ModelEntry,
    *,
    device: str | None,
    precision: str,
    enhance: bool,
    diffusion_mode: str,
    diffusion: str | None,
    cluster: str | None,
) -> ModelOptions:
    """What is to be loaded.

    Raises:
        UserError: a diffusion model or cluster file that the entry has not got.
    """
    values: dict[str, Any] = {"device": device, "precision": precision, "enhance": enhance}
    if entry.onnx is not None:
        values["onnx"] = entry.onnx
    if entry.model is not None:
        values["model_path"] = entry.model
    if entry.config is not None:
        values["config_path"] = entry.config
    if diffusion_mode != "none":
        found = next((one for one in entry.diffusions if one.name == diffusion), None)
        if found is None:
            raise UserError(
                "no diffusion model is chosen", entry.name, "choose one, add it to the folder, or switch diffusion off"
            )
        values |= {"diffusion_model_path": found.model, "diffusion_config_path": found.config}
        values |= {"only_diffusion": True} if diffusion_mode == "only" else {"shallow_diffusion": True}
        values["enhance"] = enhance and diffusion_mode == "only"
    blend = next((one for one in entry.clusters if one.name == cluster), None)
    if cluster is not None and blend is None:
        raise UserError(f"there is no cluster or index {cluster!r}", entry.name, "choose one of the list")
    if blend is not None:
        values |= {"cluster_model_path": blend.path, "feature_retrieval": blend.retrieval}
    return ModelOptions(**values)


def check_request(request: ConversionRequest) -> None:
    """Refuse what cannot be, before anything is loaded. Raises UserError."""
    if request.audio_format not in WAV_FORMATS:
        raise UserError(f"there is no format {request.audio_format!r}", "", f"use one of {', '.join(WAV_FORMATS)}")
    if request.options.cluster_infer_ratio and request.model.cluster_model_path is None:
        raise UserError(
            f"a timbre blend of {request.options.cluster_infer_ratio:g} needs a cluster or index file",
            "",
            "choose one, or set the blend to 0",
        )


def command_line(request: ConversionRequest, song: str, work_dir: Path) -> str:
    """inference_main.py with every flag that is not at its default.

    Args:
        song: name of the song in raw/.
        work_dir: paths inside it are written relative to it.
    """
    model = request.model
    if model.model_path == BASE_DIR / BASE_GENERATOR:
        model = replace(model, model_path=Path(BASE_NAME))
    named = [f"-n={song}"] if song.startswith("-") else ["-n", song]  # or it would be taken for a flag
    words = ["python", "inference_main.py", *flags(model, work_dir), *named]
    words += ["-usm"] if request.mix is not None else ["-s", request.speaker]
    words += flags(request.options, work_dir)
    words += [] if request.audio_format == WAV_FORMATS[0] else ["-wf", request.audio_format]
    return shlex.join(words)


def mix_text(tracks: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """The lines of spkmix.py for a mix."""
    lines = [f"    {speaker!r}: {[list(row) for row in rows]}," for speaker, rows in tracks.items()]
    return "\n".join(["spk_mix_map = {", *lines, "}"])
