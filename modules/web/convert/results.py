"""What came of the songs: the queue with bars, and the box to listen, download, compare, and see the settings."""

from __future__ import annotations

import html
import time
from collections.abc import Sequence
from typing import Any

import gradio as gr

from modules.web.convert.session import DOWNLOADS, ConversionSession, SongState
from modules.web.language import translate
from modules.web.page import QUIET, Page, Updates, paragraph


class ResultsBox:
    """Components that show one of the results of the page."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.choice = page.field(gr.Dropdown, "result.choice", choices=[], visible=False)
        with page.field(gr.Column, "result.box", visible=False) as self.box:
            self._add_box()
        outputs = [
            self.box, self.audio, self.source, self.saved, self.picture, self.mix, self.command,
            *self.downloads.values(),
        ]  # fmt: skip
        self.choice.change(page.guarded(self._show), self.choice, outputs, **QUIET)

    def _add_box(self) -> None:
        page = self.page
        player: dict[str, Any] = {"interactive": False, "buttons": []}
        code: dict[str, Any] = {"lines": 1, "wrap_lines": True, "interactive": False}
        self.audio = page.field(gr.Audio, "result.audio", label=page.say("result.choice"), **player)
        with gr.Row():
            self.downloads = {
                kind: page.field(
                    gr.DownloadButton,
                    f"result.{kind}",
                    label=page.say("result.download", kind=kind),
                    size="sm",
                    min_width=90,
                )
                for kind in DOWNLOADS
            }
        self.saved = page.field(gr.HTML, "result.saved")
        self.source = page.field(gr.Audio, "result.source", **player)
        gr.HTML(page.note("result.picture.note"))
        self.picture = page.field(
            gr.Image,
            "result.picture",
            show_label=False,
            interactive=False,
            type="filepath",
            buttons=["download", "fullscreen"],
        )
        with page.field(gr.Accordion, "result.used", open=False):
            self.mix = page.field(gr.Code, "result.mix", language="python", visible=False, **code)
            self.command = page.field(gr.Code, "result.command", language="shell", **code)
            gr.HTML(page.note("result.command.note"))

    def newest(self, conversion: ConversionSession) -> Any:
        """The list of results with the newest one chosen."""
        names = list(conversion.songs)
        return gr.update(choices=names, value=names[-1] if names else None, visible=bool(names))

    def _show(self, name: str | None, request: gr.Request) -> Updates:
        conversion = self.page.session(request).conversion
        song = conversion.songs.get(name or "")
        if song is None:
            return {self.box: gr.update(visible=False)}
        files = {kind: song.files.get(kind) for kind in DOWNLOADS}
        saved = song.saved.relative_to(conversion.folders.work_dir).as_posix()
        return {
            self.box: gr.update(visible=True),
            self.audio: str(song.files[song.saved.suffix.removeprefix(".")]),
            self.source: str(song.source),
            self.saved: self.page.note("result.saved-as", "good", path=saved),
            self.picture: str(song.picture),
            self.mix: gr.update(value=song.mix, visible=bool(song.mix)),
            self.command: song.command,
            **{
                self.downloads[kind]: gr.update(value=str(path) if path else None, visible=path is not None)
                for kind, path in files.items()
            },
        }


def show_queue(page: Page, states: Sequence[SongState]) -> str:
    """HTML: a row a song with its state, its progress, its warnings and what went wrong."""
    return f'<div class="queue" role="status">{"".join(_row(page, state) for state in states)}</div>'


def _row(page: Page, state: SongState) -> str:
    share = 1.0 if state.status == "done" else state.share
    notes = "".join(paragraph(html.escape(translate(line, page.language))) for line in state.warnings)
    if state.error is not None:
        notes += paragraph(page.describe(state.error), "bad")
    unknown = state.status in ("loading", "in-line")
    bar = '<i class="unknown"></i>' if unknown else f'<i style="width:{100 * share:.0f}%"></i>'
    return (
        f'<div class="song {state.status}"><span class="name">{html.escape(state.name)}</span>'
        f'<span class="bar">{bar}</span>'
        f'<span class="state">{_status(page, state)}</span>{notes}</div>'
    )


def _status(page: Page, state: SongState) -> str:
    if state.status == "running":
        return f"{100 * state.share:.0f} %"
    if state.status in ("loading", "in-line"):
        return page.say(f"convert.{state.status}", seconds=time.monotonic() - (state.started or 0.0))
    if state.status == "done":
        return page.say("convert.done", elapsed=state.elapsed)
    return page.say(f"convert.{state.status}")
