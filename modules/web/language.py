"""The texts of the page: one file a language in locales/, found by looking into the folder.

locales/messages/ has what the rest of the program says, English text to text, with numbered fields.

A file maps keys to texts; ``{name}`` in a text is filled in when it is shown. "convert.model" is the label of the
component with the id convert-model, "convert.model.help" the line below it. English texts that the command line says
too are not in en.json: they come from where the command line has them.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

from modules.data.recordings_report import MEANINGS
from modules.inference.options import InferenceOptions, ModelOptions
from modules.options import settings

FOLDER = Path(__file__).parent / "locales"
DEFAULT = "en"
LANGUAGES = tuple(sorted((path.stem for path in FOLDER.glob("*.json")), key=lambda name: (name != DEFAULT, name)))
MODEL_SETTINGS = ("precision", "enhance")  # those of ModelOptions whose help the page shows


@functools.cache
def texts(language: str) -> dict[str, str]:
    """All texts of a language by their keys."""
    own: dict[str, str] = json.loads((FOLDER / f"{language}.json").read_text(encoding="utf-8"))
    return {**_command_line_texts(), **own} if language == DEFAULT else own


def translate(message: str, language: str) -> str:
    """A message of the program, which speaks English, in another language; as it is where none of its texts fits."""
    for pattern, text in _messages(language):
        found = pattern.fullmatch(message)
        if found is not None:
            return text.format(*found.groups())
    return message


@functools.cache
def _messages(language: str) -> list[tuple[re.Pattern[str], str]]:
    """(what matches a message, its text) of a language; the one with most words of its own first."""
    path = FOLDER / "messages" / f"{language}.json"
    known: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    ordered = sorted(known.items(), key=lambda item: -len(_FIELD.sub("", item[0])))
    return [(_pattern(message), text) for message, text in ordered]


_FIELD = re.compile(r"\{\d\}")


def _pattern(message: str) -> re.Pattern[str]:
    """A message with its numbered fields as a regular expression with groups."""
    return re.compile("(.*?)".join(map(re.escape, _FIELD.split(message))), re.DOTALL)


def _command_line_texts() -> dict[str, str]:
    """English texts that are declared with the options and the report."""
    shown = [setting for setting in settings(ModelOptions) if setting[0].name in MODEL_SETTINGS]
    helps = {f"convert.{field.name}.help": setting.help for field, setting in (*shown, *settings(InferenceOptions))}
    return {**helps, **{f"problem.{kind}": text for kind, text in MEANINGS.items()}}


def preferred_language(accept_language: str) -> str:
    """The language of an Accept-Language header that is known and preferred most, else English."""
    preferences: list[tuple[float, str]] = []
    for part in accept_language.split(","):
        tag, _, quality = part.strip().partition(";")
        language = tag.strip().lower().split("-")[0]
        if language in LANGUAGES:
            preferences.append((_quality(quality), language))
    return max(preferences, key=lambda preference: preference[0])[1] if preferences else DEFAULT


def _quality(parameter: str) -> float:
    try:
        return float(parameter.strip().removeprefix("q=")) if parameter.strip() else 1.0
    except ValueError:
        return 0.0
