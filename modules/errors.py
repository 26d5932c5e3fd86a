"""The one exception for mistakes a user can mend."""

from __future__ import annotations


class UserError(Exception):
    """A mistake the user can mend, in three parts.

    Args:
        what: what went wrong, with the value that was found.
        where: the file, config key or flag it concerns.
        fix: what the user can do about it.
    """

    def __init__(self, what: str, where: object = "", fix: str = "") -> None:
        super().__init__(what, str(where), fix)  # the arguments that an unpickled copy is made from
        self.what = what
        self.where = str(where)
        self.fix = fix

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.fix:
            lines.append(f"  to do: {self.fix}")
        return "\n".join(lines)
