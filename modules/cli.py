"""What every script does the same way: --debug, error messages, exit codes, the report of a batch."""

from __future__ import annotations

import argparse
import errno
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from modules.errors import UserError

EXIT_OK = 0
EXIT_SOME_FAILED = 1
EXIT_CANNOT_START = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def make_parser(description: str) -> argparse.ArgumentParser:
    """An argument parser with --debug and defaults shown in the help."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def positive_int(text: str) -> int:
    """An argument that must be a whole number over 0."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not over 0")
    return value


def positive_float(text: str) -> float:
    """An argument that must be a number over 0."""
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{value} is not over 0")
    return value


GOES_ON = "start the same command again to go on"


def run(body: Callable[[argparse.Namespace], int], args: argparse.Namespace, interrupted: str = GOES_ON) -> int:
    """Call ``body(args)`` and turn what a user can cause into a message and an exit code.

    Args:
        interrupted: what to tell after a Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show must not end the work
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return body(args)
    except UserError as error:
        if args.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return EXIT_CANNOT_START
    except KeyboardInterrupt:
        print(f"interrupted; {interrupted}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except OSError as error:
        if args.debug or error.errno is None:  # without a number it is no word of the system's
            raise
        print(f"error: {describe_os_error(error)}", file=sys.stderr)
        return EXIT_CANNOT_START


_FIXES = {
    "free some space and start the same command again; nothing that was finished is lost": ("ENOSPC", "EDQUOT"),
    "check who may write there": ("EACCES", "EPERM", "EROFS"),
    "check the path": ("ENOENT", "ENOTDIR", "ELOOP"),
    "give the path of a file, not of a folder": ("EISDIR",),
    "choose a shorter name": ("ENAMETOOLONG",),
    "close other programs and start the same command again": ("EMFILE", "ENFILE", "ENOMEM"),
}


def describe_os_error(error: OSError) -> UserError:
    """The three-part message for what the system refused: a full disk, a folder that may not be written, and so on."""
    name = errno.errorcode.get(error.errno or 0, "")
    drive = "see that the drive is there and sound, and start the same command again"
    fix = next((fix for fix, names in _FIXES.items() if name in names), drive)
    return UserError(error.strerror or str(error), error.filename2 or error.filename or "", fix)


@dataclass
class BatchReport:
    """Counts what a batch did and lists what it skipped and why.

    A batch goes on past a bad item; ``finish`` prints the list and gives the exit code.
    """

    noun: str = "file"
    done: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)

    def ok(self, count: int = 1) -> None:
        """Count finished items."""
        self.done += count

    def skip(self, item: object, reason: str) -> None:
        """Note an item that was left out on purpose; it does not make the batch fail."""
        self.skipped.append((str(item), reason))

    def fail(self, item: object, error: BaseException | str) -> None:
        """Note an item that could not be done; the batch ends with exit code 1."""
        self.failed.append((str(item), str(error)))

    def finish(self) -> int:
        """Print the summary; return 0 when all went well, 1 when some items failed."""
        print(f"{self.done} {self.noun}(s) done, {len(self.skipped)} skipped, {len(self.failed)} failed")
        for title, rows in (("skipped", self.skipped), ("failed", self.failed)):
            for item, reason in rows:
                print(f"  {title}: {item}: {reason}", file=sys.stderr)
        return EXIT_SOME_FAILED if self.failed else EXIT_OK
