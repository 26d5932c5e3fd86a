"""A disk of one megabyte."""

from __future__ import annotations

import contextlib
import errno
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from modules.audio import io as audio_io

SIZE = 1 << 20  # bytes


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """``folder`` on a file system of its own.

    Where none may be mounted, this process's writes into it fail as on a full one.
    """
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    mounted = shutil.which("mount") is not None and subprocess.run(command, capture_output=True).returncode == 0
    try:
        if mounted:
            yield folder
        else:
            with _full_disk_in_this_process(folder):
                yield folder
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def is_mounted(folder: Path) -> bool:
    """Whether other processes see the small disk too."""
    return folder.is_mount()


@contextlib.contextmanager
def _full_disk_in_this_process(folder: Path) -> Iterator[None]:
    used = 0

    def take(path: Any, size: int) -> None:
        nonlocal used
        if folder in Path(path).parents:
            used += size
            if used > SIZE:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))

    write_bytes, whole_write = Path.write_bytes, audio_io._WholeFile.write

    def limited_bytes(self: Path, data: bytes) -> int:
        take(self, len(data))
        return write_bytes(self, data)

    def limited_audio(self: audio_io._WholeFile, data: Any) -> int:
        try:
            take(self.name, len(memoryview(data)))
        except OSError as error:
            self.error = self.error or error
            return 0
        return whole_write(self, data)

    whole_file = mock.patch.object(audio_io._WholeFile, "write", limited_audio)
    with mock.patch.object(Path, "write_bytes", limited_bytes), whole_file:
        yield
