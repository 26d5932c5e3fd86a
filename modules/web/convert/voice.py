"""The box of the voice: which model, on what, with what besides; load and unload."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import gradio as gr

from modules.errors import UserError
from modules.inference.options import PRECISIONS, ModelOptions
from modules.web.catalog import BASE_NAME, Catalog, ModelEntry, entry_of_files, keep_together, speakers_of
from modules.web.convert.session import ConversionSession, model_options
from modules.web.convert.worker import Stopped
from modules.web.language import texts
from modules.web.page import QUIET, Page, Updates, Values, paragraph

NONE, AUTOMATIC = "", ""
UPLOADS = [".pth", ".safetensors", ".json", ".pt", ".pkl", ".yaml", ".yml"]
DIFFUSION_MODES = ("none", "shallow", "only")


class VoiceBox:
    """Components and what they do. ``inputs`` are read by ``read``."""

    def __init__(self, page: Page, kept: gr.BrowserState) -> None:
        self.page, self.kept = page, kept
        gr.HTML(f"<h3>{page.say('convert.voice')}</h3>")
        with gr.Row(elem_classes="close"):
            self.model = page.field(gr.Dropdown, "convert.model", choices=[], scale=5, min_width=150)
            self.speaker = page.field(gr.Dropdown, "convert.speaker", choices=[], scale=4, min_width=130)
            self.refresh = page.field(gr.Button, "convert.refresh", value="⟳", scale=0, min_width=44)
        self.problems = page.field(gr.HTML, "convert.problems")
        self.every = page.field(gr.Checkbox, "convert.all-checkpoints", visible=False, container=False)

    def add_state(self) -> None:
        """What is loaded, and two links for who wants to decide on that."""
        page = self.page
        with gr.Row(elem_classes="close"):
            self.state = page.field(gr.HTML, "convert.state", value=page.note("convert.not-loaded"))
            link: dict[str, Any] = {"size": "sm", "scale": 0, "min_width": 60, "elem_classes": "link"}
            self.load = page.field(gr.Button, "convert.load", **link)
            self.unload = page.field(gr.Button, "convert.unload", **link)

    def add_extras(self) -> None:
        """What few people need: a model of their own, diffusion, timbre, device."""
        page = self.page
        with page.field(gr.Accordion, "convert.more", open=False):
            self._add_more()
        with page.field(gr.Accordion, "convert.upload-group", open=False):
            self.upload = page.field(
                gr.File, "convert.upload", file_count="multiple", file_types=UPLOADS, show_label=False, height=120
            )
            gr.HTML(page.note("convert.upload.note"))

    def connect(self) -> None:
        """What happens when the components are touched."""
        page = self.page
        self.inputs: set[gr.blocks.Block] = {
            self.model, self.speaker, self.diffusion_mode, self.diffusion, self.cluster, self.device, self.precision,
            self.enhance,
        }  # fmt: skip
        shown, listed = [self.model, self.every, self.kept], [self.model, self.problems, self.every]
        page.blocks.load(page.guarded(self._list), shown, listed, **QUIET)
        if page.tab is not None:  # another tab may have made a model
            page.tab.select(page.guarded(self._list), shown, listed, **QUIET)
        self.refresh.click(page.guarded(self._list), shown, listed, **QUIET)
        self.every.change(page.guarded(self._list), shown, listed, **QUIET)
        self.upload.upload(page.guarded(self._take_upload), self.upload, listed)
        self.load.click(page.guarded(self._load), self.inputs, self.state, concurrency_limit=8)
        self.unload.click(page.guarded(self._unload), None, self.state, **QUIET)

    def _add_more(self) -> None:
        page = self.page
        none = [(page.say("convert.none"), NONE)]
        modes = page.choices("convert.diffusion-mode", DIFFUSION_MODES)
        self.diffusion_mode = page.field(gr.Radio, "convert.diffusion-mode", choices=modes, value="none")
        self.diffusion = page.field(gr.Dropdown, "convert.diffusion", choices=none, value=NONE)
        self.cluster = page.field(gr.Dropdown, "convert.cluster", choices=none, value=NONE)
        self.enhance = page.field(gr.Checkbox, "convert.enhance")
        with gr.Row():
            places = [(page.say("convert.automatic"), AUTOMATIC), *devices()]
            self.device = page.field(gr.Dropdown, "convert.device", choices=places, value=AUTOMATIC)
            self.precision = page.field(
                gr.Dropdown, "convert.precision", choices=list(PRECISIONS), value=ModelOptions().precision
            )

    def when_chosen(self, outputs: list[gr.components.Component], make: Callable[[dict[str, int]], Updates]) -> None:
        """Fill the fields that depend on the model, and ``outputs`` by ``make(speakers)``, when it changes."""

        def chosen(name: str | None, kept: Any, request: gr.Request) -> Updates:
            entry = self._conversion(request).catalog().entries.get(name or "")
            try:
                speakers = speakers_of(entry) if entry is not None else {}
            except UserError as error:  # the speakers of the voice before are not its own
                gr.Warning(self.page.describe(error), title=self.page.say("page.error"))
                entry, speakers = None, {}
            before = kept.get("speaker") if isinstance(kept, dict) else None
            first = before if before in speakers else next(iter(speakers), None)
            labels = [(self._speaker_label(name, speaker), speaker) for speaker in speakers]
            speaker = {self.speaker: gr.update(choices=labels, value=first)}
            return {**speaker, **self._extras(entry), **make(speakers)}

        filled = [self.speaker, self.diffusion, self.cluster, *outputs]
        self.model.change(self.page.guarded(chosen), [self.model, self.kept], filled, **QUIET)

    def read(self, conversion: ConversionSession, values: Values) -> tuple[ModelOptions, ModelEntry]:
        """What is to be loaded. Raises UserError."""
        entry = conversion.catalog().find(values[self.model])
        options = model_options(
            entry,
            device=values[self.device] or None,
            precision=values[self.precision],
            enhance=bool(values[self.enhance]),
            diffusion_mode=values[self.diffusion_mode],
            diffusion=values[self.diffusion] or None,
            cluster=values[self.cluster] or None,
        )
        return options, entry

    def status(self, conversion: ConversionSession) -> str:
        """HTML: what is loaded."""
        voice = conversion.voice
        if voice is None or voice.facts is None:
            return self.page.note("convert.not-loaded")
        options, facts = voice.options, voice.facts
        path = options.onnx or (options.diffusion_model_path if options.only_diffusion else options.model_path)
        speakers = ", ".join(facts.speakers)
        said = {"name": path.name, "speakers": speakers, "device": facts.device, "precision": options.precision}
        return self.page.note("convert.loaded", "good", **said)

    def _conversion(self, request: gr.Request) -> ConversionSession:
        return self.page.session(request).conversion

    def _speaker_label(self, model: str | None, speaker: str) -> str:
        """The name of a speaker; of those of the base model also who they are."""
        who = texts(self.page.language).get(f"base.{speaker}") if model == BASE_NAME else None
        return f"{speaker} – {who}" if who else speaker

    def _list(self, current: str | None, every: bool, kept: Any, request: gr.Request) -> Updates:
        catalog = self._conversion(request).catalog()
        shown = catalog.entries if every else {name: catalog.entries[name] for name in newest(catalog.entries)}
        if current in catalog.entries:
            shown = {**shown, current: catalog.entries[current]}
        update: dict[str, Any] = {"choices": labelled(self.page, shown)}
        if current not in catalog.entries:  # else it is not set again: the user may be choosing another one just now
            before = kept.get("model") if isinstance(kept, dict) else None
            update["value"] = before if before in catalog.entries else next(iter(catalog.entries), None)
            shown = {**shown, **({before: catalog.entries[before]} if before in catalog.entries else {})}
            update["choices"] = labelled(self.page, shown)
        hides = every or len(newest(catalog.entries)) < len(catalog.entries)
        return {
            self.model: gr.update(**update),
            self.problems: self._problems(catalog),
            self.every: gr.update(visible=hides),
        }

    def _problems(self, catalog: Catalog) -> str:
        lines = [self.page.say("convert.left-out", problem=problem) for problem in catalog.problems]
        if not catalog.entries:
            lines.insert(0, self.page.say("convert.no-models"))
        return "".join(paragraph(html.escape(line)) for line in lines)

    def _extras(self, entry: ModelEntry | None) -> Updates:
        none = (self.page.say("convert.none"), NONE)
        diffusions = [(one.name, one.name) for one in entry.diffusions] if entry else []
        clusters = [(one.name, one.name) for one in entry.clusters] if entry else []
        first = diffusions[0][1] if diffusions else NONE
        return {
            self.diffusion: gr.update(choices=[none, *diffusions], value=first),
            self.cluster: gr.update(choices=[none, *clusters], value=NONE),
        }

    def _take_upload(self, files: list[str] | None, request: gr.Request) -> Updates:
        conversion = self._conversion(request)
        paths = [Path(file) for file in files or []]
        models = [path for path in paths if path.suffix in (".pth", ".safetensors")]
        stem = models[0].name if models else self.page.say("convert.upload-group")
        name = self.page.say("convert.uploaded", name=stem)
        conversion.uploads[name] = entry_of_files(name, keep_together(paths, conversion.folder))
        catalog = conversion.catalog()
        return {
            self.model: gr.update(choices=labelled(self.page, catalog.entries), value=name),
            self.problems: self._problems(catalog),
            self.every: gr.skip(),
        }

    def _load(self, values: Values, request: gr.Request) -> str:
        conversion = self._conversion(request)
        options, _ = self.read(conversion, values)
        try:
            conversion.load(options)
        except Stopped:
            return self.page.note("convert.cancelled")
        return self.status(conversion)

    def _unload(self, request: gr.Request) -> str:
        self._conversion(request).unload()
        return self.page.note("convert.unloaded")


def newest(names: Iterable[str]) -> list[str]:
    """Of each model in logs/ only the best checkpoint, or the newest one: it comes first."""
    found: dict[str, str] = {}
    for name in names:
        kind, _, rest = name.partition("/")
        found.setdefault(f"logs/{rest.partition('/')[0]}" if kind == "logs" else name, name)
    return list(found.values())


def labelled(page: Page, names: Iterable[str]) -> list[tuple[str, str]]:
    """(what a person reads, name) of models: logs/maria/G_best.pth is "maria (best)"."""
    return [(_label(page, name), name) for name in names]


def _label(page: Page, name: str) -> str:
    if name == BASE_NAME:
        return page.say("convert.base")
    kind, _, rest = name.partition("/")
    folder, _, file = rest.partition("/")
    if kind != "logs" or not file:
        return name
    step = Path(file).stem.removeprefix("G_")
    if step == "best":
        return page.say("convert.best", name=folder)
    return page.say("convert.at-step", name=folder, step=step) if step.isdigit() else name


def devices() -> list[str]:
    """The devices of this machine."""
    import torch

    found = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    return [*found, "mps"] if torch.backends.mps.is_available() else found
