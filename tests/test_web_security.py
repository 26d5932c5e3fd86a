"""What the running server refuses: files of others, foreign names, big uploads, code in files, forged values."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import os
import pickle
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import uvicorn

from modules.web import guard as guard_module
from modules.web import server as server_module
from modules.web import state as state_module
from modules.web.guard import RequestGuard
from modules.web.state import ServerState
from tests.conftest import ROOT
from tests.standin_voice import write_model
from tests.web_server import WebServer, make_home

SECRET = b"a secret that nobody may read"
MAX_UPLOAD_MB = 1.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    home = make_home(tmp_path_factory.mktemp("safe"))
    (home.parent / "secret.wav").write_bytes(SECRET)
    for folder in ("trained", "results", "."):
        (home / folder / "link.wav").symlink_to(home.parent / "secret.wav")
    (home / "private.txt").write_bytes(SECRET)
    write_model(home.parent / "elsewhere", name="other.pth")
    (home / "trained/sly").symlink_to(home.parent / "elsewhere")
    running = WebServer(home, "--max_upload", str(MAX_UPLOAD_MB))
    yield running
    running.stop()


def ask(url: str, data: bytes | None = None, **headers: str) -> tuple[int, bytes, Mapping[str, str]]:
    """Status, body and headers of an answer; redirections are not followed."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, data, named)
    opener = urllib.request.build_opener(_Stay)
    try:
        with opener.open(request, timeout=60) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read(), dict(error.headers)


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def upload(url: str, name: str, content: bytes, **headers: str) -> tuple[int, Any]:
    """Send a file as the page does."""
    mark = uuid.uuid4().hex
    head = f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + f"\r\n--{mark}--\r\n".encode()
    kind = f"multipart/form-data; boundary={mark}"
    status, answer, _ = ask(f"{url}en/gradio_api/upload", body, content_type=kind, **headers)
    return status, json.loads(answer) if status == 200 else answer


class Client:
    """Talks to the server as the page does, but sends what it likes."""

    def __init__(self, server: WebServer) -> None:
        self.server = server
        self.session = uuid.uuid4().hex
        self.config = json.loads(ask(f"{server.url}en/config")[1])

    def component(self, elem_id: str) -> int:
        found = (one["id"] for one in self.config["components"] if one["props"].get("elem_id") == elem_id)
        return int(next(found))

    def send(self, api_name: str, values: Mapping[str, Any]) -> str:
        """Trigger a handler, with ``values`` by elem_id for its inputs; returns all that the server says of it."""
        function = next(one for one in self.config["dependencies"] if one["api_name"] == api_name)
        given = {self.component(name): value for name, value in values.items()}
        defaults = {one["id"]: one["props"].get("value") for one in self.config["components"]}
        data = [given.get(number, defaults.get(number)) for number in function["inputs"]]
        message = {
            "data": data, "fn_index": function["id"], "session_hash": self.session, "trigger_id": None,
            "event_data": None,
        }  # fmt: skip
        url = f"{self.server.url}en/gradio_api/queue"
        status, answer, _ = ask(f"{url}/join", json.dumps(message).encode(), content_type="application/json")
        assert status == 200, answer
        return ask(f"{url}/data?session_hash={self.session}")[1].decode()


def file_data(path: object) -> dict[str, Any]:
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}, "orig_name": "x.wav"}


def test_only_files_that_were_sent_or_made_are_served(server: WebServer) -> None:
    status, paths = upload(server.url, "mine.wav", b"my own")
    assert status == 200
    sent = urllib.parse.quote(paths[0])
    assert ask(f"{server.url}en/gradio_api/file={sent}")[:2] == (200, b"my own")
    home, scratch = server.home, Path(paths[0]).parents[2]
    wanted = [
        "/etc/passwd", "/etc/hostname", "../../etc/passwd", "file:///etc/passwd", f"{home}/private.txt",
        f"{home.parent}/secret.wav", f"{home}/trained/link.wav", f"{home}/results/link.wav", f"{home}/link.wav",
        f"{home}/trained/../../secret.wav", f"{home}/trained/sly/other.pth", f"{home}/logs/44k/G_800.pth",
        f"{paths[0]}/../../../../../../../../..{home.parent}/secret.wav", f"{ROOT}/webUI.py", "/proc/self/environ",
        f"{scratch}/../home/private.txt", "private.txt", "home/private.txt", f"//{home}/private.txt", "~/.bashrc",
    ]  # fmt: skip
    for path in wanted:
        for quoted in (path, urllib.parse.quote(path, safe=""), path.replace("..", "%2e%2e")):
            for route in ("file=", "file/", "stream/", "download/"):
                status, body, _ = ask(f"{server.url}en/gradio_api/{route}{quoted}")
                assert status >= 300, (route, path)
                assert SECRET not in body and b"root:" not in body
    for path in ("static/../../../../etc/passwd", "assets/..%2f..%2f..%2f..%2fetc/passwd", "..%2f..%2fetc/passwd"):
        status, body, _ = ask(f"{server.url}en/{path}")
        assert b"root:" not in body


