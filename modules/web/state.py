"""What the server keeps between clicks: its folders, one Session a browser page, and what all pages share."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr

T = TypeVar("T")


@dataclass
class Session:
    """One open page. It ends when the page is closed or loaded anew.

    Attributes:
        folder: its own temporary files; they go when it ends.
        debug: whether errors show their traceback.
    """

    id: str
    folder: Path
    debug: bool = False
    _kept: dict[type, Any] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _at_end: list[Callable[[], None]] = field(default_factory=list)

    def keep(self, kind: type[T], make: Callable[[], T] | None = None) -> T:
        """The session's one object of a class; made by ``make()`` or ``kind()`` when first asked for."""
        with self._lock:
            if kind not in self._kept:
                self._kept[kind] = (make or kind)()
            kept: T = self._kept[kind]
            return kept

    def at_end(self, action: Callable[[], None]) -> None:
        """Call ``action`` when the page is closed."""
        self._at_end.append(action)

    def end(self) -> None:
        """Run what was to be run at the end, and delete the session's files."""
        for action in self._at_end:
            action()
        shutil.rmtree(self.folder, ignore_errors=True)


class Studio:
    """The one object behind all pages of a server.

    Args:
        home: the folder with trained/, logs/, raw/, results/ and, where it is there, pretrain/.
        code: the folder of the scripts.
        scratch: uploads and the temporary files of sessions; the server deletes it at its end.
    """

    def __init__(self, home: Path, code: Path, scratch: Path) -> None:
        self.home = home.resolve()
        self.code = code.resolve()
        self.scratch = scratch.resolve()
        self._sessions: dict[str, Session] = {}
        self._shared: dict[type, Any] = {}
        self._lock = threading.RLock()

    def folder(self, name: str) -> Path:
        """A folder of the user's: trained, logs, results, ..."""
        return self.home / name

    @property
    def pretrain(self) -> Path:
        """Pretrained weights: the user's where there are some, else those beside the scripts."""
        own = self.home / "pretrain"
        return own if own.is_dir() else self.code / "pretrain"

    def shared(self, kind: type[T], make: Callable[[], T] | None = None) -> T:
        """The server's one object of a class: it lives on when pages are closed or loaded anew."""
        with self._lock:
            if kind not in self._shared:
                self._shared[kind] = (make or kind)()
            kept: T = self._shared[kind]
            return kept

    def session(self, request: gr.Request) -> Session:
        """The session of the page that sent a request."""
        name = request.session_hash or "none"
        with self._lock:
            if name not in self._sessions:
                self._sessions[name] = Session(name, Path(tempfile.mkdtemp(prefix="session-", dir=self.scratch)))
            return self._sessions[name]

    def end_session(self, request: gr.Request) -> None:
        """The page was closed."""
        with self._lock:
            session = self._sessions.pop(request.session_hash or "none", None)
        if session is not None:
            session.end()

    def end(self) -> None:
        """The server stops."""
        with self._lock:
            sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            session.end()
        for kept in self._shared.values():
            close = getattr(kept, "close", None)
            if close is not None:
                close()
