"""The voices that are loaded: pages that want the same one share it, and take turns."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modules.inference.options import ModelOptions
from modules.web.convert.worker import POLL, ConversionEvent, ConversionJob, Progress, Stopped, VoiceFacts, VoiceProcess

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
        """The loaded voice of these options; what the session held before is released.

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
            with _turn(voice, cancel):
                self._start(voice, pretrain, cancel)
        except BaseException:
            self.release(session)
            raise
        return voice

    def convert(self, voice: PooledVoice, job: ConversionJob, pretrain: Path, cancel: Any) -> Iterator[ConversionEvent]:
        """As VoiceProcess.convert, when it is this job's turn; a process that was ended is started again."""
        while not voice.busy.acquire(timeout=POLL):
            if cancel.is_set():
                raise Stopped
            yield Progress(0.0)
        try:
            process = self._start(voice, pretrain, cancel)
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

    def _start(self, voice: PooledVoice, pretrain: Path, cancel: Any) -> VoiceProcess:
        if voice.process is None or not voice.process.alive:
            voice.process = VoiceProcess(voice.options, pretrain)
            voice.facts = voice.process.load(cancel)
        return voice.process


class _turn:
    """Wait until nobody else uses a voice, or until ``cancel`` is set."""

    def __init__(self, voice: PooledVoice, cancel: Any) -> None:
        self.voice, self.cancel = voice, cancel

    def __enter__(self) -> None:
        while not self.voice.busy.acquire(timeout=POLL):
            if self.cancel.is_set():
                raise Stopped

    def __exit__(self, *error: object) -> None:
        self.voice.busy.release()


def _stamps(options: ModelOptions) -> tuple[int, ...]:
    """Times of the files: a model that was written anew is another one."""
    paths = (options.model_path, options.config_path, options.diffusion_model_path, options.cluster_path())
    return tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in paths)
