"""ASGI middleware: what is checked of every request before anything answers it: name, origin, password, size."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hmac
import ipaddress
from collections.abc import Callable, Mapping

from starlette.formparsers import MultiPartException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modules.web.language import LANGUAGES
from modules.web.server import is_loopback

MULTIPART_ROOM = 64 * 1024  # bytes of a request that are not the file
MOST_VALUES = 16e6  # bytes of a request that brings no file: what is in the fields of the page
DRAINED = 4  # times the allowed size: so much of a refused body is still read and dropped
STALLED_SECONDS = 60.0  # a body of which nothing arrives for so long
WRONG_PASSWORD_DELAY = 1.0  # seconds
MOST_WAITING = 8  # requests of one client that wait for their password to be checked
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
PAGES = frozenset(("", *(f"/{language}" for language in LANGUAGES)))  # what a link on another site may lead to
Headers = Mapping[bytes, bytes]


class Refused(Exception):
    """A request is not answered: an HTTP status and a line for whoever sent it."""

    def __init__(self, status: int, text: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        self.status, self.text, self.headers = status, text, headers


class BodyTooLarge(MultiPartException):
    """More bytes come than are allowed. Gradio's reader of uploads drops its files where it is raised."""


class RequestGuard:
    """Checks HTTP requests and WebSockets alike before anything answers them.

    Args:
        password: ask for it (HTTP Basic, any user name); None asks for nothing.
        local_only: answer only requests for this machine's own names, so that no foreign web page can reach the
            server by letting its name point here (DNS rebinding).
        max_body: bytes of an uploaded file.
    """

    def __init__(self, app: ASGIApp, password: str | None, local_only: bool, max_body: float) -> None:
        self.app = app
        self.passwords = PasswordCheck(password) if password is not None else None
        self.local_only = local_only
        self.max_upload = max_body + MULTIPART_ROOM

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        try:
            await self._check(scope, headers)
        except Refused as refused:
            await _refuse(scope, send, refused)
            return
        if scope["type"] == "websocket":
            await self.app(scope, receive, send)
            return
        most = self.max_upload if scope["path"].endswith("/upload") else min(MOST_VALUES, self.max_upload)
        if _length(headers) > most:
            await _drop_body(receive, DRAINED * most)
            await _refuse(scope, send, _too_large(most))
        else:
            await Body(receive, send, most).answer(scope, self.app)

    async def _check(self, scope: Scope, headers: Headers) -> None:
        """Raises Refused."""
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if self.local_only and not is_loopback(_name(host)):
            raise Refused(403, "this name is not served here")
        if not _is_own(scope, headers, host):
            raise Refused(403, "another site asks for this: open the page itself")
        if self.passwords is not None:
            await self.passwords.check(scope, headers)


def _is_own(scope: Scope, headers: Headers, host: str) -> bool:
    """Whether a request comes from this page, from the address bar, or from no browser at all.

    Browsers say so themselves: Origin on all that has an effect and on every WebSocket, Sec-Fetch-Site on all but
    plain links of old ones. No script can forge either. A link on another site may lead to the page, and to no more.
    """
    origin = headers.get(b"origin")
    if origin is not None and origin.decode("latin-1").lower().partition("://")[2] != host:
        return False
    if headers.get(b"sec-fetch-site", b"none") in (b"none", b"same-origin"):
        return True
    is_link = scope.get("method") in ("GET", "HEAD") and headers.get(b"sec-fetch-mode") == b"navigate"
    return is_link and scope["path"].rstrip("/") in PAGES


