"""What the server keeps between clicks: one Session for each open page, and what all pages share."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import gradio as gr

from modules.web.convert.pool import VoicePool
from modules.web.convert.session import ConversionSession, ResultNames
from modules.web.folders import Folders
from modules.web.train.jobs import TrainingState

IDLE_SECONDS = 600.0  # after which a session without an open page ends
SWEEP_SECONDS = 60.0


@dataclass
class Session:
    """One open page. It ends when the page is closed or loaded anew.

    Attributes:
        folder: its own temporary files; they go when it ends.
        conversion: what the convert tab has chosen, loaded and made.
        debug: whether errors show their traceback.
    """

    folder: Path
    folders: Folders
    conversion: ConversionSession
    debug: bool = False
    last_used: float = field(default_factory=time.monotonic)
    _at_end: list[Callable[[], None]] = field(default_factory=list)

    def at_end(self, action: Callable[[], None]) -> None:
        """Call ``action`` when the page is closed."""
        self._at_end.append(action)

    def end(self) -> None:
        """Unload the voice, run what was to be run at the end, and delete the session's files."""
        self.conversion.unload()
        for action in self._at_end:
            action()
        shutil.rmtree(self.folder, ignore_errors=True)


class ServerState:
    """The one object behind all pages of a server; see Folders for the arguments.

    Attributes:
        voices: loaded voices, shared by the sessions.
        training: jobs that prepare and train.
        result_names: names of results, shared likewise.
    """

    def __init__(self, work_dir: Path, code_dir: Path, scratch_dir: Path) -> None:
        self.folders = Folders(work_dir.resolve(), code_dir.resolve(), scratch_dir.resolve())
        self.voices = VoicePool()
        self.training = TrainingState(self.folders)
        self.result_names = ResultNames()
        self._sessions: dict[str, Session] = {}
        self._open: Counter[str] = Counter()  # pages by their sessions
        self._lock = threading.RLock()
        self._ended = threading.Event()
        threading.Thread(target=self._sweep_now_and_then, daemon=True, name="sweep").start()

    def session(self, request: gr.Request) -> Session:
        """The session of the page that sent a request."""
        name = request.session_hash or "none"
        with self._lock:
            if name not in self._sessions:
                folder = Path(tempfile.mkdtemp(prefix="session-", dir=self.folders.scratch_dir))
                conversion = ConversionSession(name, folder, self.folders, self.voices, self.result_names)
                self._sessions[name] = Session(folder, self.folders, conversion)
            session = self._sessions[name]
            session.last_used = time.monotonic()
            return session

    def page_opened(self, name: str) -> None:
        """The page of a session holds a connection."""
        with self._lock:
            self._open[name] += 1

    def page_closed(self, name: str) -> None:
        """It holds it no more."""
        with self._lock:
            self._open[name] -= 1
            self._open += Counter()  # drops what is at 0

    def sweep(self, now: float) -> None:
        """End the sessions that no open page belongs to: those of programs, and of browsers that broke down."""
        with self._lock:
            idle = [
                name
                for name, session in self._sessions.items()
                if name not in self._open and now - session.last_used > IDLE_SECONDS and not session.conversion.busy
            ]
            sessions = [self._sessions.pop(name) for name in idle]
        for session in sessions:
            session.end()

    def _sweep_now_and_then(self) -> None:
        while not self._ended.wait(SWEEP_SECONDS):
            self.sweep(time.monotonic())

    def end_session(self, request: gr.Request) -> None:
        """The page was closed."""
        with self._lock:
            session = self._sessions.pop(request.session_hash or "none", None)
        if session is not None:
            session.end()

    def end(self) -> None:
        """The server stops."""
        self._ended.set()
        with self._lock:
            sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            session.end()
        self.voices.close()
