"""One training a folder: two would write, and delete, the same files."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from modules.errors import UserError
from modules.files import write_text
from modules.training.distributed import Ranks

LOCK_NAME = ".train.lock"
HOLDER_NAME = ".train.pid"
WAIT_SECONDS = 6.0  # the loading processes of a killed run, which hold its lock too, end within five


@contextlib.contextmanager
def only_training(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Inside this context no other process trains in ``folder``; the first rank holds the lock for all.

    The system frees the lock when the process ends, however it does.

    Raises:
        UserError: on all ranks, where another process trains there.
    """
    with contextlib.ExitStack() as held:
        taken = ranks.is_first and not _take(folder, held)
        if ranks.highest([taken])[0]:
            what = f"{folder} is being trained by {_holder(folder)}"
            raise UserError(what, folder / LOCK_NAME, "wait for it or end it with Ctrl-C, or train another model")
        yield


def _take(folder: Path, held: contextlib.ExitStack) -> bool:
    try:
        # A soft lock, where the file system has no other, would stay after a kill.
        held.enter_context(FileLock(folder / LOCK_NAME, timeout=WAIT_SECONDS, fallback_to_soft=False))
    except Timeout:
        return False
    except (OSError, NotImplementedError) as error:  # some network file systems have no locks
        print(f"warning: {folder} cannot be locked ({error}); train it with one process at a time", flush=True)
        return True
    write_text(folder / HOLDER_NAME, f"process {os.getpid()} of {socket.gethostname()}\n")
    return True


def _holder(folder: Path) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return (folder / HOLDER_NAME).read_text(encoding="utf-8").strip() or "another process"
    return "another process"
