"""Where the page is served: the address, the password, the temporary files, the end."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import os
import shutil
import signal
import socket
import sys
import tempfile
import webbrowser
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from modules.errors import UserError
from modules.web.folders import PASSWORD_VARIABLE

SHORTEST_PASSWORD = 8
HEAD_SECONDS = 15.0  # in which the head of a request has to arrive


@dataclass(frozen=True)
class Settings:
    """What the command line says.

    Attributes:
        work_dir: the folder with trained/, logs/, raw/ and results/.
        code_dir: the folder of the scripts.
        max_upload: MB of one file.
    """

    host: str
    port: int
    password: str | None
    work_dir: Path
    code_dir: Path
    max_upload: float
    open_browser: bool = False

    @classmethod
    def from_arguments(cls, args: argparse.Namespace, code_dir: Path) -> Settings:
        """Checked settings.

        Raises:
            UserError: no such folder, or others on the network could come in without a password.
        """
        password = args.password or os.environ.get(PASSWORD_VARIABLE)
        if not args.folder.is_dir():
            raise UserError("there is no such folder", f"--folder {args.folder}", "give an existing one")
        if not is_loopback(args.host) and (password is None or len(password) < SHORTEST_PASSWORD):
            raise UserError(
                f"{args.host} lets other machines in, and there is no password of {SHORTEST_PASSWORD} characters",
                "--host",
                f"add --password, or set the variable {PASSWORD_VARIABLE}; without --host only this machine gets in",
            )
        return cls(args.host, args.port, password, args.folder, code_dir, args.max_upload, args.open)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def serve(settings: Settings) -> int:
    """Serve the pages until the process is told to stop."""
    import uvicorn

    with _listen(settings) as listener, _scratch_folder() as scratch:
        from modules.web.app import build_app
        from modules.web.state import ServerState

        state = ServerState(settings.work_dir, settings.code_dir, scratch)
        host, port = listener.getsockname()[:2]
        address = f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
        local_only = is_loopback(settings.host)
        app = build_app(state, settings.password, local_only, round(settings.max_upload * 1e6))
        print(f"the page is at {address}", flush=True)
        if settings.open_browser:
            webbrowser.open(address)
        # uvicorn closes down and then raises the signal once more, which must not end the process before its clean-up
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        config = uvicorn.Config(
            app, http=patient_protocol(), log_level="warning", access_log=False, timeout_graceful_shutdown=2
        )
        try:
            uvicorn.Server(config).run(sockets=[listener])
        finally:
            state.end()
    return 0


def patient_protocol() -> type[asyncio.Protocol]:
    """Uvicorn's HTTP with an end of its patience: a connection on which no whole head of a request comes is closed."""
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    class PatientProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
        _patience: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._wait_for_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._patience is not None and not self._is_between_requests():
                self._patience.cancel()
                self._patience = None
            self._wait_for_head()

        def _wait_for_head(self) -> None:
            if self._patience is None and self._is_between_requests():
                self._patience = self.loop.call_later(HEAD_SECONDS, self._lose_patience)

        def _is_between_requests(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _lose_patience(self) -> None:
            self._patience = None
            if self._is_between_requests() and self.transport.get_protocol() is self:  # it is no WebSocket by now
                self.transport.close()

    return PatientProtocol


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family)
    except OSError as error:
        raise UserError(
            f"cannot listen on port {settings.port}: {error.strerror or error}",
            f"--host {settings.host} --port {settings.port}",
            "close the program that uses it, or choose another port",
        ) from None


@contextlib.contextmanager
def _scratch_folder() -> Iterator[Path]:
    """A folder for uploads and temporary files. Gradio reads its settings from the environment when imported."""
    folder = Path(tempfile.mkdtemp(prefix="webui-"))
    os.environ.update(
        GRADIO_TEMP_DIR=str(folder / "files"),
        GRADIO_ANALYTICS_ENABLED="False",
        GRADIO_RUN_HISTORY="False",
        GRADIO_SSR_MODE="False",
        HF_HUB_OFFLINE="1",
    )
    (folder / "files").mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
