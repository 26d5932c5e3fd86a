"""The box of the voice: which model, on what, with what besides; load and unload."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from modules.errors import UserError
from modules.inference.options import PRECISIONS, ModelOptions
from modules.web.catalog import Catalog, Choice, choice_of_files
from modules.web.convert.session import Desk, model_options, speakers_of
from modules.web.convert.worker import Stopped
from modules.web.page import Page
from modules.web.texts_convert import Convert
from modules.web.texts_options import HELP, LABELS

Values = dict[Any, Any]
NONE, AUTOMATIC = "", ""
UPLOADS = [".pth", ".safetensors", ".json", ".pt", ".pkl", ".yaml", ".yml"]


class VoiceBox:
    """Components and what they do. ``inputs`` are read by ``read``."""

    def __init__(self, page: Page) -> None:
        self.page = page
        say = page.say
        gr.HTML(f"<h3>{say(Convert.VOICE)}</h3>")
        with gr.Row(elem_classes="close"):
            self.model = gr.Dropdown(
                choices=[], label=say(Convert.MODEL), info=say(Convert.MODEL_HELP), elem_id="convert-model", scale=5
            )
            refresh = gr.Button("⟳", elem_id="convert-refresh", scale=0, min_width=44)
        self.speaker = gr.Dropdown(
            choices=[], label=say(Convert.SPEAKER), info=say(Convert.SPEAKER_HELP), elem_id="convert-speaker"
        )
        self.problems = gr.HTML(elem_id="convert-problems")
        with gr.Accordion(say(Convert.UPLOAD), open=False, elem_id="convert-upload-group"):
            upload = gr.File(file_count="multiple", file_types=UPLOADS, show_label=False, elem_id="convert-upload")
            gr.HTML(f'<p class="mild">{say(Convert.UPLOAD_HELP)}</p>')
        with gr.Accordion(say(Convert.MORE), open=False, elem_id="convert-more"):
            self._add_more()
        with gr.Row():
            load = gr.Button(say(Convert.LOAD), elem_id="convert-load", min_width=80)
            unload = gr.Button(say(Convert.UNLOAD), elem_id="convert-unload", min_width=80)
        self.state = gr.HTML(f'<p class="mild">{say(Convert.NOT_LOADED)}</p>', elem_id="convert-state")
        self.inputs = (
            self.model, self.speaker, self.diffusion_mode, self.diffusion, self.cluster, self.device, self.precision,
            self.enhance,
        )  # fmt: skip

        listed = [self.model, self.problems]
        page.blocks.load(page.guarded(self._list), self.model, listed, show_progress="hidden")
        if page.tab is not None:  # another tab may have made a model
            page.tab.select(page.guarded(self._list), self.model, listed, show_progress="hidden")
        refresh.click(page.guarded(self._list), self.model, listed, show_progress="hidden")
        upload.upload(page.guarded(self._take_upload), upload, listed)
        load.click(page.guarded(self._load), set(self.inputs), self.state, concurrency_limit=8)
        unload.click(page.guarded(self._unload), None, self.state, show_progress="hidden")

    def _add_more(self) -> None:
        say = self.page.say
        modes = [(say(text), key) for key, text in Convert.DIFFUSION_MODES.items()]
        none = [(say(Convert.NONE), NONE)]
        self.diffusion_mode = gr.Radio(
            choices=modes,
            value="none",
            label=say(Convert.DIFFUSION),
            info=say(Convert.DIFFUSION_HELP),
            elem_id="convert-diffusion-mode",
        )
        self.diffusion = gr.Dropdown(
            choices=none,
            value=NONE,
            label=say(Convert.DIFFUSION_MODEL),
            info=say(Convert.DIFFUSION_MODEL_HELP),
            elem_id="convert-diffusion",
        )
        self.cluster = gr.Dropdown(
            choices=none,
            value=NONE,
            label=say(Convert.CLUSTER),
            info=say(Convert.CLUSTER_HELP),
            elem_id="convert-cluster",
        )
        self.enhance = gr.Checkbox(label=say(LABELS["enhance"]), info=say(HELP["enhance"]), elem_id="convert-enhance")
        with gr.Row():
            self.device = gr.Dropdown(
                choices=[(say(Convert.AUTOMATIC), AUTOMATIC), *devices()],
                value=AUTOMATIC,
                label=say(LABELS["device"]),
                elem_id="convert-device",
            )
            self.precision = gr.Dropdown(
                choices=list(PRECISIONS),
                value=ModelOptions().precision,
                label=say(LABELS["precision"]),
                info=say(HELP["precision"]),
                elem_id="convert-precision",
            )

    def when_chosen(self, component: Any, make: Callable[[dict[str, int]], Any]) -> None:
        """Fill the fields that depend on the model, and ``component`` with ``make(speakers)``, when it changes."""

        def chosen(name: str | None, request: gr.Request) -> tuple[Any, ...]:
            desk = self._desk(request)
            if not name:
                return (gr.update(choices=[], value=None), *self._extras(None), make({}))
            choice = desk.catalog().find(name)
            speakers = speakers_of(choice)
            first = next(iter(speakers), None)
            return (gr.update(choices=list(speakers), value=first), *self._extras(choice), make(speakers))

        outputs = [self.speaker, self.diffusion, self.cluster, component]
        self.model.change(self.page.guarded(chosen), self.model, outputs, show_progress="hidden")

    def read(self, desk: Desk, values: Values) -> tuple[ModelOptions, Choice]:
        """What is to be loaded. Raises UserError."""
        choice = desk.catalog().find(values[self.model])
        options = model_options(
            choice,
            device=values[self.device] or None,
            precision=values[self.precision],
            enhance=bool(values[self.enhance]),
            diffusion_mode=values[self.diffusion_mode],
            diffusion=values[self.diffusion] or None,
            cluster=values[self.cluster] or None,
        )
        return options, choice

    def status(self, desk: Desk) -> str:
        """HTML: what is loaded."""
        voice = desk.voice
        if voice is None or voice.facts is None:
            return f'<p class="mild">{self.page.say(Convert.NOT_LOADED)}</p>'
        options, facts = voice.options, voice.facts
        path = options.onnx or (options.diffusion_model_path if options.only_diffusion else options.model_path)
        line = self.page.say(
            Convert.LOADED,
            name=path.name,
            speakers=", ".join(facts.speakers),
            device=facts.device,
            precision=options.precision,
        )
        return f'<p class="good">{html.escape(line)}</p>'

    def _desk(self, request: gr.Request) -> Desk:
        return Desk.of(self.page.studio, self.page.session(request))

    def _list(self, current: str | None, request: gr.Request) -> tuple[Any, str]:
        catalog = self._desk(request).catalog()
        if current in catalog.choices:  # it is not set again: the user may be choosing another one just now
            return gr.update(choices=list(catalog.choices)), self._problems(catalog)
        first = next(iter(catalog.choices), None)
        return gr.update(choices=list(catalog.choices), value=first), self._problems(catalog)

    def _problems(self, catalog: Catalog) -> str:
        lines = [self.page.say(Convert.LEFT_OUT, problem=problem) for problem in catalog.problems]
        if not catalog.choices:
            lines.insert(0, self.page.say(Convert.NO_MODELS))
        return "".join(f'<p class="mild">{html.escape(line)}</p>' for line in lines)

    def _extras(self, choice: Choice | None) -> tuple[Any, Any]:
        none = (self.page.say(Convert.NONE), NONE)
        diffusions = [(one.name, one.name) for one in choice.diffusions] if choice else []
        clusters = [(one.name, one.name) for one in choice.clusters] if choice else []
        first = diffusions[0][1] if diffusions else NONE
        return gr.update(choices=[none, *diffusions], value=first), gr.update(choices=[none, *clusters], value=NONE)

    def _take_upload(self, files: list[str] | None, request: gr.Request) -> tuple[Any, str]:
        desk = self._desk(request)
        paths = [Path(file) for file in files or []]
        models = [path for path in paths if path.suffix in (".pth", ".safetensors")]
        stem = models[0].name if models else self.page.say(Convert.UPLOAD)
        name = self.page.say(Convert.UPLOADED, name=stem)
        desk.uploads[name] = choice_of_files(name, _together(paths, desk.session.folder))
        catalog = desk.catalog()
        return gr.update(choices=list(catalog.choices), value=name), self._problems(catalog)

    def _load(self, values: Values, request: gr.Request) -> str:
        desk = self._desk(request)
        options, _ = self.read(desk, values)
        try:
            desk.load(options)
        except Stopped:
            return f'<p class="mild">{self.page.say(Convert.CANCELLED)}</p>'
        return self.status(desk)

    def _unload(self, request: gr.Request) -> str:
        self._desk(request).unload()
        return f'<p class="mild">{self.page.say(Convert.UNLOADED)}</p>'


def _together(paths: list[Path], folder: Path) -> list[Path]:
    """Uploads lie in a folder each; files that refer to each other belong side by side, and together they go."""
    target = folder / f"model-{len(list(folder.glob('model-*')))}"
    target.mkdir()
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        raise UserError(f"two of the files have the same name: {', '.join(names)}", "", "rename one of them")
    moved = []
    for path in paths:
        copy = target / path.name
        copy.hardlink_to(path)
        moved.append(copy)
    return moved


def devices() -> list[str]:
    """The devices of this machine."""
    import torch

    found = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    return [*found, "mps"] if torch.backends.mps.is_available() else found
