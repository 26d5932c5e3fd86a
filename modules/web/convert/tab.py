"""The tab that converts songs: a voice, a song, the settings, and what came of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import gradio as gr

from modules.errors import UserError
from modules.inference.options import WAV_FORMATS, InferenceOptions
from modules.options import Setting, settings
from modules.web.catalog import embedding_rows, speakers_of
from modules.web.convert.history import HistoryBox
from modules.web.convert.mix import MixBox, mix_of, tracks_of
from modules.web.convert.results import ResultsBox, show_queue
from modules.web.convert.session import ConversionRequest, ConversionSession, check_request
from modules.web.convert.song import SongBox
from modules.web.convert.voice import VoiceBox
from modules.web.convert.weights import WeightsBox
from modules.web.page import QUIET, Page, Updates, Values, parse_number

# What a slider offers: lowest, highest, step. Wider values stay possible on the command line.
SANE: dict[str, tuple[float, float, float]] = {
    "trans": (-24, 24, 1),
    "f0_min": (20, 400, 5),
    "f0_max": (400, 2000, 50),
    "clip": (0, 60, 1),
    "linear_gradient": (0, 5, 0.1),
    "linear_gradient_retain": (0, 1, 0.05),
    "slice_db": (-80, -10, 1),
    "pad_seconds": (0, 3, 0.1),
    "noise_scale": (0, 1.5, 0.05),
    "loudness_envelope_adjustment": (0, 1, 0.05),
    "cluster_infer_ratio": (0, 1, 0.05),
    "k_step": (1, 1000, 1),
    "enhancer_adaptive_key": (-12, 12, 1),
}
UPPERMOST = ("trans", "f0_predictor")
SOUND = (
    "noise_scale", "loudness_envelope_adjustment", "cluster_infer_ratio", "k_step", "second_encoding",
    "enhancer_adaptive_key", "seed",
)  # fmt: skip
PITCH = ("f0_filter_threshold", "f0_min", "f0_max", "auto_predict_f0")
CUTTING = ("slice_db", "pad_seconds", "clip", "linear_gradient", "linear_gradient_retain")

DEPENDENT = (  # settings that some choices leave without effect
    "f0_filter_threshold", "cluster_infer_ratio", "k_step", "second_encoding", "enhancer_adaptive_key",
    "linear_gradient", "linear_gradient_retain",
)  # fmt: skip
IDLE_AT_FIRST = frozenset(DEPENDENT) - {"f0_filter_threshold"}
KEPT_OPENLY = "no secret: what the browser remembers is what its page shows"
WITH_THRESHOLD = ("crepe", "rmvpe", "fcpe")
PAGE_DEFAULTS = {"f0_predictor": "fcpe"}  # better than that of the command line, which is the original's
# On a phone the queue and the results lie further down.
SHOW_QUEUE = """() => { if (window.innerWidth < 800)
  document.getElementById("convert-start").scrollIntoView({behavior: "smooth", block: "start"}); }"""

_SETTINGS: dict[str, tuple[dataclasses.Field[Any], Setting]] = {
    field.name: (field, setting) for field, setting in settings(InferenceOptions)
}


class ConvertTab:
    """Components, and what happens when they are touched."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.options: dict[str, Any] = {}
        self.kept = gr.BrowserState(None, storage_key="conversion", secret=KEPT_OPENLY)
        with gr.Row(equal_height=False, elem_id="convert-columns"):
            with gr.Column(scale=1, min_width=340):
                self.song = SongBox(page)
                self.voice = VoiceBox(page, self.kept)
                self.weights = WeightsBox(page)
                self._add_uppermost()
            with gr.Column(scale=1, min_width=340):
                with gr.Row():
                    self.start = page.field(gr.Button, "convert.start", variant="primary", scale=3)
                    self.cancel = page.field(gr.Button, "convert.cancel", variant="stop", scale=1, min_width=90)
                self.queue = page.field(gr.HTML, "convert.queue")
                self.results = ResultsBox(page)
                HistoryBox(page)
                self.voice.add_state()
        self._add_fine_tuning()
        self._connect()

    def _add_uppermost(self) -> None:
        """The settings that matter for every song."""
        page = self.page
        with gr.Row():
            for name in UPPERMOST:
                self.options[name] = add_control(page, name)
            self.format = page.field(
                gr.Dropdown, "convert.format", choices=list(WAV_FORMATS), value=WAV_FORMATS[0], min_width=100
            )

    def _add_fine_tuning(self) -> None:
        page = self.page
        gr.HTML(f"<h3>{page.say('convert.settings')}</h3>")
        for title, names in (("convert.sound", SOUND), ("convert.pitch", PITCH), ("convert.cutting", CUTTING)):
            with page.field(gr.Accordion, f"convert.{names[0]}-group", label=page.say(title), open=False), gr.Row():
                for name in names:
                    with gr.Column(min_width=260):
                        self.options[name] = add_control(page, name)
        self.mix = MixBox(page)
        self.voice.add_extras()

    def _connect(self) -> None:
        page, options, voice = self.page, self.options, self.voice
        voice.connect()
        voice.when_chosen([self.mix.rows], self.mix.refill)
        self.weights.connect(voice, options["f0_predictor"])
        self.song.watch_range(voice, options["trans"])
        deciding = [options["f0_predictor"], options["clip"], voice.diffusion_mode, voice.cluster, voice.enhance]
        gr.on(
            [component.change for component in deciding],
            page.guarded(self._grey_out),
            {*deciding},
            [options[name] for name in DEPENDENT],
            **QUIET,
        )
        kept = {voice.model, voice.speaker, self.format, *options.values()}
        page.blocks.load(page.guarded(self._restore), self.kept, [self.format, *options.values()], **QUIET)
        changes = [component.change for component in (voice.speaker, self.format, *options.values())]
        gr.on(changes, page.guarded(self._keep), kept, self.kept, trigger_mode="always_last", **QUIET)
        inputs = {*voice.inputs, *self.song.inputs, *options.values(), self.format, *self.mix.inputs}
        outputs = [self.queue, self.results.choice, voice.state]
        event: dict[str, Any] = {"concurrency_limit": 8, "trigger_mode": "multiple", **QUIET}
        self.start.click(None, js=SHOW_QUEUE)
        self.start.click(page.guarded(self.convert), inputs, outputs, **event)
        self.song.sample.click(
            page.guarded(self._take_sample), inputs, [self.song.files, self.song.kind, options["trans"]], **QUIET
        ).success(page.guarded(self.convert), inputs, outputs, **event)
        self.cancel.click(page.guarded(self.stop), None, None, **QUIET)

    def _keep(self, values: Values) -> Any:
        """What the browser remembers for the next time: the voice and the settings, where they are right."""
        try:
            options = read_options({name: values[component] for name, component in self.options.items()})
        except UserError:  # while a number is being typed
            return gr.skip()
        chosen = {"model": values[self.voice.model], "speaker": values[self.voice.speaker]}
        return {**chosen, "format": values[self.format], "options": dataclasses.asdict(options)}

    def _restore(self, kept: Any) -> Updates:
        """The settings that the browser remembers; as they are where it remembers none, or some that cannot be."""
        untouched = {component: gr.skip() for component in (self.format, *self.options.values())}
        try:
            options = dataclasses.asdict(read_options(kept["options"]))
        except (UserError, KeyError, TypeError, ValueError):
            return untouched
        shown = {self.options[name]: "" if value is None else value for name, value in options.items()}
        return {**untouched, **shown, **({self.format: kept["format"]} if kept.get("format") in WAV_FORMATS else {})}

    def _grey_out(self, values: Values) -> Updates:
        """Settings that do nothing with what is chosen cannot be touched."""
        voice, options = self.voice, self.options
        shallow = values[voice.diffusion_mode] == "shallow"
        clips = bool(values[options["clip"]])
        heeded = {
            "f0_filter_threshold": values[options["f0_predictor"]] in WITH_THRESHOLD,
            "cluster_infer_ratio": bool(values[voice.cluster]),
            "k_step": shallow,
            "second_encoding": shallow,
            "enhancer_adaptive_key": bool(values[voice.enhance]),
            "linear_gradient": clips,
            "linear_gradient_retain": clips,
        }
        return {options[name]: gr.update(interactive=heeded[name]) for name in DEPENDENT}

    def _take_sample(self, values: Values, request: gr.Request) -> Updates:
        self.weights.check(values, request)
        return self.song.take_sample(values, self.voice, self.options["trans"], request)

    def convert(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        """Convert the songs, and show the queue as it moves."""
        conversion = self.page.session(request).conversion
        wanted, songs = self._read(conversion, values), self.song.chosen(conversion, values)
        self.weights.check(values, request)
        shown: Updates = {}
        for states in conversion.convert(wanted, songs):
            now = {
                self.queue: show_queue(self.page, states),
                self.voice.state: self.voice.status(conversion),
            }
            changed = {component: value for component, value in now.items() if shown.get(component) != value}
            shown = now
            if changed:  # a page that is sent ten times a second what it shows already answers late
                yield changed
        yield {
            self.queue: show_queue(self.page, conversion.queue),
            self.results.choice: self.results.newest(conversion),
            self.voice.state: self.voice.status(conversion),
        }

    def stop(self, request: gr.Request) -> None:
        """Cancel what this page converts."""
        self.page.session(request).conversion.cancel()

    def _read(self, conversion: ConversionSession, values: Values) -> ConversionRequest:
        model, entry = self.voice.read(conversion, values)
        options = read_options({name: values[component] for name, component in self.options.items()})
        speakers, speaker = speakers_of(entry), values[self.voice.speaker]
        mix, tracks = None, {}
        if values[self.mix.on]:
            rows = values[self.mix.rows]
            tracks, mix = tracks_of(rows), mix_of(rows, speakers, embedding_rows(entry))
        elif speaker not in speakers:
            known = ", ".join(speakers)
            raise UserError(f"there is no speaker {speaker!r}", entry.name, f"choose one of: {known}")
        wanted = ConversionRequest(model, str(speaker), options, str(values[self.format]), mix, tracks)
        check_request(wanted)
        return wanted


def add_control(page: Page, name: str) -> gr.components.Component:
    """The component of one setting: its default and limits come from InferenceOptions."""
    field, setting = _SETTINGS[name]
    key, default = f"convert.{name}", PAGE_DEFAULTS.get(name, field.default)
    live = {"interactive": name not in IDLE_AT_FIRST}
    if isinstance(default, bool):
        return page.field(gr.Checkbox, key, value=default, **live)
    if setting.choices:
        return page.field(gr.Dropdown, key, choices=list(setting.choices), value=default, min_width=100)
    if name in SANE:
        low, high, step = SANE[name]
        return page.field(gr.Slider, key, minimum=low, maximum=high, step=step, value=default, min_width=180, **live)
    if default is None:
        return page.field(gr.Textbox, key, value="", placeholder=page.say("convert.by-itself"), max_lines=1)
    limits = {"minimum": setting.low, "maximum": _safe(setting.high)}
    return page.field(gr.Number, key, precision=0 if isinstance(default, int) else None, value=default, **limits)


def read_options(values: Mapping[str, Any]) -> InferenceOptions:
    """The options out of the values of the components, checked.

    Raises:
        UserError: a value is missing or out of range.
    """
    given: dict[str, Any] = {}
    for name, (field, setting) in _SETTINGS.items():
        value = values[name] if field.default is not None else parse_number(values[name], setting.flags[-1])
        if value is None and field.default is not None:
            raise UserError("the field is empty", setting.flags[-1], f"the default is {field.default}")
        given[name] = value if value is None else _like(field.default, value)
    options = InferenceOptions(**given)
    options.check()
    return options


def _like(default: Any, value: Any) -> Any:
    """The value with the type of its default; forged ones are refused."""
    kind = float if default is None else type(default)
    if isinstance(value, bool) is not (kind is bool) or isinstance(value, str) is not (kind is str):
        raise UserError(f"not a value for this setting: {value!r}", "", "load the page anew")
    return kind(value)


def _safe(limit: float | None) -> float | None:
    """A browser counts exactly up to 2**53."""
    return None if limit is None else min(limit, 2**53 - 1)
