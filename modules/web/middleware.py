"""ASGI middleware: checks of every request (host, password, size), headers, and a script at the top of the page."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modules.web.language import LANGUAGES
from modules.web.theme import head_script

LOCAL_HOSTS = {"127.0.0.1", "localhost", "[::1]"}
MULTIPART_ROOM = 64 * 1024  # bytes of a request that are not the file
DRAINED = 4  # times the allowed size: so much of a refused body is still read and dropped
WRONG_PASSWORD_DELAY = 1.0  # seconds
# Nothing may be loaded from or sent to another machine. Gradio's page is made of inline scripts and workers.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; connect-src 'self' data: blob:; frame-ancestors 'none'; form-action 'self'; "
    "base-uri 'self'; object-src 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
)


class RequestGuard:
    """Checks a request before anything answers it.

    Args:
        password: ask for it (HTTP Basic, any user name); None asks for nothing.
        local_only: answer only requests for this machine's own names, so that no foreign web page can reach the
            server by letting its name point here (DNS rebinding).
        max_body: bytes of an uploaded file.
    """

    def __init__(self, app: ASGIApp, password: str | None, local_only: bool, max_body: float) -> None:
        self.app = app
        self.password = password
        self.local_only = local_only
        self.max_body = max_body + MULTIPART_ROOM

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if self.local_only and _host(headers) not in LOCAL_HOSTS:
            await _refuse(send, 403, "this name is not served here")
        elif not self._may_enter(headers):
            if b"authorization" in headers:
                await asyncio.sleep(WRONG_PASSWORD_DELAY)
            await _refuse(send, 401, "password, please", ((b"www-authenticate", b'Basic realm="voice"'),))
        elif _length(headers) > self.max_body:
            await _drop_body(receive, DRAINED * self.max_body)
            await _refuse(send, 413, f"a file may have {self.max_body / 1e6:.0f} MB at most")
        else:
            await self.app(scope, receive, _with_headers(send))

    def _may_enter(self, headers: dict[bytes, bytes]) -> bool:
        if self.password is None:
            return True
        kind, _, code = headers.get(b"authorization", b"").partition(b" ")
        try:
            given = base64.b64decode(code, validate=True).partition(b":")[2]
        except binascii.Error:
            return False
        return kind.lower() == b"basic" and hmac.compare_digest(given, self.password.encode())


def _host(headers: dict[bytes, bytes]) -> str:
    host = headers.get(b"host", b"").decode("latin-1").lower()
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


def _length(headers: dict[bytes, bytes]) -> int:
    try:
        return int(headers.get(b"content-length", b"0"))
    except ValueError:
        return 0


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
        await send(message)

    return send_with_headers


async def _drop_body(receive: Receive, most: float) -> None:
    """Take in and forget a body, ``most`` bytes of it at most: who still sends does not hear that it was refused."""
    dropped, more = 0, True
    while more and dropped <= most:
        message = await receive()
        dropped += len(message.get("body", b""))
        more = message.get("more_body", False)


async def _refuse(send: Send, status: int, text: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    plain = (b"content-type", b"text/plain; charset=utf-8")
    await send({"type": "http.response.start", "status": status, "headers": [plain, *headers, *HEADERS]})
    await send({"type": "http.response.body", "body": text.encode()})


HEAD = b"<head>"


class HeadScript:
    """Puts a script before Gradio's own into the pages at /<language>/; ``head`` of Gradio comes too late for that."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        language = _language_of(scope)
        if language is None:
            await self.app(scope, receive, send)
            return
        start: Message = {}
        body = bytearray()

        async def hold_back(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
            elif message["type"] == "http.response.body":
                body.extend(message.get("body", b""))
                if not message.get("more_body", False):
                    whole = bytes(body).replace(HEAD, HEAD + head_script(language).encode(), 1)
                    await send({**start, "headers": _with_length(start["headers"], len(whole))})
                    await send({"type": "http.response.body", "body": whole})

        await self.app(scope, receive, hold_back)


def _language_of(scope: Scope) -> str | None:
    """The language of a page; None of every other request."""
    if scope["type"] != "http" or scope["method"] != "GET":
        return None
    return next((language for language in LANGUAGES if scope["path"].rstrip("/") == f"/{language}"), None)


def _with_length(headers: list[tuple[bytes, bytes]], length: int) -> list[tuple[bytes, bytes]]:
    kept = [header for header in headers if header[0].lower() != b"content-length"]
    return [*kept, (b"content-length", str(length).encode())]
