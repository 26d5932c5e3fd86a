"""Puts a script in front of Gradio's own into the page; its ``head`` comes too late to change the language."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modules.web.looks import early_script
from modules.web.texts import LANGUAGES, Language

HEAD = b"<head>"


class EarlyScript:
    """ASGI middleware over the pages at /<language>/."""

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
                    whole = bytes(body).replace(HEAD, HEAD + early_script(language).encode(), 1)
                    await send({**start, "headers": _with_length(start["headers"], len(whole))})
                    await send({"type": "http.response.body", "body": whole})

        await self.app(scope, receive, hold_back)


def _language_of(scope: Scope) -> Language | None:
    """The language of a page; None of every other request."""
    if scope["type"] != "http" or scope["method"] != "GET":
        return None
    return next((language for language in LANGUAGES if scope["path"].rstrip("/") == f"/{language}"), None)


def _with_length(headers: list[tuple[bytes, bytes]], length: int) -> list[tuple[bytes, bytes]]:
    kept = [header for header in headers if header[0].lower() != b"content-length"]
    return [*kept, (b"content-length", str(length).encode())]
