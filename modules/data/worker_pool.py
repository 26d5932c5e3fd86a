"""Many files through worker processes: one bad file does not stop the others, a full disk stops them all."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from modules.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")
ItemIn = TypeVar("ItemIn", contravariant=True)
ResultOut = TypeVar("ResultOut", covariant=True)

# Every further file would fail in the same way.
_FATAL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class CannotStart(UserError):
    """A mistake that concerns every item, such as missing weights; it ends the batch."""


class Setup(Protocol[ItemIn, ResultOut]):
    """Makes the function that a worker applies to every item; models are loaded here, once a worker.

    It is pickled to the workers. ``worker`` counts them from 0.
    """

    def __call__(self, worker: int) -> Callable[[ItemIn], ResultOut]: ...


@dataclass(frozen=True)
class Failure:
    """Why an item could not be done."""

    reason: str


@dataclass(frozen=True)
class _Fatal:
    """An error after which the other items need not be tried."""

    error: BaseException


def process_count(wanted: int, items: int) -> int:
    """How many worker processes to use: ``wanted`` (0 = one a core), never more than items, at least 1."""
    return max(1, min(wanted or os.cpu_count() or 1, items))


def run_all(
    setup: Setup[Item, Result], items: Sequence[Item], processes: int, debug: bool = False
) -> Iterator[tuple[Item, Result | Failure]]:
    """Apply a function to every item and yield each with its result or failure, in the order they end.

    With one process all of it happens in this one. Ctrl-C and errors that concern all items end the workers.

    Args:
        processes: worker processes; see process_count.
        debug: print the traceback of each failure.

    Raises:
        UserError: the setup cannot be made (missing weights), or a worker died.
        OSError: the disk is full or cannot be written.
    """
    if processes <= 1:
        worker = _Worker(setup, 0, debug)
        for item in items:
            yield item, _settled(worker(item))
        return
    yield from _run_in_pool(setup, items, processes, debug)


def _settled(outcome: Result | Failure | _Fatal) -> Result | Failure:
    if isinstance(outcome, _Fatal):
        raise outcome.error
    return outcome


def _run_in_pool(
    setup: Setup[Item, Result], items: Sequence[Item], processes: int, debug: bool
) -> Iterator[tuple[Item, Result | Failure]]:
    # spawn: CUDA and the threads of numerical libraries do not survive a fork
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(processes, context, _start_worker, (setup, context.Value("i", 0), debug))
    finished = False
    try:
        with _ctrl_c_ignored():  # the workers start here and inherit it
            futures = {pool.submit(_work, item): item for item in items}
        for future in as_completed(futures):
            yield futures[future], _settled(future.result())
        finished = True
    except BrokenProcessPool:
        raise UserError(
            "a worker process died; most often there was not enough memory",
            "--num_processes",
            "start the same command again with fewer processes; what is done stays done",
        ) from None
    finally:
        pool.shutdown(wait=finished, cancel_futures=True)
        if not finished:
            for child in set(multiprocessing.active_children()) - others:
                child.terminate()


class _Worker(Generic[Item, Result]):
    """The function of one worker, made at the first item so that its errors reach the parent as a result."""

    def __init__(self, setup: Setup[Item, Result], number: int, debug: bool) -> None:
        self.setup = setup
        self.number = number
        self.debug = debug
        self.function: Callable[[Item], Result] | None = None

    def __call__(self, item: Item) -> Result | Failure | _Fatal:
        if self.function is None:
            try:
                self.function = self.setup(self.number)
            except (UserError, OSError) as error:
                return _Fatal(error)
        try:
            return self.function(item)
        except Exception as error:  # a batch goes on past whatever is wrong with one file
            if is_fatal(error):
                return _Fatal(error)
            if self.debug:
                traceback.print_exc()
            return Failure(reason(error))


def is_fatal(error: Exception) -> bool:
    """Whether every further item would fail in the same way: no weights, a full disk."""
    return isinstance(error, CannotStart) or (isinstance(error, OSError) and error.errno in _FATAL_ERRNOS)


def reason(error: Exception) -> str:
    """One line that says why an item failed."""
    if isinstance(error, UserError):
        return "; ".join(part for part in (error.what, error.fix) if part)
    return str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


_worker: _Worker[Any, Any] | None = None
_stopping = False
_busy = False  # with an item; at all other times the worker talks to its queues and must not be torn from that


def _start_worker(setup: Setup[Any, Any], counter: Any, debug: bool) -> None:
    global _worker
    with counter.get_lock():
        number = counter.value
        counter.value += 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends the workers
    signal.signal(signal.SIGTERM, _stop)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker = _Worker(setup, number, debug)


def _stop(*_: object) -> None:
    """Leave the item at hand, so that its half-written temporary files are removed, and take no other.

    The pool then ends the worker. A second signal comes from a pool that is broken and can not.
    """
    global _stopping
    if _stopping:
        os._exit(143)
    _stopping = True
    if _busy:
        sys.exit(143)


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(item: Any) -> Any:
    global _busy
    assert _worker is not None
    _busy = True
    try:
        return Failure("stopped") if _stopping else _worker(item)
    finally:
        _busy = False
