"""The tab that mixes, releases and exports models, and makes old files safe."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from modules.errors import UserError
from modules.mixing import MODES
from modules.web.convert.voice import labelled
from modules.web.page import QUIET, Page, Updates, Values
from modules.web.state import Session
from modules.web.tools import actions

KINDS = ("safetensors", "pth")
ONNX_PARTS = ("encoder", "f0", "auto-f0", "diffusion", "vocoder")
ONNX_FIRST = ["encoder", "f0"]
SHOWN_LINES = 8


def build_tools_tab(page: Page) -> None:
    """A column for each two tools."""
    with gr.Row(equal_height=False):
        with gr.Column(min_width=320):
            _add_mix(page)
            _add_safetensors(page)
        with gr.Column(min_width=320):
            _add_release(page)
            _add_onnx(page)


class Output:
    """Where a tool says what it does: its lines, its files, its command."""

    def __init__(self, page: Page, name: str) -> None:
        self.page = page
        self.log = page.field(gr.HTML, f"{name}.log")
        self.files = page.field(
            gr.File,
            f"{name}.files",
            "tools.files",
            file_count="multiple",
            interactive=False,
            visible=False,
        )
        self.command = page.field(
            gr.Code,
            f"{name}.command",
            "tools.command",
            language="shell",
            lines=1,
            wrap_lines=True,
            interactive=False,
            visible=False,
        )
        self.all = [self.log, self.files, self.command]

    def follow(self, session: Session, steps: Iterator[actions.Step]) -> Iterator[Updates]:
        """Show a tool at work."""
        lines: list[str] = []
        yield {self.log: "", self.files: gr.update(visible=False), self.command: gr.update(visible=False)}
        for step in steps:
            if isinstance(step, str):
                lines = [*lines, step][-SHOWN_LINES:]
                yield {self.log: f"<pre>{html.escape(chr(10).join(lines))}</pre>"}
                continue
            names = ", ".join(_shown_path(session, path) for path in step.files)
            own = [str(_for_browser(session, path)) for path in step.files]
            yield {
                self.log: self.page.note("tools.written", "good", path=names),
                self.files: gr.update(value=own, visible=True),
                self.command: gr.update(value=step.command, visible=True),
            }


def _shown_path(session: Session, path: Path) -> str:
    work_dir = session.folders.work_dir
    return path.relative_to(work_dir).as_posix() if path.is_relative_to(work_dir) else path.name


def _for_browser(session: Session, path: Path) -> Path:
    """The server hands out files of the page's own folder alone."""
    if path.is_relative_to(session.folder):
        return path
    target = session.folder / "made" / path.name
    target.parent.mkdir(exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(path)
    except OSError:  # another disk
        target.write_bytes(path.read_bytes())
    return target


def _head(page: Page, key: str) -> None:
    gr.HTML(f"<h3>{page.say(key)}</h3>{page.note(f'{key}.note')}")


def _model_choice(page: Page, key: str, several: bool = False) -> gr.Dropdown:
    """A list of models that is read anew when it is opened, and when the page is loaded."""
    component = page.field(gr.Dropdown, key, "tools.model", choices=[], multiselect=several)

    def refresh(current: Any, request: gr.Request) -> Any:
        entries = page.session(request).conversion.catalog().entries
        names = [name for name, entry in entries.items() if entry.model is not None]
        chosen = current or [] if several else [current]
        if all(name in names for name in chosen):  # it is not set again: the user may be choosing just now
            return gr.update(choices=labelled(page, names))
        kept = [name for name in chosen if name in names]
        return gr.update(choices=labelled(page, names), value=kept if several else next(iter(names), None))

    guarded = page.guarded(refresh)
    page.blocks.load(guarded, component, component, **QUIET)
    component.focus(guarded, component, component, **QUIET)
    return component


def _name_field(page: Page, key: str) -> gr.Textbox:
    return page.field(gr.Textbox, key, "tools.name", max_lines=1)


def _half_field(page: Page, key: str) -> gr.Checkbox:
    return page.field(gr.Checkbox, key, "tools.half")


def _add_mix(page: Page) -> None:
    _head(page, "mix.title")
    models = _model_choice(page, "mix.models", several=True)
    mode = page.field(gr.Radio, "mix.mode", choices=page.choices("mix.mode", MODES), value=next(iter(MODES)))
    place = gr.Column()
    name = _name_field(page, "mix.name")
    go = page.field(gr.Button, "mix.go", variant="primary")
    output = Output(page, "mix")

    with place:

        @gr.render(inputs=models)
        def sliders(names: list[str] | None) -> None:
            shares = [_add_share(page, number, one) for number, one in enumerate(names or [])]

            def mix(values: Values, request: gr.Request) -> Iterator[Updates]:
                session = page.session(request)
                percents = [_number(values[share]) for share in shares]
                steps = actions.mix(session, names or [], percents, values[mode], values[name])
                yield from output.follow(session, steps)

            go.click(page.guarded(mix), {mode, name, *shares}, output.all, **QUIET)


def _add_share(page: Page, number: int, name: str) -> gr.Slider:
    """The slider of one model of a mix; it keeps its value when another model joins."""
    return page.field(
        gr.Slider,
        f"mix.percent-{number}",
        label=page.say("mix.percent", name=name),
        minimum=0,
        maximum=100,
        value=50,
        step=1,
        interactive=True,
        key=f"percent-{name}",
    )


def _add_release(page: Page) -> None:
    _head(page, "release.title")
    model = _model_choice(page, "release.model")
    kind = page.field(gr.Radio, "release.kind", choices=page.choices("release.kind", KINDS), value=KINDS[0])
    half = _half_field(page, "release.half")
    name = _name_field(page, "release.name")
    go = page.field(gr.Button, "release.go", variant="primary")
    output = Output(page, "release")

    def release(model: str, kind: str, half: bool, name: str, request: gr.Request) -> Iterator[Updates]:
        session = page.session(request)
        yield from output.follow(session, actions.release(session, model, kind, half, name))

    go.click(page.guarded(release), [model, kind, half, name], output.all, **QUIET)


def _add_onnx(page: Page) -> None:
    _head(page, "onnx.title")
    model = _model_choice(page, "onnx.model")
    parts = page.field(gr.CheckboxGroup, "onnx.parts", choices=list(ONNX_PARTS), value=ONNX_FIRST)
    half = _half_field(page, "onnx.half")
    name = _name_field(page, "onnx.name")
    go = page.field(gr.Button, "onnx.go", variant="primary")
    output = Output(page, "onnx")

    def export(model: str, parts: list[str], half: bool, name: str, request: gr.Request) -> Iterator[Updates]:
        session = page.session(request)
        yield from output.follow(session, actions.export_onnx(session, model, parts, half, name))

    go.click(page.guarded(export), [model, parts, half, name], output.all, **QUIET)


def _add_safetensors(page: Page) -> None:
    _head(page, "safe.title")
    files = page.field(
        gr.File, "safe.upload", file_count="multiple", file_types=[".pth", ".pt", ".ckpt", ".json"], height=140
    )
    go = page.field(gr.Button, "safe.go", variant="primary")
    output = Output(page, "safe")

    def make_safe(files: list[str] | None, request: gr.Request) -> Iterator[Updates]:
        session = page.session(request)
        yield from output.follow(session, actions.to_safetensors(session, [Path(file) for file in files or []]))

    go.click(page.guarded(make_safe), files, output.all, **QUIET)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UserError(f"not a percentage: {value!r}", "", "load the page anew")
    return float(value)
