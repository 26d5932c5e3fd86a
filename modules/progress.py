"""Progress with an ETA for long work; one plain line now and then where there is no terminal."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")
PLAIN_INTERVAL = float(os.environ.get("PROGRESS_SECONDS", "30"))  # between lines in a log file


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield ``items`` while showing how far the work is, how fast it goes and when it ends."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr.isatty():
        yield from _track_on_terminal(items, description, total)
    else:
        yield from _track_in_log(items, description, total)


def bar_on_terminal(items: Sequence[T], description: str) -> Iterable[T]:
    """``items`` with a bar that goes away at the end, also inside another one; without a terminal nothing is shown."""
    if not sys.stderr.isatty():
        return items
    return _bar_on_terminal(items, description)


def _bar_on_terminal(items: Sequence[T], description: str) -> Iterator[T]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=_console(), transient=True) as progress:
        yield from progress.track(items, total=len(items), description=description)


@functools.cache
def _console() -> Console:
    """One console for all bars: only then can one of them stand below another."""
    from rich.console import Console

    return Console(stderr=True)


@contextlib.contextmanager
def meter(description: str) -> Iterator[Callable[[float], None]]:
    """Show the progress of work that tells which share of it (0 to 1) is done, with the time left."""
    if not sys.stderr.isatty():
        start = last = time.monotonic()

        def write_line(share: float) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= PLAIN_INTERVAL and share > 0:
                last = now
                left = format_seconds((now - start) * (1 / share - 1))
                print(f"{description}: {100 * share:.0f} %, about {left} left", file=sys.stderr, flush=True)

        yield write_line
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_console(), transient=True) as progress:
        task = progress.add_task(description, total=1.0)
        yield lambda share: progress.update(task, completed=share)


def _track_on_terminal(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_console()) as progress:
        yield from progress.track(items, total=total, description=description)


def _track_in_log(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    start = last = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last >= PLAIN_INTERVAL:
            last = now
            print(f"{description}: {count}{_remaining(count, total, now - start)}", file=sys.stderr, flush=True)


def _remaining(count: int, total: int | None, elapsed: float) -> str:
    if not total:
        return ""
    return f" of {total}, about {format_seconds(elapsed / count * (total - count))} left"


def format_seconds(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"
