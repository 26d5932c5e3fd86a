"""What lies in results/: songs of earlier days and other pages, to be heard, fetched and deleted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gradio as gr

from modules.errors import UserError
from modules.inference.options import WAV_FORMATS
from modules.web.convert.notes import forget_command, read_command
from modules.web.page import QUIET, Page, Updates

MOST = 200  # that are listed


class HistoryBox:
    """A list of the songs in results/, the newest first, with a player for one of them."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.results = page.state.folders.of_user("results")
        with page.field(gr.Accordion, "history.box", open=False) as box:
            self.choice = page.field(gr.Dropdown, "history.choice", choices=[], value=None)
            self.audio = page.field(
                gr.Audio, "history.audio", show_label=False, interactive=False, buttons=["download"], visible=False
            )
            self.command = page.field(
                gr.Code, "history.command", "result.command", language="shell", lines=1, wrap_lines=True,
                interactive=False, visible=False,
            )  # fmt: skip
            self.delete = page.field(gr.Button, "history.delete", size="sm", visible=False)
        shown = [self.audio, self.command, self.delete]
        box.expand(page.guarded(self._list), self.choice, self.choice, **QUIET)
        self.choice.focus(page.guarded(self._list), self.choice, self.choice, **QUIET)
        self.choice.change(page.guarded(self._show), self.choice, shown, **QUIET)
        self.delete.click(page.guarded(self._delete), self.choice, self.choice, **QUIET)

    def _list(self, current: str | None) -> Any:
        names = list(songs_in(self.results))
        if current is None or current in names:  # it is not set again: the user may be choosing just now
            return gr.update(choices=names)
        return gr.update(choices=names, value=None)

    def _show(self, name: str | None, request: gr.Request) -> Updates:
        if not name:
            hidden = gr.update(visible=False)
            return {self.audio: gr.update(visible=False, value=None), self.command: hidden, self.delete: hidden}
        path = self._find(name)
        copy = self.page.session(request).folder / "history" / name
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, copy)
        command = read_command(path)
        return {
            self.audio: gr.update(visible=True, value=str(copy)),
            self.command: gr.update(visible=bool(command), value=command),
            self.delete: gr.update(visible=True),
        }

    def _delete(self, name: str | None) -> Any:
        path = self._find(name)
        path.unlink()
        forget_command(path)
        return gr.update(choices=list(songs_in(self.results)), value=None)

    def _find(self, name: str | None) -> Path:
        path = songs_in(self.results).get(name or "")
        if path is None:
            raise UserError(f"there is no song {name!r}", "results/", "choose one of the list")
        return path


def songs_in(results: Path) -> dict[str, Path]:
    """The songs in a folder by their names, the newest first; hidden ones and links are left out."""
    if not results.is_dir():
        return {}
    suffixes = {f".{kind}" for kind in WAV_FORMATS}
    found = [
        path
        for path in results.iterdir()
        if path.suffix in suffixes and not path.name.startswith(".") and path.is_file() and not path.is_symlink()
    ]
    newest = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)[:MOST]
    return {path.name: path for path in newest}
