"""The folders that a server reads and writes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

PASSWORD_VARIABLE = "WEBUI_PASSWORD"


@dataclass(frozen=True)
class Folders:
    """Resolved paths.

    Attributes:
        work_dir: the user's folder with trained/, logs/, raw/, results/ and, where it is there, pretrain/.
        code_dir: the folder of the scripts.
        scratch_dir: uploads and the temporary files of sessions; the server deletes it at its end.
    """

    work_dir: Path
    code_dir: Path
    scratch_dir: Path

    def of_user(self, name: str) -> Path:
        """A folder of the user's: trained, logs, results, ..."""
        return self.work_dir / name

    @property
    def pretrain(self) -> Path:
        """Pretrained weights: the user's where there are some, else those beside the scripts."""
        own = self.work_dir / "pretrain"
        return own if own.is_dir() else self.code_dir / "pretrain"

    def shorten(self, where: str) -> str:
        """A place in a message: of the server's own files only the name, the user's from ``work_dir`` on."""
        if where.startswith(f"{self.scratch_dir}{os.sep}"):
            return where.rpartition(os.sep)[2]
        return where.replace(f"{self.work_dir}{os.sep}", "")


def script_environment(code_dir: Path) -> dict[str, str]:
    """The environment of a script that the page runs: it finds the project, tells its progress, has no password."""
    environment = {name: value for name, value in os.environ.items() if name != PASSWORD_VARIABLE}
    paths = [str(code_dir), *filter(None, [environment.get("PYTHONPATH")])]
    return {
        **environment,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
        "PROGRESS_SECONDS": "1",
        "COLUMNS": "160",
    }
