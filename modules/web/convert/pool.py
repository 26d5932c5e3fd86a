"""The voices that are loaded: pages that want the same one share it, and take turns."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modules.inference.options import ModelOptions
from modules.web.convert.worker import (
    POLL,
    ConversionEvent,
    ConversionJob,
    Stopped,
    VoiceFacts,
    VoiceProcess,
    Waiting,
    finish,
)

Key = tuple[ModelOptions, tuple[int, ...]]


@dataclass
class PooledVoice:
    """A voice and the sessions that hold it. ``busy`` is held while it loads or converts."""

    options: ModelOptions
    process: VoiceProcess | None = None
    facts: VoiceFacts | None = None
    busy: threading.Lock = field(default_factory=threading.Lock)
    holders: set[str] = field(default_factory=set)


class VoicePool:
    """Loads a voice for the first session that acquires it, and unloads it when the last one releases it."""

    def __init__(self) -> None:
        self._loaded: dict[Key, PooledVoice] = {}
        self._lock = threading.Lock()

    def acquire(self, options: ModelOptions, pretrain: Path, session: str, cancel: Any) -> PooledVoice:
        """As ``acquiring``, without a word while it waits."""
        return finish(self.acquiring(options, pretrain, session, cancel))

    def acquiring(
        self, options: ModelOptions, pretrain: Path, session: str, cancel: Any
    ) -> Generator[Waiting, None, PooledVoice]:
        """The loaded voice of these options; what the session held before is released. Yields while it waits.

        Raises:
            UserError: it cannot be loaded.
            Stopped: ``cancel`` was set while it was loading.
        """
        key = (options, _stamps(options))
        with self._lock:
            voice = self._loaded.setdefault(key, PooledVoice(options))
            voice.holders.add(session)
        self.release(session, but=voice)
        try:
            yield from _turn(voice, cancel)
            try:
                yield from self._start(voice, pretrain, cancel)
            finally:
                voice.busy.release()
        except BaseException:
            self.release(session)
            raise
        return voice

    def convert(self, voice: PooledVoice, job: ConversionJob, pretrain: Path, cancel: Any) -> Iterator[ConversionEvent]:
        """As VoiceProcess.convert, when it is this job's turn; a process that was ended is started again."""
        yield from _turn(voice, cancel)
        try:
            process = yield from self._start(voice, pretrain, cancel)
            yield from process.convert(job, cancel)
        finally:
            voice.busy.release()

    def release(self, session: str, but: PooledVoice | None = None) -> None:
        """The session needs none of its voices any more, except ``but``; voices without a session are unloaded."""
        with self._lock:
            unused = []
            for key, voice in list(self._loaded.items()):
                if voice is not but:
                    voice.holders.discard(session)
                if not voice.holders:
                    unused.append(self._loaded.pop(key))
        for voice in unused:
            if voice.process is not None:
                voice.process.close()

    def close(self) -> None:
        """Unload all voices."""
        with self._lock:
            voices, self._loaded = list(self._loaded.values()), {}
        for voice in voices:
            if voice.process is not None:
                voice.process.close()

    def _start(self, voice: PooledVoice, pretrain: Path, cancel: Any) -> Generator[Waiting, None, VoiceProcess]:
        if voice.process is None or not voice.process.alive:
            voice.process = VoiceProcess(voice.options, pretrain)
            voice.facts = yield from voice.process.loading(cancel)
        return voice.process


def _turn(voice: PooledVoice, cancel: Any) -> Iterator[Waiting]:
    """Take ``busy``: wait until nobody else uses a voice. Raises Stopped where ``cancel`` is set."""
    while not voice.busy.acquire(timeout=POLL):
        if cancel.is_set():
            raise Stopped
        yield Waiting("loading" if voice.facts is None else "in-line")


def _stamps(options: ModelOptions) -> tuple[int, ...]:
    """Times of the files: a model that was written anew is another one."""
    paths = (options.model_path, options.config_path, options.diffusion_model_path, options.cluster_path())
    return tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in paths)
