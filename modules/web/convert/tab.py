"""The tab that converts songs: a voice, a song, the settings, and what came of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import gradio as gr

from modules.errors import UserError
from modules.inference.options import WAV_FORMATS, InferenceOptions
from modules.options import Setting, settings
from modules.web.convert.mix import draw, mix_of, tracks_of
from modules.web.convert.results import ResultsBox, show_queue
from modules.web.convert.session import Desk, Wish, check_wish, speakers_of
from modules.web.convert.song import SongBox
from modules.web.convert.voice import VoiceBox
from modules.web.page import Page
from modules.web.texts_convert import Convert
from modules.web.texts_options import HELP, LABELS

Values = dict[Any, Any]  # component -> what it holds


def build_convert_tab(page: Page) -> None:
    """Add what is in the tab."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=320):
            voice = VoiceBox(page)
        with gr.Column(scale=1, min_width=320):
            song = SongBox(page)
    options = _add_settings(page)
    mix = MixBox(page)
    with gr.Row():
        start = gr.Button(page.say(Convert.CONVERT), variant="primary", elem_id="convert-start", scale=3)
        cancel = gr.Button(page.say(Convert.CANCEL), variant="stop", elem_id="convert-cancel", scale=1)
    queue = gr.HTML(elem_id="convert-queue")
    results = ResultsBox(page)

    voice.when_chosen(mix.rows, mix.refill)
    song.watch_range(voice, options["trans"])
    parts = (*voice.inputs, *song.inputs, *options.values(), *mix.inputs)

    def convert(values: Values, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        desk = Desk.of(page.studio, page.session(request))
        wish = _read_wish(desk, values)
        for states in desk.convert(wish, song.chosen(desk, values)):
            yield show_queue(page, states), gr.skip(), voice.status(desk)
        yield show_queue(page, desk.queue), results.newest(desk), voice.status(desk)

    def _read_wish(desk: Desk, values: Values) -> Wish:
        model, choice = voice.read(desk, values)
        settings = read_options({name: values[component] for name, component in options.items() if name != "format"})
        speakers = speakers_of(choice)
        who, tracks, speaker = None, {}, values[voice.speaker]
        if values[mix.on]:
            rows = values[mix.rows]
            tracks, who = tracks_of(rows), mix_of(rows, speakers, _rows_of(choice, speakers))
        elif speaker not in speakers:
            known = ", ".join(speakers)
            raise UserError(f"there is no speaker {speaker!r}", choice.name, f"choose one of: {known}")
        wish = Wish(choice.name, model, str(speaker), settings, str(values[options["format"]]), who, tracks)
        check_wish(wish)
        return wish

    def stop(request: gr.Request) -> None:
        Desk.of(page.studio, page.session(request)).cancel.set()

    start.click(
        page.guarded(convert),
        set(parts),
        [queue, results.choice, voice.state],
        show_progress="hidden",
        concurrency_limit=8,
    )
    cancel.click(page.guarded(stop), None, None, show_progress="hidden")


def _rows_of(choice: Any, speakers: dict[str, int]) -> int:
    """Rows of the speaker embedding of a model that need not be loaded."""
    from modules.web.convert.session import config_of

    config = config_of(choice) if choice.onnx is None else None
    if config is not None:
        return config.model.n_speakers
    if choice.onnx is not None:
        from modules.onnx.manifest import Manifest

        return Manifest.load(choice.onnx).n_speakers
    return max(speakers.values(), default=0) + 1


def _add_settings(page: Page) -> dict[str, Any]:
    """The components of all settings by name, the few that matter on top."""
    gr.HTML(f"<h3>{page.say(Convert.SETTINGS)}</h3>")
    with gr.Row():
        options = {name: add_control(page, name) for name in UPPERMOST}
        options["format"] = gr.Dropdown(
            choices=list(WAV_FORMATS),
            value=WAV_FORMATS[0],
            label=page.say(Convert.FORMAT),
            info=page.say(Convert.FORMAT_HELP),
            elem_id="convert-format",
        )
    for title, names in ((Convert.SOUND, SOUND), (Convert.PITCH, PITCH), (Convert.CUTTING, CUTTING)):
        with gr.Accordion(page.say(title), open=False, elem_id=f"convert-{names[0]}-group"), gr.Row():
            for name in names:
                with gr.Column(min_width=260):
                    options[name] = add_control(page, name)
    return options


class MixBox:
    """The speaker mix over time: a table, and how it looks."""

    def __init__(self, page: Page) -> None:
        self.page = page
        with gr.Accordion(page.say(Convert.MIX), open=False, elem_id="convert-mix"):
            self.on = gr.Checkbox(
                label=page.say(Convert.MIX_ON), info=page.say(Convert.MIX_ON_HELP), elem_id="convert-mix-on"
            )
            self.rows = gr.Dataframe(
                headers=[page.say(header) for header in Convert.MIX_HEADERS],
                datatype=["str", "number", "number", "number", "number"],
                type="array",
                interactive=True,
                row_count=1,
                column_count=5,
                show_label=False,
                elem_id="convert-mix-rows",
            )
            self.drawing = gr.HTML(elem_id="convert-mix-drawing")
        self.inputs = (self.on, self.rows)
        self.rows.change(page.guarded(self._draw), self.rows, self.drawing, show_progress="hidden")

    def refill(self, speakers: dict[str, int]) -> Any:
        """The table for the speakers of another model."""
        from modules.web.convert.mix import first_rows

        return gr.update(value=first_rows(list(speakers)))

    def _draw(self, rows: list[list[Any]]) -> str:
        speakers = {name: number for number, name in enumerate(tracks_of(rows))} if rows else {}
        if not speakers:
            return ""
        try:
            return draw(rows, speakers)
        except UserError as error:  # while a row is being typed
            return f'<p class="mild">{self.page.describe(error)}</p>'


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


def add_control(page: Page, name: str) -> gr.components.Component:
    """The component of one setting, with its label, its line of help and its default."""
    field, setting = _SETTINGS[name]
    common: dict[str, Any] = {
        "label": page.say(LABELS[name]),
        "info": page.say(HELP[name]),
        "value": field.default,
        "elem_id": f"convert-{name}",
    }
    if isinstance(field.default, bool):
        return gr.Checkbox(**common)
    if setting.choices:
        return gr.Dropdown(choices=list(setting.choices), **common)
    if name in SANE:
        low, high, step = SANE[name]
        return gr.Slider(low, high, step=step, **common)
    whole = isinstance(field.default, int)
    return gr.Number(precision=0 if whole else None, minimum=setting.low, maximum=_safe(setting.high), **common)


def read_options(values: Mapping[str, Any]) -> InferenceOptions:
    """The options out of the values of the components, checked.

    Raises:
        UserError: a value is missing or out of range.
    """
    given: dict[str, Any] = {}
    for name, (field, setting) in _SETTINGS.items():
        value = values[name]
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
