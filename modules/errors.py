"""The one exception for mistakes a user can mend."""

from __future__ import annotations


def printable(text: object) -> str:
    """Text as it can be shown: control characters, which a terminal would obey, are written out."""
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode() for char in str(text)
    )


class UserError(Exception):
    """A mistake the user can mend, in three parts.

    Args:
        what: what went wrong, with the value that was found.
        where: the file, config key or flag it concerns.
        fix: what the user can do about it.
    """

    def __init__(self, what: str, where: object = "", fix: str = "") -> None:
        self.what = printable(what)
        self.where = printable(where)
        self.fix = printable(fix)
        super().__init__(self.what, self.where, self.fix)  # the arguments that an unpickled copy is made from

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.fix:
            lines.append(f"  to do: {self.fix}")
        return "\n".join(lines)
