"""Writes that may fail: a network drive comes back, space is freed, and the training of a night goes on."""

from __future__ import annotations

from collections.abc import Callable

from modules.cli import describe_os_error
from modules.errors import UserError

LIMIT = 3  # failures in a row


class PatientWrites:
    """Counts failed writes of each kind, and says when it is enough.

    Args:
        say: prints a line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._failures: dict[str, int] = {}
        self.error: UserError | None = None  # of the write that failed once too often: training should end

    def attempt(self, what: str, write: Callable[[], object], again: str = "at the next log line") -> bool:
        """Call ``write``; tells whether it went well.

        Args:
            what: is written; the word it is counted by.
            again: when it is tried again.
        """
        try:
            write()
        except OSError as error:
            self._failures[what] = self._failures.get(what, 0) + 1
            told = describe_os_error(error)
            if self._failures[what] >= LIMIT:
                whole = f"{what} could not be written {LIMIT} times in a row: {told.what}"
                self.error = self.error or UserError(whole, told.where, told.fix)
            else:
                self._say(f"warning: {what} could not be written ({told.what}: {told.where}); tried again {again}")
            return False
        self._failures[what] = 0
        return True
