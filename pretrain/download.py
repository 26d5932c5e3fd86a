"""One file over HTTP: resumed where it was cut, given up soon where nothing answers."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import requests
from urllib3.exceptions import MaxRetryError

from modules.text_formats import read_as

MAX_BYTES = 8 * 2**30  # the largest weights there are have 3 GB
CHUNK = 1 << 15  # bytes; a cut loses what came of the last chunk
COME_BACK = (429, 500, 502, 503, 504)  # the server may answer better in a moment
PLAIN_INTERVAL = float(os.environ.get("PROGRESS_SECONDS", "10"))  # between lines in a log file


class DownloadError(Exception):
    """Why an address did not give the file."""


class _TryAgain(Exception):
    """The next request may go better."""


@dataclass(frozen=True)
class Patience:
    """How long a download waits, in seconds, and how often it tries again without having got any further."""

    connect: float = 5.0
    read: float = 10.0
    attempts: int = 3
    pause: float = 1.0


@dataclass(frozen=True)
class Origin:
    """What the server said of the file when its first bytes came; later bytes must be of the same file."""

    total: int | None = None  # bytes
    validator: str = ""  # strong ETag, or date of the last change

    @classmethod
    def of(cls, response: requests.Response) -> Origin:
        """What a response that starts at byte 0 says."""
        length, tag = response.headers.get("Content-Length", ""), response.headers.get("ETag", "")
        validator = response.headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag
        return cls(int(length) if length.isdigit() else None, validator)

    def save(self, note: Path) -> None:
        """Note it beside a part."""
        note.write_text(json.dumps(asdict(self)), encoding="utf-8")


def download(url: str, part: Path, patience: Patience | None = None) -> None:
    """Fetch ``url`` into ``part``, going on from what lies there already.

    Raises:
        DownloadError: the address does not give the file; what came stays in ``part`` for the next try.
    """
    patience = patience or Patience()
    failures, answered = 0, False
    while True:
        before = _size(part)
        try:
            return _request(url, part, patience)
        except (requests.RequestException, _TryAgain) as error:
            got_further = _size(part) > before
            answered = answered or got_further or isinstance(error, _TryAgain)
            failures = 1 if got_further else failures + 1
            if failures >= patience.attempts or (not answered and _unreachable(error)):
                raise DownloadError(_reason(error)) from None
            time.sleep(patience.pause * failures)


def _request(url: str, part: Path, patience: Patience) -> None:
    note = part.with_name(part.name + ".json")
    origin = read_as(Origin, note)  # what was noted beside a part
    have = _size(part) if origin else 0
    headers = {"Accept-Encoding": "identity"}
    if have and origin:
        headers["Range"] = f"bytes={have}-"
        if origin.validator:
            headers["If-Range"] = origin.validator
    timeout = (patience.connect, patience.read)
    with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
        status = response.status_code
        if url.startswith("https:") and not all(hop.url.startswith("https:") for hop in (*response.history, response)):
            raise DownloadError("leads to an address without https")
        if status in COME_BACK:
            raise _TryAgain(f"answers {status}")
        if status == 206 and origin and _continues(response, have, origin):
            _receive(response, part, origin.total)
        elif status == 200:
            part.unlink(missing_ok=True)
            Origin.of(response).save(note)
            _receive(response, part, Origin.of(response).total)
        elif status in (206, 416) and have:
            if status == 206 or have != _range_total(response):
                part.unlink(missing_ok=True)
                raise _TryAgain("the part that was there is of another file")
        else:
            raise DownloadError(f"answers {status}")
    note.unlink(missing_ok=True)


def _continues(response: requests.Response, have: int, origin: Origin) -> bool:
    start = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    total = _range_total(response)
    return have > 0 and start == str(have) and (origin.total is None or total in (None, origin.total))


def _range_total(response: requests.Response) -> int | None:
    total = response.headers.get("Content-Range", "").rpartition("/")[2]
    return int(total) if total.isdigit() else None


def _receive(response: requests.Response, part: Path, total: int | None) -> None:
    with part.open("ab") as file, _progress(part.name, file.tell(), total) as advance:
        for chunk in response.iter_content(CHUNK):
            if file.tell() + len(chunk) > MAX_BYTES:
                raise DownloadError(f"gives more than {MAX_BYTES / 2**30:.0f} GiB, which no weights have")
            file.write(chunk)
            advance(len(chunk))
    if total is not None and _size(part) != total:
        raise _TryAgain(f"the server ended at byte {_size(part)} of {total}")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _unreachable(error: Exception) -> bool:
    """No name, no route, no answer: trying again in a second will not help."""
    return isinstance(error, requests.Timeout) or bool(error.args and isinstance(error.args[0], MaxRetryError))


def _reason(error: Exception) -> str:
    if isinstance(error, _TryAgain):
        return str(error)
    if isinstance(error, requests.TooManyRedirects):
        return "redirects without end"
    if isinstance(error, requests.Timeout):
        return "does not answer"
    if isinstance(error, (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        return "cannot be reached" if _unreachable(error) else "cut the connection"
    return str(error)


@contextlib.contextmanager
def _progress(name: str, start: int, total: int | None) -> Iterator[Callable[[int], None]]:
    if not sys.stderr.isatty():
        yield _lines(name, start, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(name, total=total, completed=start)
        yield lambda count: progress.advance(task, count)


def _lines(name: str, start: int, total: int | None) -> Callable[[int], None]:
    done, last = start, time.monotonic()
    of = f" of {total / 1e6:.0f}" if total else ""

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        if time.monotonic() - last >= PLAIN_INTERVAL:
            last = time.monotonic()
            print(f"{name}: {done / 1e6:.0f}{of} MB", file=sys.stderr, flush=True)

    return advance
