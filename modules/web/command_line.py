"""A conversion as the command that a user would type for it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from modules.inference.options import InferenceOptions, ModelOptions
from modules.options import flags


def command_line(
    home: Path, model: ModelOptions, options: InferenceOptions, song: str, speaker: str | None, audio_format: str
) -> str:
    """inference_main.py with every flag that is not at its default.

    Args:
        home: paths inside it are written relative to it.
        song: name of the song in raw/.
        speaker: who sings; None is the mix of spkmix.py.
    """
    words: list[str] = ["python", "inference_main.py", *flags(model, home), "-n", song]
    words += ["-usm"] if speaker is None else ["-s", speaker]
    words += flags(options, home)
    words += [] if audio_format == "flac" else ["-wf", audio_format]
    return shlex.join(words)


def mix_text(tracks: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """The lines of spkmix.py for a mix."""
    lines = [f"    {speaker!r}: {[list(row) for row in rows]}," for speaker, rows in tracks.items()]
    return "\n".join(["spk_mix_map = {", *lines, "}"])
