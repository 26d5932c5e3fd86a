"""Recordings of the speakers: what a result should sound like, and the baselines to read its figures by."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from modules.audio.io import AUDIO_EXTENSIONS
from modules.data.folders import dataset_folders
from modules.errors import UserError
from modules.evaluation.recording import Recording, median_pitch
from modules.f0 import F0Predictor

MAX_CLIPS = 12  # recordings of a speaker that are used
MAX_SECONDS = 20.0  # of each


def find_audio(place: Path) -> list[Path]:
    """The audio files under a folder, sorted; a file is itself."""
    if place.is_file():
        return [place]
    return sorted(
        path
        for path in place.rglob("*")
        if path.suffix.lower() in AUDIO_EXTENSIONS and not path.name.startswith(".") and path.is_file()
    )


@dataclass
class Voices:
    """Recordings by speaker, loaded when they are first asked for.

    Args:
        files: of each speaker.
        max_clips: how many of a speaker's files are used, spread over the list.
    """

    files: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    max_clips: int = MAX_CLIPS
    _loaded: dict[str, list[Recording]] = field(default_factory=dict)

    @classmethod
    def find(
        cls,
        folder: Path | None,
        named: Mapping[str, Path],
        leave_out: Collection[Path] = (),
        max_clips: int = MAX_CLIPS,
    ) -> Voices:
        """The recordings of a folder with one folder a speaker, and of single folders with a name of their own.

        Args:
            leave_out: files that are measured; a speaker who has others is not compared with them.

        Raises:
            UserError: a folder is missing or holds no audio.
        """
        places = dict(named)
        if folder is not None:
            if not folder.is_dir():
                raise UserError("there is no such folder", folder, "give a folder with one folder of audio a speaker")
            own = {path.name: path for path in dataset_folders(folder) if find_audio(path)}
            if not own:
                raise UserError("no folder of audio is in it", folder, "give a folder with one folder a speaker")
            places = {**own, **places}
        measured = {path.resolve() for path in leave_out}
        files = {}
        for name, place in places.items():
            found = find_audio(place) if place.exists() else []
            if not found:
                raise UserError(f"there is no audio of the speaker {name}", place, "check the path")
            files[name] = [path for path in found if path.resolve() not in measured] or found
        return cls(files, max_clips)

    def __contains__(self, name: object) -> bool:
        return name in self.files

    def __iter__(self) -> Iterable[str]:  # type: ignore[override]
        return iter(self.files)

    def recordings(self, name: str) -> list[Recording]:
        """What is used of a speaker; empty for one who has no recordings."""
        if name not in self._loaded:
            files = self.files.get(name, ())
            count = min(len(files), self.max_clips)
            chosen = [files[index * len(files) // count] for index in range(count)]
            self._loaded[name] = [Recording.load(path, MAX_SECONDS) for path in chosen]
        return self._loaded[name]

    def owner(self, path: Path) -> str:
        """Whose recording a file is: a speaker with a file in the same folder, else the folder's name; or empty."""
        folder = path.resolve().parent
        for name, files in self.files.items():
            if any(file.resolve().parent == folder for file in files):
                return name
        return folder.name if folder.name in self.files else ""

    def usual_pitch(self, name: str, predictor: F0Predictor) -> float:
        """The median f0 of a speaker's recordings in Hz; 0 where there are none or none is voiced."""
        contours = [recording.contour(predictor) for recording in self.recordings(name)]
        if not contours:
            return 0.0
        return median_pitch(np.concatenate([c.f0 for c in contours]), np.concatenate([c.uv for c in contours]))