@pytest.mark.parametrize("where", ["outside", "link", "absolute"])
def test_a_forged_path_of_a_song_is_refused(server: WebServer, where: str) -> None:
    path = {
        "outside": server.home.parent / "secret.wav",
        "link": server.home / "results/link.wav",
        "absolute": Path("/etc/passwd"),
    }[where]
    said = Client(server).send("convert", {"convert-files": [file_data(path)], "convert-model": "trained/duet"})
    assert "process_completed" in said and '"success":false' in said.replace(" ", "")
    assert not list((server.home / "results").glob("secret*"))


@pytest.mark.parametrize("name", ["trained/sly", "../elsewhere", "/etc", "trained/../../elsewhere"])
def test_a_forged_name_of_a_model_is_refused(server: WebServer, name: str) -> None:
    said = Client(server).send("_load", {"convert-model": name})
    assert '"success":false' in said.replace(" ", "")
    assert not server.voices()


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "a/../../escaped"])
def test_a_forged_name_of_a_new_model_is_refused(server: WebServer, name: str) -> None:
    client = Client(server)
    client.send("_list", {})
    said = client.send("release", {"release-model": "trained/duet", "release-name": name})
    assert '"success":false' in said.replace(" ", "")
    assert not list(server.home.parent.rglob("*escaped*"))


def test_big_files_are_refused(server: WebServer) -> None:
    assert upload(server.url, "big.wav", bytes(round(1.5e6)))[0] == 413
    assert upload(server.url, "fits.wav", bytes(round(0.9e6)))[0] == 200


def test_names_of_uploads_cannot_leave_their_folder(server: WebServer) -> None:
    status, paths = upload(server.url, "../../../../escaped.wav", b"x")
    if status == 200:
        assert ".." not in paths[0] and Path(paths[0]).read_bytes() == b"x"
        assert Path(paths[0]).parents[1].name == "files"
    assert not list(server.home.parent.rglob("escaped.wav"))


def test_nothing_in_an_uploaded_file_is_run(server: WebServer, tmp_path: Path) -> None:
    proof = tmp_path / "proof"

    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {proof}",)

    packed = io.BytesIO()
    torch.save({"model": Evil()}, packed)
    paths = []
    for name, content in (
        ("evil.pth", packed.getvalue()),
        ("config.json", (server.home / "trained/duet/config.json").read_bytes()),
        ("evil.pkl", pickle.dumps([Evil()])),
    ):
        status, sent = upload(server.url, name, content)
        assert status == 200
        paths.append({**file_data(sent[0]), "orig_name": name})
    client = Client(server)
    assert "evil.pth" in client.send("_take_upload", {"convert-upload": paths})
    said = client.send("_load", {"convert-model": "uploaded: evil.pth"})
    assert '"success":false' in said.replace(" ", "") and "which is code" in said, said
    client.send("make_safe", {"safe-upload": paths[:2]})
    assert not proof.exists()


def test_the_server_answers_to_its_own_names_alone(server: WebServer) -> None:
    """A foreign page whose name points to this machine (DNS rebinding) gets nothing, nor may it send anything."""
    assert ask(f"{server.url}en/", Host="evil.example")[0] == 403
    assert ask(f"{server.url}en/", Host="127.0.0.1.evil.example:80")[0] == 403
    assert ask(f"{server.url}en/", Host="localhost")[0] == 200
    status, _, headers = ask(f"{server.url}en/config", Origin="https://evil.example")
    assert headers.get("access-control-allow-origin") not in ("*", "https://evil.example")
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


OWN = b"127.0.0.1:7860"


def guarded(
    headers: Mapping[str, str],
    path: str = "/en/gradio_api/upload",
    body: tuple[bytes, ...] = (b"",),
    password: str | None = None,
    **scope: Any,
) -> list[dict[str, Any]]:
    """What a guard and an application that reads all of a body answer to one request."""
    sent: list[dict[str, Any]] = []

    async def ask_once() -> None:
        guard = RequestGuard(reads_all, password, True, MAX_BODY)
        await guard(request_scope(headers, path, **scope), pieces(body), collector(sent))

    asyncio.run(ask_once())
    return sent


