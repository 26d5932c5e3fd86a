"""Scripts of the project, run for a page: their lines as they come, and what went wrong in three parts."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from modules.errors import UserError
from modules.web.folders import script_environment
from modules.web.state import Session

Words = list[str | Path]
ERROR = "error: "
WHERE, TO_DO = "  where: ", "  to do: "
LAST_LINES = 15


def command_text(arguments: Sequence[str | Path], work_dir: Path) -> str:
    """What a user would type in ``work_dir``."""
    words = [str(word).replace(f"{work_dir}{os.sep}", "") for word in arguments]
    return shlex.join(["python", *words])


def run_script(session: Session, arguments: Sequence[str | Path], extra: Sequence[str | Path] = ()) -> Iterator[str]:
    """Run ``python`` with the arguments in the user's folder; yields its lines. It ends with the page.

    Args:
        arguments: a script or ``-m`` and a module of the project, and its arguments.
        extra: arguments that a user who types the command in that folder would not need.

    Raises:
        UserError: what the script says went wrong.
    """
    code_dir = session.folders.code_dir
    words = [str(word) for word in arguments]
    if words[0].endswith(".py"):
        words[0] = str(code_dir / words[0])
    process = subprocess.Popen(
        [sys.executable, *words, *(str(word) for word in extra)],
        cwd=session.folders.work_dir,
        env=script_environment(code_dir),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    session.at_end(process.kill)
    lines: list[str] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            yield lines[-1]
        if process.wait():
            raise error_of(lines, process.returncode)
    finally:
        process.kill()
        process.wait()


def error_of(lines: Sequence[str], code: int) -> UserError:
    """What a script that failed says in its last lines."""
    starts = [number for number, line in enumerate(lines) if line.startswith(ERROR)]
    if not starts:
        return UserError("\n".join(lines[-LAST_LINES:]) or f"the script ended with exit code {code}")
    what, where, fix = [], "", ""
    for line in lines[starts[-1] :]:
        if line.startswith(WHERE):
            where = line.removeprefix(WHERE)
        elif line.startswith(TO_DO):
            fix = line.removeprefix(TO_DO)
        else:
            what.append(line.removeprefix(ERROR))
    return UserError("\n".join(what), where, fix)
