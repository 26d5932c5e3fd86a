"""Which command makes a song in results/: a small file a song, in a hidden folder beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from modules.files import write_text
from modules.text_formats import read_as

NOTES = ".commands"


def note_command(song: Path, command: str) -> None:
    """Remember which command makes a song."""
    note = _note_of(song)
    note.parent.mkdir(exist_ok=True)
    write_text(note, json.dumps({"command": command}, ensure_ascii=False))


def read_command(song: Path) -> str:
    """The command that makes a song; empty where nothing was noted."""
    command = (read_as(dict[str, Any], _note_of(song)) or {}).get("command")
    return command if isinstance(command, str) else ""


def forget_command(song: Path) -> None:
    """The song is deleted."""
    _note_of(song).unlink(missing_ok=True)


def _note_of(song: Path) -> Path:
    return song.parent / NOTES / f"{song.name}.json"
