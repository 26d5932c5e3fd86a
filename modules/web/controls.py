"""Components for the settings of a conversion, made from modules/inference/options.py: defaults are written once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import gradio as gr

from modules.errors import UserError
from modules.inference.options import InferenceOptions
from modules.options import Setting, settings
from modules.web.page import Page
from modules.web.texts_options import HELP, LABELS

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
