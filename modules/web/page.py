"""One page in one language: what the builders of tabs get, and how errors reach the user."""

from __future__ import annotations

import functools
import html
import inspect
import os
import traceback
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, NoReturn, ParamSpec, TypeVar

import gradio as gr

from modules.cli import describe_os_error
from modules.errors import UserError
from modules.web.language import Common, Language, Text
from modules.web.state import Session, Studio

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Page:
    """The page in one language.

    Attributes:
        studio: what all pages share.
        language: of every text on it.
        blocks: the page itself, for what is to happen when it is loaded.
        tab: the tab that is being built, for what is to happen when it is opened.
    """

    studio: Studio
    language: Language
    blocks: gr.Blocks
    tab: gr.Tab | None = None

    def say(self, text: Text, **values: object) -> str:
        """A text in the language of the page."""
        return text.say(self.language, **values)

    def session(self, request: gr.Request) -> Session:
        """The session of the page that sent a request."""
        return self.studio.session(request)

    def guarded(self, handler: Callable[P, T]) -> Callable[P, T]:
        """The same handler, whose errors appear on the page as a message that stays until it is closed.

        A handler that takes a gr.Request also heeds the debug switch of its session.
        """
        if inspect.isgeneratorfunction(handler):

            @functools.wraps(handler)
            def wrapped_generator(*args: Any, **kwargs: Any) -> Generator[Any, None, None]:
                try:
                    yield from handler(*args, **kwargs)  # type: ignore[misc]
                except Exception as error:
                    self._show(error, args)

            return wrapped_generator  # type: ignore[return-value]

        @functools.wraps(handler)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return handler(*args, **kwargs)
            except Exception as error:
                self._show(error, args)

        return wrapped

    def warn(self, message: str) -> None:
        """A message that does not stop the work. Call it inside a handler."""
        gr.Warning(html.escape(message), title=self.say(Common.WARNING))

    def describe(self, error: Exception) -> str:
        """What went wrong, as safe HTML: what, where, what to do."""
        if isinstance(error, OSError):
            error = describe_os_error(error)
        if not isinstance(error, UserError):
            return html.escape(self.say(Common.UNEXPECTED))
        parts = [html.escape(error.what)]
        if error.where:
            parts.append(f"<small>{self.say(Common.WHERE)}: {html.escape(self._shorten(error.where))}</small>")
        if error.fix:
            parts.append(f"<b>{self.say(Common.TO_DO)}:</b> {html.escape(error.fix)}")
        return "<br>".join(parts)

    def _shorten(self, where: str) -> str:
        """Of the server's own files only the name; what lies in the user's folder is named from there."""
        scratch, home = f"{self.studio.scratch}{os.sep}", f"{self.studio.home}{os.sep}"
        if where.startswith(scratch):
            return where.rpartition(os.sep)[2]
        return where.replace(home, "")

    def _show(self, error: Exception, args: tuple[Any, ...]) -> NoReturn:
        if isinstance(error, gr.Error):
            raise error
        message = self.describe(error)
        request = next((value for value in args if isinstance(value, gr.Request)), None)
        debug = request is not None and self.session(request).debug
        if debug:
            lines = "".join(traceback.format_exception(error))
            message += f"<pre>{html.escape(lines)}</pre>"
        unexpected = not isinstance(error, (UserError, OSError))
        raise gr.Error(
            message, duration=None, title=self.say(Common.ERROR), print_exception=debug or unexpected
        ) from error
