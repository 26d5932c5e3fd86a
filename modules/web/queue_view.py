"""The queue of songs as a table with bars."""

from __future__ import annotations

import html
from collections.abc import Sequence

from modules.web.conversion import SongState
from modules.web.page import Page
from modules.web.texts_convert import Convert


def show_queue(page: Page, states: Sequence[SongState]) -> str:
    """HTML: a row a song with its state, its progress, its warnings and what went wrong."""
    return f'<div class="queue" role="status">{"".join(_row(page, state) for state in states)}</div>'


def _row(page: Page, state: SongState) -> str:
    share = 1.0 if state.status == "done" else state.share
    notes = "".join(f'<p class="mild">{html.escape(line)}</p>' for line in state.warnings)
    if state.error is not None:
        notes += f'<p class="bad">{page.describe(state.error)}</p>'
    return (
        f'<div class="song {state.status}"><span class="name">{html.escape(state.name)}</span>'
        f'<span class="bar"><i style="width:{100 * share:.0f}%"></i></span>'
        f'<span class="state">{_status(page, state)}</span>{notes}</div>'
    )


def _status(page: Page, state: SongState) -> str:
    if state.status == "running":
        return f"{100 * state.share:.0f} %"
    if state.status == "done":
        return page.say(Convert.DONE, elapsed=state.elapsed)
    return page.say({"failed": Convert.FAILED, "cancelled": Convert.CANCELLED}.get(state.status, Convert.WAITING))
