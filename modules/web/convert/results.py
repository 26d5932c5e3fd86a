"""The box of the results: listen, download, compare, and what it was made with."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import gradio as gr

from modules.web.convert.session import DOWNLOADS, Desk, Result, SongState
from modules.web.page import Page
from modules.web.texts_convert import Convert


class ResultsBox:
    """Components that show one of the results of the page."""

    def __init__(self, page: Page) -> None:
        self.page = page
        say = page.say
        self.choice = gr.Dropdown(
            choices=[], label=say(Convert.RESULT), info=say(Convert.RESULT_HELP), visible=False, elem_id="result-choice"
        )
        with gr.Column(visible=False, elem_id="result-box") as self.box:
            with gr.Row():
                self.audio = gr.Audio(label=say(Convert.RESULT), interactive=False, buttons=[], elem_id="result-audio")
                self.source = gr.Audio(
                    label=say(Convert.SOURCE), interactive=False, buttons=[], elem_id="result-source"
                )
            with gr.Row():
                self.downloads = [
                    gr.DownloadButton(say(Convert.DOWNLOAD, kind=kind), size="sm", elem_id=f"result-{kind}")
                    for kind in DOWNLOADS
                ]
            self.saved = gr.HTML(elem_id="result-saved")
            gr.HTML(f'<p class="mild">{say(Convert.PICTURE)}</p>')
            self.picture = gr.Image(
                show_label=False,
                interactive=False,
                type="filepath",
                buttons=["download", "fullscreen"],
                elem_id="result-picture",
            )
            with gr.Accordion(say(Convert.USED), open=False, elem_id="result-used"):
                self.mix = gr.Code(
                    label=say(Convert.COMMAND_MIX),
                    language="python",
                    lines=1,
                    wrap_lines=True,
                    visible=False,
                    interactive=False,
                    elem_id="result-mix",
                )
                self.command = gr.Code(
                    label=say(Convert.COMMAND),
                    language="shell",
                    lines=1,
                    wrap_lines=True,
                    interactive=False,
                    elem_id="result-command",
                )
                gr.HTML(f'<p class="mild">{say(Convert.COMMAND_SONG)}</p>')
        outputs = [
            self.box, self.audio, self.source, *self.downloads, self.saved, self.picture, self.mix, self.command,
        ]  # fmt: skip
        self.choice.change(page.guarded(self._show), self.choice, outputs, show_progress="hidden")

    def newest(self, desk: Desk) -> Any:
        """The list of results with the newest one chosen."""
        names = list(desk.results)
        return gr.update(choices=names, value=names[-1] if names else None, visible=bool(names))

    def _show(self, name: str | None, request: gr.Request) -> tuple[Any, ...]:
        desk = Desk.of(self.page.studio, self.page.session(request))
        result = desk.results.get(name or "")
        if result is None:
            return (gr.update(visible=False), *[gr.skip()] * (6 + len(self.downloads)))
        files = [result.files.get(kind) for kind in DOWNLOADS]
        downloads = [gr.update(value=str(path) if path else None, visible=path is not None) for path in files]
        return (
            gr.update(visible=True),
            str(result.files[result.saved.suffix.removeprefix(".")]),
            str(result.source),
            *downloads,
            self._saved(desk, result),
            str(result.picture),
            gr.update(value=result.mix, visible=bool(result.mix)),
            result.command,
        )

    def _saved(self, desk: Desk, result: Result) -> str:
        path = result.saved.relative_to(desk.studio.home).as_posix()
        return f'<p class="good">{html.escape(self.page.say(Convert.SAVED, path=path))}</p>'


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
