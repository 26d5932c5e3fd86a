"""Runs the commands of the train tab one after the other, in a process that outlives the page and its server.

    python -m modules.web.train.runner < plan.json

It holds a lock as long as it lives, so that a server that was started later knows that something runs; it writes
what becomes of each command into <step>.json and its output into <step>.log; and it looks for a file that asks it to
stop. The commands come by standard input and are never read from a file that somebody may have sent.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import BaseModel

from modules.cli import EXIT_OK, EXIT_SOME_FAILED
from modules.files import write_text

LOCK_NAME = ".keeper.lock"
STOP_NAME = ".stop"  # how often the user has asked: 1 finish and save, 2 leave the work, 3 kill
POLL_SECONDS = 0.1
LOCK_SECONDS = 10.0  # a server that only looks holds the lock for a moment
KILL_AT = 3


class Record(BaseModel):
    """What is known about the last run of a step; times are seconds since 1970."""

    step: str
    command: list[str]
    started: float | None = None  # None: it waits for the step before it
    ended: float | None = None
    code: int | None = None  # None with an end: it never started
    stopped: bool = False  # the user had asked for it

    def write(self, folder: Path) -> None:
        """Put it where the page looks."""
        write_text(folder / f"{self.step}.json", self.model_dump_json(indent=1) + "\n")


class Plan(BaseModel):
    """What the process is to do.

    Attributes:
        folder: of the records.
        cwd: of the commands.
        jobs: in their order; one that fails ends the plan.
    """

    folder: Path
    cwd: Path
    jobs: list[Record]


def main() -> int:
    """Run the plan of the standard input."""
    plan = Plan.model_validate_json(sys.stdin.buffer.read())
    with FileLock(plan.folder / LOCK_NAME, timeout=LOCK_SECONDS):
        run_plan(plan)
    return EXIT_OK


def run_plan(plan: Plan) -> None:
    """Run the commands until one fails or a stop is asked for."""
    stops = StopRequests(plan.folder / STOP_NAME)
    going = True
    with stops.also_by_signal():
        for job in plan.jobs:
            if going:
                job.started = time.time()
                job.write(plan.folder)
                job.code = run(job, plan, stops)
                going = job.code in (EXIT_OK, EXIT_SOME_FAILED) and not stops.count()
            job.ended = time.time()
            job.stopped = stops.count() > 0
            job.write(plan.folder)


class StopRequests:
    """How often the user has asked to stop, through the file or by a signal to this process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.signals = 0

    def count(self) -> int:
        """0 as long as all may go on."""
        return max(self.signals, read_stops(self.path))

    @contextlib.contextmanager
    def also_by_signal(self) -> Iterator[None]:
        """Pass on what a shutdown of the machine sends, and end after the child has saved."""

        def receive(*_: Any) -> None:
            self.signals += 1

        before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def read_stops(path: Path) -> int:
    """How often a stop was asked for through the file."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def run(job: Record, plan: Plan, stops: StopRequests) -> int:
    """Run one command; returns its exit code, or minus the signal that ended it."""
    with (plan.folder / f"{job.step}.log").open("wb") as log:
        try:
            child = subprocess.Popen(
                job.command,
                cwd=plan.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # one group with its workers: Ctrl-C then reaches all of them, as in a terminal
            )
        except OSError as error:
            log.write(f"error: {error}\n".encode())
            return 127
        sent = 0
        while child.poll() is None:
            time.sleep(POLL_SECONDS)
            while sent < stops.count() and child.poll() is None:
                sent += 1
                interrupt(child, kill=sent >= KILL_AT)
        return child.returncode


def interrupt(child: subprocess.Popen[bytes], kill: bool) -> None:
    """Ctrl-C to a child and its workers, or the end of them all."""
    if os.name == "nt":
        if kill:
            child.kill()
        else:  # reaches whoever shares the hidden console: the child, and ourselves, who only count it
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)
            os.kill(0, signal.CTRL_C_EVENT)  # type: ignore[attr-defined]
            time.sleep(POLL_SECONDS)
            signal.signal(signal.SIGINT, before)
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL if kill else signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
