"""Ends a run in good order: Ctrl-C and SIGTERM ask for it, and so does a limit of minutes."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any


class StopSignals:
    """Inside this context the first SIGINT or SIGTERM only sets ``received``; a second one acts as usual.

    Args:
        max_minutes: ``expired`` turns true after so long; None for no limit.
    """

    def __init__(self, max_minutes: float | None = None) -> None:
        self.received: signal.Signals | None = None
        self.deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def expired(self) -> bool:
        """Whether the minutes are up."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # python allows handlers only there
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()


def leave_signals_to_parent(worker_id: int) -> None:
    """For the workers of a DataLoader: Ctrl-C reaches them too, but the training process decides.

    SIGTERM gets its default back, because the parent ends its workers with it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
