"""The fields of the train tab: what they start with, and the settings they make."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from modules.config import Config, parse_config
from modules.errors import UserError
from modules.f0 import PREDICTORS
from modules.web.page import Page, Updates, Values, parse_number
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
            self._check("slice")
            self._choice("loudnorm", self.page.choices("prepare.loudnorm", LOUDNORMS))

    def add_lists(self) -> None:
        """Step 2."""
        with gr.Row():
            self._choice("encoder", list(ENCODERS))
            self._choice("size", self.page.choices("prepare.size", SIZES))
            self._check("vol_aug")

    def add_features(self) -> None:
        """Step 3."""
        with gr.Row():
            self._choice("predictor", list(PREDICTORS))
            self._number("processes", 0)
            self._check("use_diff")

    def add_training(self) -> None:
        """Step 4: the flags, and what the config says."""
        with gr.Row():
            self._optional("max_minutes")
            self._optional("max_steps")
            self._choice("precision", list(PRECISIONS))
            self.fields["device"] = self.page.field(gr.Textbox, "prepare.device", value="")
            self._check("compile")

    def add_config(self) -> None:
        """The figures of config.json that people change."""
        with gr.Row():
            for name in CONFIG_FIELDS:
                precision = None if name == "learning_rate" else 0
                self.config_fields[name] = self.page.field(
                    gr.Number, f"prepare.{name}", precision=precision, min_width=140
                )

    def add_release(self) -> None:
        """What the released file is made of."""
        with gr.Row():
            self.fields["checkpoint"] = self.page.field(
                gr.Dropdown,
                "prepare.checkpoint",
                choices=[DEFAULTS.checkpoint],
                value=DEFAULTS.checkpoint,
                allow_custom_value=True,
            )
            self._check("half")

    def _add(self, kind: Any, name: str, **details: Any) -> None:
        self.fields[name] = self.page.field(kind, f"prepare.{name}", value=getattr(DEFAULTS, name), **details)

    def _check(self, name: str) -> None:
        self._add(gr.Checkbox, name, min_width=160)

    def _choice(self, name: str, choices: Sequence[str | tuple[str, str]]) -> None:
        self._add(gr.Dropdown, name, choices=choices, min_width=160)

    def _number(self, name: str, lowest: float) -> None:
        """A whole number."""
        self._add(gr.Number, name, precision=0, minimum=lowest, min_width=140)

    def _optional(self, name: str) -> None:
        """A number that may be left out."""
        self._add(gr.Textbox, name, max_lines=1, min_width=140)

    def read(self, values: Values) -> dict[str, Any]:
        """The values of the fields by their names."""
        return {name: values[component] for name, component in self.fields.items()}

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
            number = parse_number(given[name], name)
            given[name] = int(number) if number and number.is_integer() else number or None  # 0 is no limit
        given["processes"] = 1 if given["processes"] is None else given["processes"]
        return checked(**given)

    def chosen_speakers(self, settings: PrepareSettings, known_speakers: Mapping[str, int]) -> list[str]:
        """Names of the speakers that settings stand for."""
        return [name for name in known_speakers if not settings.speakers or name in settings.speakers]

    def config_updates(self, config: Config | None) -> Updates:
        """The fields of config.json; empty and closed where there is none."""
        if config is None:
            return {component: gr.update(value=None, interactive=False) for component in self.config_fields.values()}
        return {
            component: gr.update(value=getattr(config.train, name), interactive=True)
            for name, component in self.config_fields.items()
        }


def change_config(config: Config, values: Mapping[str, Any]) -> Config:
    """A config with other figures for training. Raises UserError where one of them cannot be."""
    train = config.train.model_dump()
    for name in CONFIG_FIELDS:
        if values[name] is None:
            raise UserError("the field is empty", f"train.{name}", f"it was {train[name]}")
        train[name] = values[name]
    content = {**config.model_dump(mode="json"), "train": train}
    return parse_config(json.dumps(content), "config.json")
