"""ASGI middleware: a script at the top of the page."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modules.web.language import LANGUAGES
from modules.web.theme import head_script

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
