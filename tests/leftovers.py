"""Temporary files as killed processes leave them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from modules.files import remove_leftovers
from tests.conftest import ROOT

CODE = (
    "import os, sys; from modules.files import atomic_path; "
    "writer = atomic_path(sys.argv[1]); writer.__enter__(); os._exit(9)"
)


def left_by_a_killed_process(target: Path) -> Path:
    """The temporary file of a process that was killed while it wrote ``target``."""
    before = set(target.parent.iterdir())
    assert subprocess.run([sys.executable, "-c", CODE, str(target)], cwd=ROOT, check=False).returncode == 9
    (left,) = set(target.parent.iterdir()) - before
    remove_leftovers.cache_clear()  # as in the next process
    return left
