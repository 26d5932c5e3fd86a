"""The web page as a user gets it: webUI.py in a process of its own, and a browser in front of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.conftest import ROOT
from tests.parity import signals
from tests.standin_voice import RATE, small_config, small_model, write_encoder, write_model

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM_FLAGS = (
    "--no-sandbox",  # Chromium's sandbox does not start as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)
START_SECONDS = 120
SPEECH_HOST = "speech.platform.bing.com"
# Python runs this file in every process of the server. It notes each address that a connection is made to, and lets
# nobody look up another machine, as where there is no internet.
WATCH_CONNECTIONS = """
import os, socket
_connect, _connect_ex, _resolve = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo
def _note(address):
    with open(os.environ["WATCHED_CONNECTIONS"], "a") as file:
        file.write(f"{address!r}\\n")
def connect(self, address):
    _note(address)
    return _connect(self, address)
def connect_ex(self, address):
    _note(address)
    return _connect_ex(self, address)
def getaddrinfo(host, *rest, **more):
    _note((host,))
    if host not in (None, "localhost", "127.0.0.1", "0.0.0.0", "::1"):
        raise socket.gaierror(socket.EAI_NONAME, "no internet in this test")
    return _resolve(host, *rest, **more)
socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo = connect, connect_ex, getaddrinfo
"""


class WebServer:
    """A running webUI.py.

    Attributes:
        table: a program that its processes start with.
        home: its folder, with models and songs made by ``make_home``.
        url: of the page.
    """

    def __init__(self, home: Path, *arguments: str, table: str = "", **environment: str) -> None:
        self.home = home
        watch = home.parent / "watch"
        watch.mkdir(exist_ok=True)
        (watch / "sitecustomize.py").write_text(WATCH_CONNECTIONS + table, encoding="utf-8")
        self.connections_file = watch / "connections.txt"
        command = [sys.executable, str(ROOT / "webUI.py"), "--folder", str(home), "--port", "0", *arguments]
        self.log = (home.parent / "server.log").open("w+", encoding="utf-8")
        self.process = subprocess.Popen(
            command,
            cwd=home.parent,
            stdout=self.log,
            stderr=self.log,
            env={
                **os.environ,
                "PYTHONPATH": str(watch),
                "WATCHED_CONNECTIONS": str(self.connections_file),
                **environment,
            },
        )
        try:
            self.url = self._wait()
        except BaseException:
            self.stop()
            raise

    def _wait(self) -> str:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            for line in self.output().splitlines():
                if line.startswith("the page is at "):
                    return line.split()[-1]
            time.sleep(0.2)
        raise AssertionError(f"the server did not start:\n{self.output()}")

    def output(self) -> str:
        """What it has printed."""
        return Path(self.log.name).read_text(encoding="utf-8")

    def connections(self) -> list[str]:
        """Addresses other than this machine that its processes connected to or looked up, but for text to speech."""
        lines = self.connections_file.read_text(encoding="utf-8") if self.connections_file.exists() else ""
        local = ("127.0.0.1", "localhost", "::1", "'/", "b'", 'b"', "None", SPEECH_HOST)
        return [line for line in lines.splitlines() if not any(word in line for word in local)]

    def voices(self) -> list[int]:
        """Ids of the processes that hold a voice."""
        return [voice for helper in _children(self.process.pid) for voice in _children(helper)]

    def stop(self) -> None:
        """End it as a service manager does."""
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


def _children(pid: int) -> list[int]:
    """Processes that a process of Python's multiprocessing has started, but for its bookkeeper."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                if b"multiprocessing.forkserver" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))
    return found


def make_home(root: Path) -> Path:
    """Two models that can be mixed, a trained one in logs/, an encoder and songs."""
    home = root / "home"
    for name in ("results", "raw", "trained"):
        (home / name).mkdir(parents=True)
    config = small_config()
    config.__pydantic_extra__["f0_range"] = {"alice": [300.0, 700.0]}  # type: ignore[index]
    write_model(home / "trained/duet", config, name="duet.pth")
    write_model(home / "logs/44k", name="G_800.pth")
    second = write_model(home / "trained/second", config, name="second.pth")
    _save_another(second, config)
    write_encoder(home / "pretrain")
    write_song(home / "song.wav", 3.0)
    return home


def _save_another(path: Path, config: Any) -> None:
    import torch

    state = small_model(config, seed=1).state_dict()
    torch.save({"model": state, "iteration": 1, "optimizer": None, "learning_rate": 1e-4}, path)


def write_song(path: Path, seconds: float, base: float = 200.0) -> Path:
    """A voice-like song."""
    once = signals.voice_like(RATE, min(seconds, 3.0), [base, base * 1.2, base * 1.1])
    soundfile.write(path, np.resize(once, round(seconds * RATE)), RATE)
    return path


def chromium() -> str:
    """The browser of the system; skips where there is none."""
    for name in CHROMIUM_NAMES:
        found = shutil.which(name)
        if found:
            return found
    pytest.skip("no Chromium is installed (Debian: apt install chromium); the page is not tested in a browser")


@contextlib.contextmanager
def launched_browser() -> Iterator[Any]:
    """A headless Chromium; skips where Playwright or Chromium is missing."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = chromium()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(CHROMIUM_FLAGS))
        try:
            yield browser
        finally:
            browser.close()
