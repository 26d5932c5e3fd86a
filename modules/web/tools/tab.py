"""The tab that mixes, releases and exports models, and makes old files safe."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from modules.errors import UserError
from modules.mixing import MODES
from modules.web.convert.session import Desk
from modules.web.language import Text
from modules.web.page import Page
from modules.web.texts_tools import Tools
from modules.web.tools import actions as tools

ONNX_PARTS = ("encoder", "f0", "auto-f0", "diffusion", "vocoder")
ONNX_FIRST = ["encoder", "f0"]
Shown = tuple[Any, Any, Any]  # of the three outputs of a tool


def build_tools_tab(page: Page) -> None:
    """Add what is in the tab."""
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
        self.log = gr.HTML(elem_id=f"{name}-log")
        self.files = gr.File(
            label=page.say(Tools.FILE), file_count="multiple", interactive=False, visible=False, elem_id=f"{name}-files"
        )
        self.command = gr.Code(
            label=page.say(Tools.COMMAND),
            language="shell",
            lines=1,
            wrap_lines=True,
            interactive=False,
            visible=False,
            elem_id=f"{name}-command",
        )
        self.all = [self.log, self.files, self.command]

    def follow(self, desk: Desk, steps: Iterator[tools.Step]) -> Iterator[Shown]:
        """Show a tool at work."""
        lines: list[str] = []
        yield "", gr.update(visible=False), gr.update(visible=False)
        for step in steps:
            if isinstance(step, str):
                lines = [*lines, step][-8:]
                yield f"<pre>{html.escape(chr(10).join(lines))}</pre>", gr.skip(), gr.skip()
                continue
            names = ", ".join(_shown_path(desk, path) for path in step.files)
            done = html.escape(self.page.say(Tools.WRITTEN, path=names))
            own = [str(_for_browser(desk, path)) for path in step.files]
            yield (
                f'<p class="good">{done}</p>',
                gr.update(value=own, visible=True),
                gr.update(value=step.command, visible=True),
            )


def _shown_path(desk: Desk, path: Path) -> str:
    home = desk.studio.home
    return path.relative_to(home).as_posix() if path.is_relative_to(home) else path.name


def _for_browser(desk: Desk, path: Path) -> Path:
    """The server hands out files of the page's own folder alone."""
    if path.is_relative_to(desk.session.folder):
        return path
    target = desk.session.folder / "made" / path.name
    target.parent.mkdir(exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(path)
    except OSError:  # another disk
        target.write_bytes(path.read_bytes())
    return target


def _desk(page: Page, request: gr.Request) -> Desk:
    return Desk.of(page.studio, page.session(request))


def _head(page: Page, title: Text, text: Text) -> None:
    gr.HTML(f'<h3>{page.say(title)}</h3><p class="mild">{html.escape(page.say(text))}</p>')


def _model_choice(page: Page, elem_id: str, several: bool = False) -> gr.Dropdown:
    """A list of models that is read anew when it is opened, and when the page is loaded."""
    component = gr.Dropdown(
        choices=[],
        multiselect=several,
        label=page.say(Tools.MIX_MODELS if several else Tools.MODEL),
        info=page.say(Tools.MIX_MODELS_HELP if several else Tools.MODEL_HELP),
        elem_id=elem_id,
    )

    def refresh(current: Any, request: gr.Request) -> Any:
        names = [name for name, one in _desk(page, request).catalog().choices.items() if one.model is not None]
        chosen = current or [] if several else [current]
        if all(name in names for name in chosen):  # it is not set again: the user may be choosing just now
            return gr.update(choices=names)
        kept = [name for name in chosen if name in names]
        return gr.update(choices=names, value=kept if several else next(iter(names), None))

    guarded = page.guarded(refresh)
    page.blocks.load(guarded, component, component, show_progress="hidden")
    component.focus(guarded, component, component, show_progress="hidden")
    return component


def _name_field(page: Page, elem_id: str, info: Text = Tools.NAME_HELP) -> gr.Textbox:
    return gr.Textbox(label=page.say(Tools.NAME), info=page.say(info), max_lines=1, elem_id=elem_id)


def _add_mix(page: Page) -> None:
    _head(page, Tools.MIX, Tools.MIX_HELP)
    models = _model_choice(page, "mix-models", several=True)
    modes = [(page.say(text), mode) for mode, text in Tools.MIX_MODES.items()]
    mode = gr.Radio(choices=modes, value=next(iter(MODES)), label=page.say(Tools.MIX_MODE), elem_id="mix-mode")
    place = gr.Column()
    name = _name_field(page, "mix-name")
    go = gr.Button(page.say(Tools.MIX_GO), variant="primary", elem_id="mix-go")
    output = Output(page, "mix")

    with place:

        @gr.render(inputs=models)
        def sliders(names: list[str] | None) -> None:
            shares = [_add_share(page, number, one) for number, one in enumerate(names or [])]

            def mix(values: dict[Any, Any], request: gr.Request) -> Iterator[Shown]:
                desk = _desk(page, request)
                percents = [_number(values[share]) for share in shares]
                yield from output.follow(desk, tools.mix(desk, names or [], percents, values[mode], values[name]))

            go.click(page.guarded(mix), {mode, name, *shares}, output.all, show_progress="hidden")


def _add_share(page: Page, number: int, name: str) -> gr.Slider:
    """The slider of one model of a mix; it keeps its value when another model joins."""
    return gr.Slider(
        0,
        100,
        value=50,
        step=1,
        interactive=True,
        label=page.say(Tools.PERCENT, name=name),
        key=f"percent-{name}",
        elem_id=f"mix-percent-{number}",
    )


def _add_release(page: Page) -> None:
    _head(page, Tools.COMPRESS, Tools.COMPRESS_HELP)
    model = _model_choice(page, "release-model")
    kinds = [(page.say(text), kind) for kind, text in Tools.KINDS.items()]
    kind = gr.Radio(choices=kinds, value="safetensors", label=page.say(Tools.KIND), elem_id="release-kind")
    half = gr.Checkbox(label=page.say(Tools.HALF), info=page.say(Tools.HALF_HELP), elem_id="release-half")
    name = _name_field(page, "release-name")
    go = gr.Button(page.say(Tools.COMPRESS_GO), variant="primary", elem_id="release-go")
    output = Output(page, "release")

    def release(model: str, kind: str, half: bool, name: str, request: gr.Request) -> Iterator[Shown]:
        desk = _desk(page, request)
        yield from output.follow(desk, tools.release(desk, model, kind, half, name))

    go.click(page.guarded(release), [model, kind, half, name], output.all, show_progress="hidden")


def _add_onnx(page: Page) -> None:
    _head(page, Tools.ONNX, Tools.ONNX_HELP)
    model = _model_choice(page, "onnx-model")
    parts = gr.CheckboxGroup(
        choices=list(ONNX_PARTS),
        value=ONNX_FIRST,
        label=page.say(Tools.ONNX_PARTS),
        info=page.say(Tools.ONNX_PARTS_HELP),
        elem_id="onnx-parts",
    )
    half = gr.Checkbox(label=page.say(Tools.HALF), info=page.say(Tools.HALF_HELP), elem_id="onnx-half")
    name = _name_field(page, "onnx-name", Tools.ONNX_NAME_HELP)
    go = gr.Button(page.say(Tools.ONNX_GO), variant="primary", elem_id="onnx-go")
    output = Output(page, "onnx")

    def export(model: str, parts: list[str], half: bool, name: str, request: gr.Request) -> Iterator[Shown]:
        desk = _desk(page, request)
        yield from output.follow(desk, tools.export_onnx(desk, model, parts, half, name))

    go.click(page.guarded(export), [model, parts, half, name], output.all, show_progress="hidden")


def _add_safetensors(page: Page) -> None:
    _head(page, Tools.SAFE, Tools.SAFE_HELP)
    files = gr.File(
        file_count="multiple",
        file_types=[".pth", ".pt", ".ckpt", ".json"],
        label=page.say(Tools.SAFE_FILES),
        elem_id="safe-upload",
        height=140,
    )
    go = gr.Button(page.say(Tools.SAFE_GO), variant="primary", elem_id="safe-go")
    output = Output(page, "safe")

    def make_safe(files: list[str] | None, request: gr.Request) -> Iterator[Shown]:
        desk = _desk(page, request)
        yield from output.follow(desk, tools.to_safetensors(desk, [Path(file) for file in files or []]))

    go.click(page.guarded(make_safe), files, output.all, show_progress="hidden")


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UserError(f"not a percentage: {value!r}", "", "load the page anew")
    return float(value)
