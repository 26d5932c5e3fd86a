"""Atomic writes: a killed run leaves no half file under a final name, and its temporary files go at the next start."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import os
import re
import socket
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

NAME_BYTES = 180  # of a target's name in that of its temporary file; file systems allow 255 in all
MAX_RATIO = 5  # of what an archive may unfold to and its size
DAY = 24 * 3600.0  # seconds
_TEMPORARY = re.compile(r"\..+\.(?P<host>[0-9a-f]{6})-(?P<process>\d+)-\w{8}(\.\w+)?")


@contextlib.contextmanager
def atomic_path(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``target`` that replaces it when the block ends well.

    The temporary name starts with a dot and keeps the suffix of ``target``, so that writers which choose a
    format by suffix work and listings that skip hidden files never see it. When the block raises, the
    temporary file is removed and ``target`` is as it was.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent)
    name = target.name.encode()[:NAME_BYTES].decode(errors="ignore")
    prefix = f".{name}.{_host()}-{os.getpid()}-"
    handle, path = tempfile.mkstemp(prefix=prefix, suffix=target.suffix, dir=target.parent)
    os.close(handle)
    temporary = Path(path)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        with contextlib.suppress(OSError):  # shares and cloud drives that know no modes
            temporary.chmod(0o666 & ~umask)  # mkstemp makes private files; a result is an ordinary file
        temporary.replace(target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, name):
            error.filename = str(target)  # what the user knows; a full disk names nothing
        raise


@functools.lru_cache(maxsize=4096)  # once a folder and process: a folder of clips is large
def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files of processes that are gone, as those of a run that was killed while it wrote."""
    with contextlib.suppress(OSError):
        for path in folder.glob(".*"):
            match = _TEMPORARY.fullmatch(path.name)
            if match and _is_left_over(path, match["host"], int(match["process"])):
                path.unlink(missing_ok=True)


def _is_left_over(path: Path, host: str, process: int) -> bool:
    if time.time() - path.stat().st_mtime > DAY:
        return True
    if host != _host() or sys.platform == "win32":  # another machine's process; there, kill would end it
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return _is_zombie(process)


def _is_zombie(process: int) -> bool:
    """Whether a process is gone but for its number, which nobody has asked for; only Linux tells."""
    with contextlib.suppress(OSError, IndexError):
        status = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace")
        return status.rpartition(")")[2].split()[0] == "Z"
    return False


@functools.cache
def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]


def unfolds_too_far(archive: zipfile.ZipFile, size: int) -> bool:
    """Whether a zip of ``size`` bytes holds much more than that packed: weights and numbers hardly pack at all."""
    return sum(entry.file_size for entry in archive.infolist()) > MAX_RATIO * size + 2**20


def numbered(path: Path) -> Iterator[Path]:
    """``path`` and, without end, the same with _2, _3 and so on before the suffix."""
    yield path
    for number in itertools.count(2):
        yield path.with_name(f"{path.stem}_{number}{path.suffix}")


def write_text(target: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` to ``target`` atomically, as UTF-8 with line feeds."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_bytes(target: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``target`` atomically."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(data)
