"""The fields of the prepare tab: what they are called, what they start with, and the settings they make."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import gradio as gr

from modules.config import Config, parse_config
from modules.errors import UserError
from modules.f0 import PREDICTORS
from modules.web.language import Text
from modules.web.page import Page
from modules.web.texts_prepare import Prepare
from modules.web.train.steps import LOUDNORMS, PRECISIONS, SIZES, PrepareSettings, checked
from vencoder import ENCODERS

DEFAULTS = PrepareSettings()
CONFIG_FIELDS = ("batch_size", "learning_rate", "eval_interval", "log_interval", "keep_ckpts")  # of config.train


class Form:
    """The components of PrepareSettings by their names; the model and its speakers are added by the tab."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.fields: dict[str, Any] = {}
        self.config_fields: dict[str, Any] = {}

    def add_resample(self) -> None:
        """Step 1."""
        with gr.Row():
            self._check("slice", Prepare.SLICE)
            self._choice("loudnorm", Prepare.LOUDNORM, Prepare.LOUDNORM_HELP, LOUDNORMS, Prepare.LOUDNORMS)

    def add_lists(self) -> None:
        """Step 2."""
        with gr.Row():
            self._choice("encoder", Prepare.ENCODER, Prepare.ENCODER_HELP, list(ENCODERS))
            self._choice("size", Prepare.SIZE, Prepare.SIZE_HELP, SIZES, Prepare.SIZES)
            self._check("vol_aug", Prepare.VOL_AUG, Prepare.VOL_AUG_HELP)

    def add_features(self) -> None:
        """Step 3."""
        with gr.Row():
            self._choice("predictor", Prepare.PREDICTOR, Prepare.PREDICTOR_HELP, list(PREDICTORS))
            self._number("processes", Prepare.PROCESSES, Prepare.PROCESSES_HELP, 0)
            self._check("use_diff", Prepare.USE_DIFF, Prepare.USE_DIFF_HELP)

    def add_training(self) -> None:
        """Step 4: the flags, and what the config says."""
        say = self.page.say
        with gr.Row():
            self._number("max_minutes", Prepare.MAX_MINUTES, Prepare.NO_LIMIT)
            self._number("max_steps", Prepare.MAX_STEPS, Prepare.NO_LIMIT, 1)
            self._choice("precision", Prepare.PRECISION, Prepare.PRECISION_HELP, PRECISIONS)
            self.fields["device"] = gr.Textbox(
                value="", label=say(Prepare.DEVICE), info=say(Prepare.DEVICE_HELP), elem_id="prepare-device"
            )
            self._check("compile", Prepare.COMPILE, Prepare.COMPILE_HELP)

    def add_config(self) -> None:
        """The figures of config.json that people change."""
        labels = (Prepare.BATCH, Prepare.RATE, Prepare.EVAL, Prepare.LOG, Prepare.KEEP)
        helps: dict[str, Text] = {"batch_size": Prepare.BATCH_HELP, "keep_ckpts": Prepare.KEEP_HELP}
        with gr.Row():
            for name, label in zip(CONFIG_FIELDS, labels, strict=True):
                self.config_fields[name] = gr.Number(
                    label=self.page.say(label),
                    info=self.page.say(helps[name]) if name in helps else None,
                    precision=None if name == "learning_rate" else 0,
                    elem_id=f"prepare-{name}",
                    min_width=140,
                )

    def add_release(self) -> None:
        """What the released file is made of."""
        with gr.Row():
            self.fields["checkpoint"] = gr.Dropdown(
                choices=[DEFAULTS.checkpoint],
                value=DEFAULTS.checkpoint,
                label=self.page.say(Prepare.CHECKPOINT),
                allow_custom_value=True,
                elem_id="prepare-checkpoint",
            )
            self._check("half", Prepare.HALF, Prepare.HALF_HELP)

    def _check(self, name: str, label: Text, info: Text | None = None) -> None:
        self.fields[name] = gr.Checkbox(
            value=getattr(DEFAULTS, name),
            label=self.page.say(label),
            info=self.page.say(info) if info else None,
            elem_id=f"prepare-{name}",
            min_width=160,
        )

    def _choice(self, name: str, label: Text, info: Text, values: Any, words: Mapping[str, Text] | None = None) -> None:
        self.fields[name] = gr.Dropdown(
            choices=[(self.page.say(words[value]) if words else value, value) for value in values],
            value=getattr(DEFAULTS, name),
            label=self.page.say(label),
            info=self.page.say(info),
            elem_id=f"prepare-{name}",
            min_width=160,
        )

    def _number(self, name: str, label: Text, info: Text, lowest: float | None = None) -> None:
        self.fields[name] = gr.Number(
            value=getattr(DEFAULTS, name),
            label=self.page.say(label),
            info=self.page.say(info),
            precision=None if lowest is None else 0,
            minimum=lowest,
            elem_id=f"prepare-{name}",
            min_width=140,
        )

    def settings(self, values: Mapping[str, Any], known_speakers: Mapping[str, int]) -> PrepareSettings:
        """What the form says. Raises UserError that names the field."""
        given = dict(values)
        given["model"] = str(given["model"] or "").strip()
        chosen = list(given["speakers"] or [])
        unknown = [name for name in chosen if name not in known_speakers]
        if unknown:
            fix = "press “look again”"
            raise UserError(f"there are no recordings of {', '.join(map(str, unknown))}", "dataset_raw/", fix)
        given["speakers"] = () if len(chosen) == len(known_speakers) else tuple(chosen)
        for name in ("max_steps", "max_minutes"):
            given[name] = given[name] or None  # an empty field comes as nothing or as 0
        given["processes"] = 1 if given["processes"] is None else given["processes"]
        return checked(**given)

    def updates(self, settings: PrepareSettings, known_speakers: Mapping[str, int]) -> dict[str, Any]:
        """The values of the fields for settings, by their names."""
        values = {name: getattr(settings, name) for name in self.fields}
        values["speakers"] = [name for name in known_speakers if not settings.speakers or name in settings.speakers]
        return values

    def config_values(self, config: Config | None) -> list[Any]:
        """The fields of config.json; empty and closed where there is none."""
        if config is None:
            return [gr.update(value=None, interactive=False) for _ in CONFIG_FIELDS]
        return [gr.update(value=getattr(config.train, name), interactive=True) for name in CONFIG_FIELDS]


def change_config(config: Config, values: Mapping[str, Any]) -> Config:
    """A config with other figures for training. Raises UserError where one of them cannot be."""
    train = config.train.model_dump()
    for name in CONFIG_FIELDS:
        if values[name] is None:
            raise UserError("the field is empty", f"train.{name}", f"it was {train[name]}")
        train[name] = values[name]
    content = {**config.model_dump(mode="json"), "train": train}
    return parse_config(json.dumps(content), "config.json")
