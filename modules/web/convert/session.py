"""What a page has chosen, loaded and converted, without a word about its looks."""

from __future__ import annotations

import shlex
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modules.config import Config, load_config, load_diffusion_config, parse_config
from modules.errors import UserError
from modules.inference.names import result_name, song_stem
from modules.inference.options import WAV_FORMATS, InferenceOptions, ModelOptions
from modules.inference.speaker_mix import SpeakerMix
from modules.options import flags
from modules.web.catalog import Catalog, Choice, list_models
from modules.web.convert.pool import LoadedVoice, Voices
from modules.web.convert.worker import Job, Outcome, Progress, Stopped
from modules.web.state import Session, Studio

DOWNLOADS = ("wav", "flac", "mp3")
MIX_NAME = "spk_mix"


@dataclass(frozen=True)
class Wish:
    """One click on Convert.

    Attributes:
        mix: the speaker mix; None where ``speaker`` sings.
        tracks: the same as in spkmix.py.
    """

    name: str
    model: ModelOptions
    speaker: str
    options: InferenceOptions
    audio_format: str
    mix: SpeakerMix | None = None
    tracks: dict[str, list[list[float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """A converted song.

    Attributes:
        saved: the file in results/.
        files: the same for the browser, by format.
    """

    title: str
    source: Path
    saved: Path
    files: dict[str, Path]
    picture: Path
    outcome: Outcome
    command: str
    mix: str


@dataclass
class SongState:
    """A row of the queue."""

    name: str
    status: str = "waiting"  # running, done, failed, cancelled
    share: float = 0.0
    elapsed: float = 0.0
    error: Exception | None = None
    warnings: tuple[str, ...] = ()


class Names:
    """Names of results that nobody else has taken or is about to take."""

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


class Desk:
    """The work of one page; ``Desk.of`` gives the page's own."""

    def __init__(self, studio: Studio, session: Session) -> None:
        self.studio, self.session = studio, session
        self.voices = studio.shared(Voices)
        self.uploads: dict[str, Choice] = {}
        self.voice: LoadedVoice | None = None
        self.results: dict[str, Result] = {}
        self.speech: Path | None = None
        self.queue: list[SongState] = []
        self.cancel = threading.Event()
        self._busy = threading.Lock()
        session.at_end(self.close)

    @classmethod
    def of(cls, studio: Studio, session: Session) -> Desk:
        """The desk of a session."""
        return session.keep(cls, lambda: cls(studio, session))

    def catalog(self) -> Catalog:
        """What this page can choose."""
        return list_models(self.studio, self.uploads.values())

    def load(self, options: ModelOptions) -> LoadedVoice:
        """Load a voice, or share it. Raises UserError, Stopped."""
        if self._busy.locked():
            raise UserError("this page is converting", "", "wait, or cancel it first")
        self.cancel.clear()
        return self.load_if_needed(options)

    def unload(self) -> None:
        """Stop what runs, and let go of the voice."""
        self.cancel.set()
        self.voice = None
        self.voices.let_go(self.session.id)

    def close(self) -> None:
        """The page is gone."""
        self.unload()

    def convert(self, wish: Wish, songs: Sequence[Path]) -> Iterator[list[SongState]]:
        """Convert songs one after the other; yields the queue as it changes. A bad song does not stop the others.

        Raises:
            UserError: no songs, or the page is converting already.
        """
        if not songs:
            raise UserError("there is no song", "", "choose a file, record one, or let one be spoken")
        if not self._busy.acquire(blocking=False):
            raise UserError("this page is already converting", "", "wait, or cancel it first")
        try:
            self.cancel.clear()
            self.queue = [SongState(song_stem(song)) for song in songs]
            yield self.queue
            for song, state in zip(songs, self.queue, strict=True):
                yield from self._convert(wish, song, state)
        finally:
            self._busy.release()

    def _convert(self, wish: Wish, song: Path, state: SongState) -> Iterator[list[SongState]]:
        if self.cancel.is_set():
            state.status = "cancelled"
            yield self.queue
            return
        state.status = "running"
        yield self.queue
        try:
            yield from self._convert_one(wish, song, state)
        except Stopped:
            state.status = "cancelled"
        except Exception as error:
            state.status, state.error = "failed", error
        yield self.queue

    def _convert_one(self, wish: Wish, song: Path, state: SongState) -> Iterator[list[SongState]]:
        voice = self.load_if_needed(wish.model)
        who = MIX_NAME if wish.mix is not None else wish.speaker
        name = result_name(song, who, wish.model, wish.options, wish.audio_format)
        names = self.studio.shared(Names)
        saved = names.reserve(self.studio.folder("results") / name)
        own = self.session.folder / f"{len(self.results)}"
        try:
            files = {kind: own / f"{saved.stem}.{kind}" for kind in dict.fromkeys((wish.audio_format, *DOWNLOADS))}
            picture = own / "picture.png"
            copies = tuple(path for kind, path in files.items() if kind != wish.audio_format)
            speaker: Any = wish.mix if wish.mix is not None else wish.speaker
            job = Job(song, files[wish.audio_format], speaker, wish.options, copies, picture)
            for event in self.voices.convert(voice, job, self.studio.pretrain, self.cancel):
                if isinstance(event, Progress):
                    state.share = event.share
                    yield self.queue
                    continue
                written = {kind: path for kind, path in files.items() if path == job.target or path in event.copies}
                self._keep(wish, song, saved, written, picture, event)
                state.status, state.elapsed, state.warnings = "done", event.elapsed, event.warnings
        except BaseException:
            shutil.rmtree(own, ignore_errors=True)
            raise
        finally:
            names.release(saved)

    def load_if_needed(self, options: ModelOptions) -> LoadedVoice:
        """The voice of these options; waits for it where another page is using it."""
        self.voice = self.voices.hold(options, self.studio.pretrain, self.session.id, self.cancel)
        return self.voice

    def _keep(
        self, wish: Wish, song: Path, saved: Path, files: dict[str, Path], picture: Path, outcome: Outcome
    ) -> None:
        from modules.files import atomic_path

        with atomic_path(saved) as temporary:
            shutil.copyfile(files[wish.audio_format], temporary)
        speaker = None if wish.mix is not None else wish.speaker
        home = self.studio.home
        command = command_line(home, wish.model, wish.options, song.name, speaker, wish.audio_format)
        mix = mix_text(wish.tracks) if wish.mix is not None else ""
        self.results[saved.name] = Result(saved.name, song, saved, files, picture, outcome, command, mix)


def model_options(
    choice: Choice,
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
        UserError: a diffusion model or cluster file that the choice has not got.
    """
    values: dict[str, Any] = {"device": device, "precision": precision, "enhance": enhance}
    if choice.onnx is not None:
        values["onnx"] = choice.onnx
    if choice.model is not None:
        values["model_path"] = choice.model
    if choice.config is not None:
        values["config_path"] = choice.config
    if diffusion_mode != "none":
        found = next((one for one in choice.diffusions if one.name == diffusion), None)
        if found is None:
            raise UserError(
                "no diffusion model is chosen", choice.name, "choose one, add it to the folder, or switch diffusion off"
            )
        values |= {"diffusion_model_path": found.model, "diffusion_config_path": found.config}
        values |= {"only_diffusion": True} if diffusion_mode == "only" else {"shallow_diffusion": True}
        values["enhance"] = enhance and diffusion_mode == "only"
    blend = next((one for one in choice.clusters if one.name == cluster), None)
    if cluster is not None and blend is None:
        raise UserError(f"there is no cluster or index {cluster!r}", choice.name, "choose one of the list")
    if blend is not None:
        values |= {"cluster_model_path": blend.path, "feature_retrieval": blend.retrieval}
    return ModelOptions(**values)


def check_wish(wish: Wish) -> None:
    """Refuse what cannot be, before anything is loaded. Raises UserError."""
    if wish.audio_format not in WAV_FORMATS:
        raise UserError(f"there is no format {wish.audio_format!r}", "", f"use one of {', '.join(WAV_FORMATS)}")
    if wish.options.cluster_infer_ratio and wish.model.cluster_model_path is None:
        raise UserError(
            f"a timbre blend of {wish.options.cluster_infer_ratio:g} needs a cluster or index file",
            "",
            "choose one, or set the blend to 0",
        )


def config_of(choice: Choice) -> Config | None:
    """The config of a model; None where it has none. Raises UserError where it cannot be read."""
    if choice.config is not None:
        return load_config(choice.config)
    if choice.model is not None:
        from modules.checkpoint import safetensors_metadata

        text = safetensors_metadata(choice.model).get("config")
        return parse_config(text, choice.model) if text is not None else None
    return None


def speakers_of(choice: Choice) -> dict[str, int]:
    """Name -> id of the speakers of a model that need not be loaded. Raises UserError."""
    if choice.onnx is not None:
        from modules.onnx.manifest import Manifest

        return dict(Manifest.load(choice.onnx).speakers)
    config = config_of(choice)
    if config is not None:
        return dict(config.spk)
    return dict(load_diffusion_config(choice.diffusions[0].config).spk) if choice.diffusions else {}


def command_line(
    home: Path, model: ModelOptions, options: InferenceOptions, song: str, speaker: str | None, audio_format: str
) -> str:
    """inference_main.py with every flag that is not at its default.

    Args:
        home: paths inside it are written relative to it.
        song: name of the song in raw/.
        speaker: who sings; None is the mix of spkmix.py.
    """
    words: list[str] = ["python", "inference_main.py", *flags(model, home), "-n", song]
    words += ["-usm"] if speaker is None else ["-s", speaker]
    words += flags(options, home)
    words += [] if audio_format == "flac" else ["-wf", audio_format]
    return shlex.join(words)


def mix_text(tracks: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """The lines of spkmix.py for a mix."""
    lines = [f"    {speaker!r}: {[list(row) for row in rows]}," for speaker, rows in tracks.items()]
    return "\n".join(["spk_mix_map = {", *lines, "}"])
