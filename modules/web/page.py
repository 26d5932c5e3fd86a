"""One page in one language: what the builders of tabs get, and how errors reach the user."""

from __future__ import annotations

import functools
import html
import inspect
import traceback
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn, ParamSpec, TypeVar

import gradio as gr

from modules.cli import describe_os_error
from modules.errors import UserError
from modules.web.language import DEFAULT, texts, translate
from modules.web.state import ServerState, Session

P = ParamSpec("P")
T = TypeVar("T")
Values = dict[Any, Any]  # component -> what it holds; a handler whose inputs are a set gets it
Updates = dict[Any, Any]  # component -> its new value or gr.update(); what a handler returns
QUIET: dict[str, Any] = {"show_progress": "hidden"}  # of an event


def paragraph(markup: str, look: str = "mild") -> str:
    """HTML: a small line; ``look`` is a class of page.css: mild, good, warn or bad."""
    return f'<p class="{look}">{markup}</p>'


def parse_number(value: Any, name: str) -> float | None:
    """The number in a field that may be empty, which a gr.Number may not: it shows 0 for nothing. Raises UserError."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    except (TypeError, ValueError):
        raise UserError(f"{value!r} is not a number", name, "give a number, or leave the field empty") from None


class PageBlocks(gr.Blocks):
    """A page that says in its own language which number is missing or out of its range when a button is pressed.

    While a number is being typed it says nothing: -12 begins with a minus, which is no number yet.
    """

    language = DEFAULT

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *args: Any, **kwargs: Any) -> Any:
        for block, value in zip(block_fn.inputs, inputs, strict=False):
            if isinstance(block, (gr.Slider, gr.Number)) and not _is_in_range(block, value):
                pressed = any(event == "click" for _, event in block_fn.targets)
                raise gr.Error(self._complaint(block), 10, pressed, texts(self.language)["page.error"], False)
        return await super().preprocess_data(block_fn, inputs, *args, **kwargs)

    def _complaint(self, block: gr.Slider | gr.Number) -> str:
        known, low, high = texts(self.language), block.minimum, block.maximum
        key = "page.number" if low is None else "page.number.from" if high is None else "page.number.between"
        return html.escape(known[key].format(name=block.label, low=low, high=high))


def _is_in_range(block: gr.Slider | gr.Number, value: Any) -> bool:
    if value is None:
        return isinstance(block, gr.Number)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return (block.minimum is None or value >= block.minimum) and (block.maximum is None or value <= block.maximum)


@dataclass(frozen=True)
class Page:
    """The page in one language.

    Attributes:
        state: what all pages share.
        language: of every text on it.
        blocks: the page itself, for what is to happen when it is loaded.
        tab: the tab that is being built, for what is to happen when it is opened.
    """

    state: ServerState
    language: str
    blocks: gr.Blocks
    tab: gr.Tab | None = None

    def say(self, key: str, **values: object) -> str:
        """A text in the language of the page; without values its braces stay."""
        text = texts(self.language)[key]
        return text.format(**values) if values else text

    def note(self, key: str, look: str = "mild", **values: object) -> str:
        """HTML: a text as a small line, escaped."""
        return paragraph(html.escape(self.say(key, **values)), look)

    def field(self, kind: Callable[..., T], key: str, like: str = "", /, **details: Any) -> T:
        """A component whose label, line of help and element id come from one key.

        "convert.model" gives the id convert-model, the text convert.model and the help convert.model.help, where the
        language has them.

        Args:
            kind: class of the component.
            like: a key whose texts are taken where there are none of ``key``: several components share them.
            details: arguments of the component; they come before the texts.
        """
        known = texts(self.language)
        label, help_line = (known.get(f"{key}{part}") or known.get(f"{like}{part}") for part in ("", ".help"))
        if label is not None:
            details.setdefault("value" if kind is gr.Button else "label", label)
        if help_line is not None:
            details.setdefault("info", help_line)
        return kind(elem_id=key.replace(".", "-"), **details)

    def choices(self, key: str, values: Iterable[str]) -> list[tuple[str, str]]:
        """(text, value) pairs for a list to choose from."""
        return [(self.say(f"{key}.{value}"), value) for value in values]

    def session(self, request: gr.Request) -> Session:
        """The session of the page that sent a request."""
        return self.state.session(request)

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
        gr.Warning(html.escape(message), title=self.say("page.warning"))

    def describe(self, error: Exception) -> str:
        """What went wrong, as safe HTML: what, where, what to do."""
        if isinstance(error, OSError):
            error = describe_os_error(error)
        if not isinstance(error, UserError):
            return html.escape(self.say("page.unexpected"))
        parts = [html.escape(translate(error.what, self.language))]
        if error.where:
            where = html.escape(self.state.folders.shorten(error.where))
            parts.append(f"<small>{self.say('page.where')}: {where}</small>")
        if error.fix:
            parts.append(f"<b>{self.say('page.to-do')}:</b> {html.escape(translate(error.fix, self.language))}")
        return "<br>".join(parts)

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
            message, duration=None, title=self.say("page.error"), print_exception=debug or unexpected
        ) from error
