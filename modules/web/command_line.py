"""A conversion as the command that a user would type for it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modules.inference.options import InferenceOptions, ModelOptions, settings


def command_line(
    home: Path, model: ModelOptions, options: InferenceOptions, song: str, speaker: str | None, audio_format: str
) -> str:
    """inference_main.py with every flag that is not at its default.

    Args:
        home: paths inside it are written relative to it.
        song: name of the song in raw/.
        speaker: who sings; None is the mix of spkmix.py.
    """
    words: list[str] = ["python", "inference_main.py", *_flags(model, home), "-n", song]
    words += ["-usm"] if speaker is None else ["-s", speaker]
    words += _flags(options, home)
    words += [] if audio_format == "flac" else ["-wf", audio_format]
    return shlex.join(words)


def mix_text(tracks: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """The lines of spkmix.py for a mix."""
    lines = [f"    {speaker!r}: {[list(row) for row in rows]}," for speaker, rows in tracks.items()]
    return "\n".join(["spk_mix_map = {", *lines, "}"])


def _flags(options: Any, home: Path) -> list[str]:
    words: list[str] = []
    for field, setting in settings(type(options)):
        value = getattr(options, field.name)
        if value == field.default:
            continue
        flag = setting.flags[0]
        if isinstance(value, bool):
            words.append(flag)
            continue
        if isinstance(value, Path):
            value = value.relative_to(home).as_posix() if value.is_relative_to(home) else value
        text = f"{value:g}" if isinstance(value, float) else str(value)
        words += [flag, text]
    return words
