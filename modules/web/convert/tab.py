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
from modules.web.convert.mix import MixBox, mix_of, tracks_of
from modules.web.convert.results import ResultsBox, show_queue
from modules.web.convert.session import ConversionRequest, ConversionSession, check_request
from modules.web.convert.song import SongBox
from modules.web.convert.voice import VoiceBox
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
UPPERMOST = ("trans", "f0_predictor", "auto_predict_f0")
SOUND = (
    "noise_scale", "loudness_envelope_adjustment", "cluster_infer_ratio", "k_step", "second_encoding",
    "enhancer_adaptive_key", "seed",
)  # fmt: skip
PITCH = ("f0_filter_threshold", "f0_min", "f0_max")
CUTTING = ("slice_db", "pad_seconds", "clip", "linear_gradient", "linear_gradient_retain")

_SETTINGS: dict[str, tuple[dataclasses.Field[Any], Setting]] = {
    field.name: (field, setting) for field, setting in settings(InferenceOptions)
}


class ConvertTab:
    """Components, and what happens when they are touched."""

    def __init__(self, page: Page) -> None:
        self.page = page
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=320):
                self.voice = VoiceBox(page)
            with gr.Column(scale=1, min_width=320):
                self.song = SongBox(page)
        self.options = self._add_settings()
        self.mix = MixBox(page)
        with gr.Row():
            start = page.field(gr.Button, "convert.start", variant="primary", scale=3)
            cancel = page.field(gr.Button, "convert.cancel", variant="stop", scale=1)
        self.queue = page.field(gr.HTML, "convert.queue")
        self.results = ResultsBox(page)

        self.voice.when_chosen([self.mix.rows], self.mix.refill)
        self.song.watch_range(self.voice, self.options["trans"])
        inputs = {*self.voice.inputs, *self.song.inputs, *self.options.values(), self.format, *self.mix.inputs}
        outputs = [self.queue, self.results.choice, self.voice.state]
        start.click(page.guarded(self.convert), inputs, outputs, concurrency_limit=8, **QUIET)
        cancel.click(page.guarded(self.stop), None, None, **QUIET)

    def _add_settings(self) -> dict[str, Any]:
        """The components of InferenceOptions by name, the few that matter on top."""
        page = self.page
        gr.HTML(f"<h3>{page.say('convert.settings')}</h3>")
        with gr.Row():
            options = {name: add_control(page, name) for name in UPPERMOST}
            self.format = page.field(gr.Dropdown, "convert.format", choices=list(WAV_FORMATS), value=WAV_FORMATS[0])
        for title, names in (("convert.sound", SOUND), ("convert.pitch", PITCH), ("convert.cutting", CUTTING)):
            with page.field(gr.Accordion, f"convert.{names[0]}-group", label=page.say(title), open=False), gr.Row():
                for name in names:
                    with gr.Column(min_width=260):
                        options[name] = add_control(page, name)
        return options

    def convert(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        """Convert the songs, and show the queue as it moves."""
        conversion = self.page.session(request).conversion
        wanted = self._read(conversion, values)
        for states in conversion.convert(wanted, self.song.chosen(conversion, values)):
            yield {self.queue: show_queue(self.page, states), self.voice.state: self.voice.status(conversion)}
        yield {
            self.queue: show_queue(self.page, conversion.queue),
            self.results.choice: self.results.newest(conversion),
            self.voice.state: self.voice.status(conversion),
        }

    def stop(self, request: gr.Request) -> None:
        """Cancel what this page converts."""
        self.page.session(request).conversion.cancel.set()

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
    key, default = f"convert.{name}", field.default
    if isinstance(default, bool):
        return page.field(gr.Checkbox, key, value=default)
    if setting.choices:
        return page.field(gr.Dropdown, key, choices=list(setting.choices), value=default)
    if name in SANE:
        low, high, step = SANE[name]
        return page.field(gr.Slider, key, minimum=low, maximum=high, step=step, value=default)
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
