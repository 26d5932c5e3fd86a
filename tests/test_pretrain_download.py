"""Downloads of weights, against a server that behaves badly in every way we know."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from modules.errors import UserError
from pretrain.download import DownloadError, Patience, download
from pretrain.fetch import fetch, remembered, sha256_of
from pretrain.weights import Weight

QUICK = Patience(connect=1.0, read=0.5, attempts=3, pause=0.01)
BODY = bytes(range(256)) * 4096  # 1 MiB
SHA = hashlib.sha256(BODY).hexdigest()
ROOT = Path(__file__).resolve().parent.parent


class Server:
    """Answers with the function that a test gives; keeps the Range header of every request."""

    def __init__(self) -> None:
        self.ranges: list[str | None] = []
        self.answers: dict[str, Callable[[http.server.BaseHTTPRequestHandler, int], None]] = {}
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.ranges.append(self.headers.get("Range"))
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    outer.answers[self.path](self, len(outer.ranges))

            def log_message(self, *args: object) -> None: ...

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.http.server_port}{path}"

    def weight(self, path: str, sha256: str = SHA, size: int = len(BODY), **more: object) -> Weight:
        return Weight("thing", "thing.bin", size, "MIT", ("tests",), (self.url(path),), sha256, **more)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def answer(
    handler: http.server.BaseHTTPRequestHandler,
    body: bytes = BODY,
    status: int = 200,
    says: int | None = None,
    etag: str = '"one"',
    extra: dict[str, str] | None = None,
) -> None:
    """Send ``body`` while claiming ``says`` bytes, then close."""
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body) if says is None else says))
    if etag:
        handler.send_header("ETag", etag)
    for key, value in (extra or {}).items():
        handler.send_header(key, value)
    handler.end_headers()
    handler.wfile.write(body)
    handler.close_connection = True


def honest(handler: http.server.BaseHTTPRequestHandler, body: bytes = BODY, etag: str = '"one"') -> None:
    """A whole file, or the range that was asked for when the file is still the same one."""
    asked, guard = handler.headers.get("Range"), handler.headers.get("If-Range")
    if not asked or (guard and guard != etag):
        return answer(handler, body, etag=etag)
    start = int(asked.removeprefix("bytes=").rstrip("-"))
    if start >= len(body):
        return answer(handler, b"", 416, extra={"Content-Range": f"bytes */{len(body)}"})
    part = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
    return answer(handler, body[start:], 206, etag=etag, extra=part)


def assert_nothing_in_place(folder: Path) -> None:
    visible = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    assert visible == []


def test_file_arrives_whole_with_its_checksum_beside_it(server, tmp_path):
    server.answers["/f"] = lambda handler, count: honest(handler)
    path = fetch(server.weight("/f"), tmp_path, QUICK)
    assert path.read_bytes() == BODY and remembered(path) == SHA
    assert sorted(item.name for item in tmp_path.iterdir() if ".fetch" not in item.name) == [
        "thing.bin",
        "thing.bin.sha256",
    ]
    assert fetch(server.weight("/f"), tmp_path, QUICK) == path and len(server.ranges) == 1


def test_cut_connection_is_resumed_where_it_ended(server, tmp_path):
    def cut_twice(handler, count):
        if count == 1:
            return answer(handler, BODY[:300_000], says=len(BODY))
        if count == 2:
            start = int(handler.headers["Range"].removeprefix("bytes=").rstrip("-"))
            part = {"Content-Range": f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"}
            return answer(handler, BODY[start : start + 200_000], 206, says=len(BODY) - start, extra=part)
        return honest(handler)

    server.answers["/f"] = cut_twice
    assert fetch(server.weight("/f"), tmp_path, QUICK).read_bytes() == BODY
    starts = [int(asked.removeprefix("bytes=").rstrip("-")) for asked in server.ranges[1:]]
    assert server.ranges[0] is None and starts[0] > 0 and starts[1] > starts[0]


def test_server_without_ranges_gives_the_whole_file_again(server, tmp_path):
    server.answers["/f"] = lambda handler, count: answer(
        handler, BODY[:100_000] if count == 1 else BODY, says=len(BODY)
    )
    assert fetch(server.weight("/f"), tmp_path, QUICK).read_bytes() == BODY


def test_file_that_changed_between_two_parts_starts_over(server, tmp_path):
    new = BODY[::-1]

    def change(handler, count):
        return answer(handler, BODY[:300_000], says=len(BODY)) if count == 1 else honest(handler, new, '"two"')

    server.answers["/f"] = change
    path = fetch(server.weight("/f", hashlib.sha256(new).hexdigest()), tmp_path, QUICK)
    assert path.read_bytes() == new


def test_wrong_bytes_are_refused_and_leave_nothing(server, tmp_path):
    server.answers["/f"] = lambda handler, count: honest(handler, BODY[:-1] + b"!")
    with pytest.raises(UserError, match="other contents"):
        fetch(server.weight("/f"), tmp_path, QUICK)
    assert_nothing_in_place(tmp_path)
    assert not list(tmp_path.glob(".*.part"))


def test_first_digits_of_a_checksum_are_enough(server, tmp_path):
    server.answers["/f"] = lambda handler, count: honest(handler)
    assert fetch(server.weight("/f", SHA[:8]), tmp_path, QUICK).is_file()


@pytest.mark.parametrize("says", [2 * len(BODY), len(BODY) // 2], ids=["too long", "too short"])
def test_lying_length_never_puts_a_file_in_place(server, tmp_path, says):
    server.answers["/f"] = lambda handler, count: answer(handler, says=says)
    with pytest.raises(UserError, match="ended at byte|cut the connection|other contents"):
        fetch(server.weight("/f"), tmp_path, QUICK)
    assert_nothing_in_place(tmp_path)


def test_redirect_is_followed_and_a_loop_is_reported(server, tmp_path):
    def redirect(handler, count):
        handler.send_response(302)
        handler.send_header("Location", server.url("/loop" if handler.path == "/loop" else "/there"))
        handler.end_headers()

    server.answers.update({"/f": redirect, "/loop": redirect, "/there": lambda handler, count: honest(handler)})
    with pytest.raises(UserError, match="redirects without end"):
        fetch(server.weight("/loop"), tmp_path, QUICK)
    assert_nothing_in_place(tmp_path)
    assert fetch(server.weight("/f"), tmp_path, QUICK).read_bytes() == BODY


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (403, 1), (503, 3)])
def test_refusals_are_reported_with_their_number(server, tmp_path, status, requests):
    server.answers["/f"] = lambda handler, count: answer(handler, b"no", status)
    with pytest.raises(UserError, match=f"answers {status}"):
        fetch(server.weight("/f"), tmp_path, QUICK)
    assert len(server.ranges) == requests  # a 503 may pass, a 404 will not
    assert_nothing_in_place(tmp_path)


def test_busy_server_is_asked_again(server, tmp_path):
    server.answers["/f"] = lambda handler, count: answer(handler, b"", 503) if count == 1 else honest(handler)
    assert fetch(server.weight("/f"), tmp_path, QUICK).read_bytes() == BODY


def test_server_that_never_answers_is_given_up_within_seconds(server, tmp_path):
    server.answers["/f"] = lambda handler, count: time.sleep(5)
    start = time.monotonic()
    with pytest.raises(UserError, match="does not answer"):
        fetch(server.weight("/f"), tmp_path, QUICK)
    assert time.monotonic() - start < 2 * (QUICK.connect + QUICK.read)
    assert len(server.ranges) == 1


def test_server_that_stalls_in_the_middle_is_resumed(server, tmp_path):
    def stall(handler, count):
        if count > 1:
            return honest(handler)
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(BODY)))
        handler.send_header("ETag", '"one"')
        handler.end_headers()
        handler.wfile.write(BODY[:400_000])
        handler.wfile.flush()
        return time.sleep(2)

    server.answers["/f"] = stall
    assert fetch(server.weight("/f"), tmp_path, QUICK).read_bytes() == BODY
    assert server.ranges[1] is not None


def test_no_network_is_a_clear_message_within_seconds(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    weight = Weight("thing", "thing.bin", 10, "MIT", ("tests",), (f"http://127.0.0.1:{port}/f", "http://no.invalid/f"))
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        fetch(weight, tmp_path, Patience())
    assert time.monotonic() - start < 5
    assert caught.value.what.count("cannot be reached") == 2
    assert "check the network" in caught.value.fix


def test_second_address_serves_when_the_first_fails(server, tmp_path):
    server.answers["/gone"] = lambda handler, count: answer(handler, b"", 404)
    server.answers["/wrong"] = lambda handler, count: honest(handler, b"x" * len(BODY))
    server.answers["/f"] = lambda handler, count: honest(handler)
    urls = tuple(server.url(path) for path in ("/gone", "/wrong", "/f"))
    weight = Weight("thing", "thing.bin", len(BODY), "MIT", ("tests",), urls, SHA)
    assert fetch(weight, tmp_path, QUICK).read_bytes() == BODY


def test_error_page_is_not_taken_for_weights(server, tmp_path):
    server.answers["/f"] = lambda handler, count: honest(handler, b"<html>sign in first</html>")
    with pytest.raises(UserError, match="about 1 MB are expected"):
        fetch(server.weight("/f", sha256=""), tmp_path, QUICK)
    assert_nothing_in_place(tmp_path)


def test_checksum_seen_first_is_remembered_and_another_file_later_refused(server, tmp_path):
    body = [BODY]
    server.answers["/f"] = lambda handler, count: honest(handler, body[0], f'"{len(server.ranges)}"')
    path = fetch(server.weight("/f", sha256=""), tmp_path, QUICK)
    assert remembered(path) == SHA
    path.unlink()
    body[0] = BODY[::-1]
    with pytest.raises(UserError, match="other contents"):
        fetch(server.weight("/f", sha256=""), tmp_path, QUICK)
    assert not path.exists()
    body[0] = BODY
    assert fetch(server.weight("/f", sha256=""), tmp_path, QUICK).read_bytes() == BODY


def test_killed_download_leaves_no_file_and_goes_on_afterwards(server, tmp_path):
    gate = threading.Event()

    def slow_once(handler, count):
        if count > 1:
            return honest(handler)
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(BODY)))
        handler.send_header("ETag", '"one"')
        handler.end_headers()
        handler.wfile.write(BODY[:600_000])
        handler.wfile.flush()
        gate.wait(10)
        return None

    server.answers["/f"] = slow_once
    code = (
        "import sys; from pathlib import Path; from pretrain.fetch import fetch; from pretrain.weights import Weight\n"
        f"fetch(Weight('thing', 'thing.bin', {len(BODY)}, 'MIT', (), (sys.argv[1],), {SHA!r}), Path(sys.argv[2]))"
    )
    child = subprocess.Popen([sys.executable, "-c", code, server.url("/f"), str(tmp_path)], cwd=ROOT)
    deadline = time.monotonic() + 20
    while not any(part.stat().st_size for part in tmp_path.glob(".*.part")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    gate.set()
    assert_nothing_in_place(tmp_path)
    assert fetch(server.weight("/f"), tmp_path, QUICK).read_bytes() == BODY
    assert server.ranges[1] is not None and server.ranges[1] != "bytes=0-"


def make_zip(entries: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
        for name, target in (links or {}).items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(entry, target)
    return memory.getvalue()


def zipped(server: Server, data: bytes) -> Weight:
    server.answers["/z"] = lambda handler, count: honest(handler, data, f'"{hashlib.md5(data).hexdigest()}"')
    return Weight("v", "vocoder/model", len(data), "MIT", ("tests",), (server.url("/z"),), archive=True)


@pytest.mark.parametrize("folder", ["", "vocoder/", "a/b/"])
def test_zip_is_unpacked_flat_whatever_folder_it_carries(server, tmp_path, folder):
    weight = zipped(server, make_zip({f"{folder}model": b"weights", f"{folder}config.json": b"{}"}))
    assert fetch(weight, tmp_path, QUICK).read_bytes() == b"weights"
    assert (tmp_path / "vocoder" / "config.json").read_bytes() == b"{}"


@pytest.mark.parametrize("evil", ["../evil", "/tmp/evil-from-zip", "vocoder/../../evil", "..\\evil", "C:evil"])
def test_zip_cannot_write_outside_its_folder(server, tmp_path, evil):
    inner = tmp_path / "inner"
    weight = zipped(server, make_zip({"model": b"weights", evil: b"evil"}))
    try:
        fetch(weight, inner, QUICK)
    except UserError as error:
        assert "unsafe name" in error.what
    written = {path.name for path in tmp_path.rglob("*") if path.is_file() and not path.name.startswith(".")}
    assert written <= {"model", "model.sha256"}
    assert not Path("/tmp/evil-from-zip").exists()


def test_link_in_a_zip_is_left_out(server, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("untouched")
    weight = zipped(server, make_zip({"model": b"weights"}, {"config.json": str(secret)}))
    fetch(weight, tmp_path / "inner", QUICK)
    assert not (tmp_path / "inner" / "vocoder" / "config.json").exists()
    assert secret.read_text() == "untouched"


def test_broken_zip_is_refused(server, tmp_path):
    data = bytearray(make_zip({"model": b"weights" * 1000}))
    data[100] ^= 0xFF
    with pytest.raises(UserError, match="broken"):
        fetch(zipped(server, bytes(data)), tmp_path, QUICK)
    assert not (tmp_path / "vocoder" / "model").exists()


def test_two_processes_fetch_once(server, tmp_path):
    server.answers["/f"] = lambda handler, count: (time.sleep(0.2), honest(handler))[1]
    threads = [threading.Thread(target=fetch, args=(server.weight("/f"), tmp_path, QUICK)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sha256_of(tmp_path / "thing.bin") == SHA and len(server.ranges) == 1


def test_a_way_that_leaves_https_is_not_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Weights without a known checksum have nothing but the connection to vouch for them."""
    first, last = requests.Response(), requests.Response()
    first.status_code, first.url = 302, "https://example.org/f"
    last.status_code, last.url, last.history, last.raw = 200, "http://example.org/f", [first], io.BytesIO()
    monkeypatch.setattr(requests, "get", lambda *_, **__: last)
    with pytest.raises(DownloadError, match="without https"):
        download("https://example.org/f", tmp_path / "part", QUICK)


def test_an_answer_without_end_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr("pretrain.download.MAX_BYTES", len(BODY) // 2)
    server.answers["/f"] = lambda handler, count: honest(handler)
    with pytest.raises(DownloadError, match="which no weights have"):
        download(server.url("/f"), tmp_path / "part", QUICK)