class PasswordCheck:
    """HTTP Basic. A client's passwords are looked at one after the other, and a wrong one holds up the next.

    So many guesses at once are no faster than one by one, and the right one among them is no earlier known.
    """

    def __init__(self, password: str) -> None:
        self.password = password.encode()
        self._clients: dict[str, tuple[asyncio.Lock, int]] = {}  # who is being checked: its turn, how many wait

    async def check(self, scope: Scope, headers: Headers) -> None:
        """Raises Refused."""
        if b"authorization" not in headers:
            raise self._refused()
        client = _client(scope)
        turn, waiting = self._clients.get(client, (asyncio.Lock(), 0))
        if waiting >= MOST_WAITING:
            raise Refused(429, "too many passwords at once; wait a little")
        self._clients[client] = turn, waiting + 1
        try:
            async with turn:
                if not self._is_right(headers[b"authorization"]):
                    await asyncio.sleep(WRONG_PASSWORD_DELAY)
                    raise self._refused()
        finally:
            turn, waiting = self._clients.pop(client)
            if waiting > 1:
                self._clients[client] = turn, waiting - 1

    def _is_right(self, authorization: bytes) -> bool:
        kind, _, code = authorization.partition(b" ")
        try:
            given = base64.b64decode(code, validate=True).partition(b":")[2]
        except binascii.Error:
            return False
        return kind.lower() == b"basic" and hmac.compare_digest(given, self.password)

    def _refused(self) -> Refused:
        return Refused(401, "password, please", ((b"www-authenticate", b'Basic realm="voice"'),))


def _client(scope: Scope) -> str:
    """The address that sends a request; of IPv6 the network, whose addresses one client may change at will."""
    address = (scope.get("client") or ("",))[0]
    try:
        network = ipaddress.ip_network(f"{address}/64", strict=False)
    except ValueError:
        return str(address)
    return str(network)


class Body:
    """One request on its way to the application: its body is counted while it comes in, its answer gets the headers.

    Args:
        most: bytes; a body may come in pieces and without saying its length.
    """

    def __init__(self, receive: Receive, send: Send, most: float) -> None:
        self._receive, self._send, self.most = receive, send, most
        self._bytes = 0
        self._complete = self._started = self._too_large = False

    async def answer(self, scope: Scope, app: ASGIApp) -> None:
        """Let the application answer, unless the body turns out too large."""
        with contextlib.suppress(BodyTooLarge):
            await app(scope, self._count, self._send_with_headers)
        if self._too_large and not self._started:
            await _refuse(scope, self._send, _too_large(self.most))

    async def _count(self) -> Message:
        if self._complete:  # the application waits for the end of the connection
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), STALLED_SECONDS)
        except TimeoutError:
            return {"type": "http.disconnect"}
        self._bytes += len(message.get("body", b""))
        if self._bytes > self.most:
            self._too_large = True
            raise BodyTooLarge("the body exceeds the maximum allowed size")
        self._complete = not message.get("more_body", False)
        return message

    async def _send_with_headers(self, message: Message) -> None:
        if self._too_large and not self._started:
            return  # what the application says of the broken body; ``answer`` says why
        if message["type"] == "http.response.start":
            self._started = True
            message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
        await self._send(message)


def _too_large(most: float) -> Refused:
    return Refused(413, f"at most {most / 1e6:.0f} MB may be sent at once")


def _name(host: str) -> str:
    """The name or address of a Host header, without its port and brackets."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).removeprefix("[").removesuffix("]")


def _length(headers: Headers) -> int:
    try:
        return int(headers.get(b"content-length", b"0"))
    except ValueError:
        return 0


async def _drop_body(receive: Receive, most: float) -> None:
    """Take in and forget a body, ``most`` bytes of it at most: who still sends does not hear that it was refused."""
    dropped, more = 0, True
    while more and dropped <= most:
        message = await receive()
        dropped += len(message.get("body", b""))
        more = message.get("more_body", False)


async def _refuse(scope: Scope, send: Send, refused: Refused) -> None:
    if scope["type"] == "websocket":  # before it is accepted: the server answers 403
        await send({"type": "websocket.close", "code": 1008, "reason": refused.text})
        return
    plain = (b"content-type", b"text/plain; charset=utf-8")
    headers = [plain, *refused.headers, *HEADERS]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": refused.text.encode()})


class PageWatch:
    """Tells the sessions which pages are open: each holds a connection to /heartbeat/<session>.

    Args:
        opened, closed: are told the session.
    """

    def __init__(self, app: ASGIApp, opened: Callable[[str], None], closed: Callable[[str], None]) -> None:
        self.app, self.opened, self.closed = app, opened, closed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        _, beat, session = scope.get("path", "").rpartition("/heartbeat/")
        if scope["type"] != "http" or not beat:
            await self.app(scope, receive, send)
            return
        self.opened(session)
        try:
            await self.app(scope, receive, send)
        finally:
            self.closed(session)
