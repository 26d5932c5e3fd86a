"""What the running server refuses: files of others, foreign names, big uploads, code in files, forged values."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

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