MAX_BODY = 200_000


def request_scope(headers: Mapping[str, str], path: str, **scope: Any) -> dict[str, Any]:
    raw = [
        (name.replace("_", "-").encode(), value.encode()) for name, value in {"host": OWN.decode(), **headers}.items()
    ]
    return {"type": "http", "method": "POST", "path": path, "headers": raw, "client": ("10.0.0.1", 5), **scope}


def pieces(body: tuple[bytes, ...]) -> Any:
    waiting = [
        {"type": "http.request", "body": part, "more_body": number < len(body)} for number, part in enumerate(body, 1)
    ]

    async def receive() -> dict[str, Any]:
        return waiting.pop(0)

    return receive


def collector(sent: list[dict[str, Any]]) -> Any:
    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    return send


async def reads_all(scope: Any, receive: Any, send: Any) -> None:
    """An application; as Gradio's own it answers 500 where reading fails, and says so."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    try:
        while (await receive())["more_body"]:
            pass
    except Exception:
        await send({"type": "http.response.start", "status": 500, "headers": []})
        raise
    await send({"type": "http.response.start", "status": 200, "headers": []})


@pytest.mark.parametrize(
    ("headers", "method", "path", "status"),
    [
        ({}, "POST", "/en/gradio_api/upload", 200),  # no browser
        ({"origin": "http://127.0.0.1:7860", "sec_fetch_site": "same-origin"}, "POST", "/en/gradio_api/upload", 200),
        ({"origin": "https://evil.example"}, "POST", "/en/gradio_api/upload", 403),
        ({"origin": "null"}, "POST", "/en/gradio_api/queue/join", 403),
        ({"origin": "http://127.0.0.1:3000"}, "GET", "/en/config", 403),  # another program of this machine
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"}, "POST", "/en/gradio_api/upload", 403),
        ({"sec_fetch_site": "same-site", "sec_fetch_mode": "no-cors"}, "GET", "/en/gradio_api/file=x", 403),
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}, "GET", "/en/", 200),  # a link to the page
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}, "GET", "/en/gradio_api/file=x", 403),
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}, "POST", "/en/", 403),
        ({"sec_fetch_site": "none", "sec_fetch_mode": "navigate"}, "GET", "/", 200),
    ],
)
@pytest.mark.parametrize("host", ["127.0.0.1:7860", "[::1]:7860", "127.0.0.2:7860"])
def test_other_sites_neither_read_nor_send(
    headers: dict[str, str], method: str, path: str, status: int, host: str
) -> None:
    own = {name: value.replace("127.0.0.1:7860", host) for name, value in headers.items()}
    assert guarded({**own, "host": host}, path, method=method)[0]["status"] == status


@pytest.mark.parametrize(
    ("headers", "accepted"),
    [
        ({"origin": "http://127.0.0.1:7860"}, True),
        ({"origin": "https://evil.example"}, False),
        ({"host": "evil.example", "origin": "http://evil.example"}, False),
        ({"origin": "http://127.0.0.1:7860", "authorization": "Basic Ondyb25n"}, False),
    ],
)
def test_a_websocket_passes_the_same_checks(
    headers: dict[str, str], accepted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard_module, "WRONG_PASSWORD_DELAY", 0.0)
    password = "open sesame" if "authorization" in headers else None
    answer = guarded(headers, "/en/ws", password=password, type="websocket")
    assert [message["type"] for message in answer] == [f"websocket.{'accept' if accepted else 'close'}"]


@pytest.mark.parametrize(("path", "most"), [("/en/gradio_api/upload", MAX_BODY + 64 * 1024), ("/en/x", 2 * 1000)])
def test_a_body_without_a_length_is_counted_while_it_comes(
    path: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard_module, "MOST_VALUES", 2000)
    part = bytes(most // 4)
    assert [one["status"] for one in guarded({}, path, (part,) * 4) if "status" in one] == [200]
    assert [one["status"] for one in guarded({}, path, (part,) * 5 + (b"x",) * 100) if "status" in one] == [413]


def test_wrong_passwords_of_one_client_are_looked_at_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when many come at once, the right one among them; another client does not wait for it."""
    pauses: list[float] = []
    order: list[tuple[str, int]] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        for _ in range(20):
            await asyncio.sleep(0)

    async def attempt(guard: RequestGuard, name: str, client: str, password: str) -> None:
        code = base64.b64encode(f":{password}".encode()).decode()
        sent: list[dict[str, Any]] = []
        scope = request_scope({"authorization": f"Basic {code}"}, "/", client=(client, 1))
        await guard(scope, pieces((b"",)), collector(sent))
        order.append((name, sent[0]["status"]))

    async def attack() -> None:
        guard = RequestGuard(reads_all, "open sesame", True, MAX_BODY)
        guesses = [attempt(guard, "guess", "10.0.0.1", f"{number}") for number in range(4)]
        flood = [attempt(guard, "flood", "10.0.0.1", "open sesame") for _ in range(10)]
        await asyncio.gather(*guesses, *flood, attempt(guard, "other", "10.0.0.2", "open sesame"))
        await attempt(guard, "later", "10.0.0.1", "open sesame")

    monkeypatch.setattr(guard_module, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": pause}))
    asyncio.run(attack())
    assert pauses == [guard_module.WRONG_PASSWORD_DELAY] * 4
    assert order.index(("other", 200)) < order.index(("guess", 401)) < order.index(("flood", 200))
    assert order.count(("flood", 429)) == 10 - (guard_module.MOST_WAITING - 4)
    assert order[-1] == ("later", 200)


def test_a_half_open_request_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "HEAD_SECONDS", 0.2)
    config = uvicorn.Config(reads_all, http=server_module.patient_protocol(), log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        with contextlib.closing(socket.create_connection(listener.getsockname())) as silent:
            silent.settimeout(30)
            silent.sendall(b"GET / HTTP/1.1\r\nHost: local")
            assert silent.recv(100) == b""
        server.should_exit = True
        thread.join()


def test_a_session_without_an_open_page_ends(tmp_path: Path) -> None:
    state = ServerState(tmp_path, ROOT, tmp_path)
    request: Any = SimpleNamespace(session_hash="program"), SimpleNamespace(session_hash="browser")
    program, browser = map(state.session, request)
    state.page_opened("browser")
    late = program.last_used + state_module.IDLE_SECONDS + 1
    state.sweep(late - 2)
    assert program.folder.exists()
    state.sweep(late)
    assert not program.folder.exists() and browser.folder.exists()
    state.page_closed("browser")
    state.sweep(late + 1)
    assert not browser.folder.exists()
    state.end()


def test_uploads_of_other_sites_leave_nothing(server: WebServer) -> None:
    files = Path(upload(server.url, "mine.wav", b"x")[1][0]).parents[1]
    before = sorted(files.rglob("*"))
    assert upload(server.url, "theirs.wav", bytes(1000), origin="https://evil.example")[0] == 403
    assert upload(server.url, "theirs.wav", bytes(1000), sec_fetch_site="cross-site")[0] == 403
    assert sorted(files.rglob("*")) == before


def test_it_listens_on_this_machine_alone(server: WebServer) -> None:
    port = int(server.url.rstrip("/").rpartition(":")[2])
    rows = [line.split() for line in Path(f"/proc/{server.process.pid}/net/tcp").read_text().splitlines()[1:]]
    listening = {row[1].split(":")[0] for row in rows if row[3] == "0A" and int(row[1].split(":")[1], 16) == port}
    assert listening == {"0100007F"}


def test_a_password_guards_everything_and_uploads_go_with_the_server(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    server = WebServer(tmp_path / "home", "--host", "0.0.0.0", WEBUI_PASSWORD="open sesame")
    try:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        two_colons = "Basic OjpvcGVuIHNlc2FtZQ=="  # ::open sesame
        right = "Basic dXNlcjpvcGVuIHNlc2FtZQ=="  # user:open sesame
        for path in ("", "en/", "en/config", "en/gradio_api/file=/etc/passwd", "en/gradio_api/upload", "language/zh"):
            assert ask(url + path)[0] == 401
        for wrong in (two_colons, "Basic dXNlcjp3cm9uZw==", "Bearer open sesame", "Basic !!!", "Basic"):
            assert ask(f"{url}en/", Authorization=wrong)[0] == 401
        assert ask(f"{url}en/", Authorization=right)[0] == 200
        _, paths = upload(url, "mine.wav", b"x", authorization=right)
        assert Path(paths[0]).exists()
    finally:
        server.stop()
    assert server.process.returncode == 0
    assert not Path(paths[0]).exists()


def test_a_taken_port_is_said_in_plain_words(server: WebServer, tmp_path: Path) -> None:
    port = server.url.rstrip("/").rpartition(":")[2]
    command = [sys.executable, str(ROOT / "webUI.py"), "--port", port, "--folder", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2 and "another port" in result.stderr and "Traceback" not in result.stderr
