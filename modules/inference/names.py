"""Which file a name on the command line means, and what its result is called."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from modules.audio.io import AUDIO_EXTENSIONS
from modules.errors import UserError
from modules.files import numbered
from modules.inference.options import InferenceOptions, ModelOptions

UNFIT_FOR_FILES = re.compile(r'[<>:"/\\|?*\x00-\x1f]')  # on Windows; elsewhere some of them
NAME_BYTES = 250  # of a result's name; file systems allow 255, and a second result of one name has _2 in it
SPEAKER_BYTES = 100
FIRST_EXTENSIONS = (".wav", ".flac", ".mp3")  # where several files have the name


def find_song(name: str, folders: Sequence[Path]) -> Path:
    """The file that ``name`` means: one in the folders, or a path; with or without its extension.

    Raises:
        UserError: there is none.
    """
    bases = [*(folder / name for folder in folders), Path(name)]
    song = _first_file(bases)
    if song is not None:
        return song
    where = " or ".join(str(folder) for folder in folders)
    fix = f"put it into {where}, or give its path"
    alike = _same_stem(bases)
    if alike:
        fix = f"there is {' and '.join(alike)}; give that name, or {fix}"
    raise UserError(f"there is no song {name!r}", "--clean_names", fix)


def _first_file(bases: Sequence[Path]) -> Path | None:
    extensions = ["", *FIRST_EXTENSIONS, *sorted(AUDIO_EXTENSIONS.difference(FIRST_EXTENSIONS))]
    candidates = (base.with_name(base.name + end) if base.name else base for base in bases for end in extensions)
    return next((path for path in candidates if path.is_file()), None)


def all_songs(names: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """The names with a folder, or a pattern such as *.flac, as what is in it; each by its path, in order.

    Raises:
        UserError: a folder or a pattern without songs.
    """
    songs: list[str] = []
    for name in names:
        places = [*(folder / name for folder in folders), Path(name)]
        several = "*" in name or any(place.is_dir() for place in places)
        if _first_file(places) is not None or not several:
            songs.append(name)
            continue
        found = [path for place in places for path in _songs_of(place)]
        if not found:
            fix = f"put files there that end in {', '.join(sorted(AUDIO_EXTENSIONS))}"
            raise UserError(f"there are no songs in {name!r}", "--clean_names", fix)
        songs += [str(path) for path in dict.fromkeys(found)]
    return songs


def _songs_of(place: Path) -> list[Path]:
    """The songs of a folder, or of a pattern, which not every shell fills in."""
    paths = place.iterdir() if place.is_dir() else place.parent.glob(place.name) if place.name else ()
    kept = [path for path in paths if path.suffix.lower() in AUDIO_EXTENSIONS and not path.name.startswith(".")]
    return sorted(path for path in kept if path.is_file())


def _same_stem(bases: Sequence[Path]) -> list[str]:
    """Names of songs beside ``bases`` that differ from them in their extension."""
    found = []
    for base in bases:
        if base.suffix.lower() in AUDIO_EXTENSIONS and base.parent.is_dir():
            beside = sorted(path for path in base.parent.iterdir() if path.stem == base.stem)
            found += [path.name for path in beside if path.suffix.lower() in AUDIO_EXTENSIONS]
    return list(dict.fromkeys(found))


def song_stem(path: Path) -> str:
    """The name of a song without its audio extension; other dots belong to the name."""
    return path.stem if path.suffix.lower() in AUDIO_EXTENSIONS else path.name


def result_name(song: Path, speaker: str, model: ModelOptions, options: InferenceOptions, extension: str) -> str:
    """<name>_<key>_<speaker>[_<ratio>]_<kind>_<f0 predictor>.<extension>, of at most NAME_BYTES.

    Retrieval has a name of its own: k-means of the same share sounds differently.
    """
    kind = "diff" if model.only_diffusion else "sovdiff" if model.shallow_diffusion else "sovits"
    share = f"{options.cluster_infer_ratio:g}{'fr' if model.feature_retrieval else ''}"
    parts = [
        "auto" if options.auto_predict_f0 else f"{options.trans:g}key",
        cut(UNFIT_FOR_FILES.sub("_", speaker), SPEAKER_BYTES),
        *([share] if options.cluster_infer_ratio else []),
        kind,
        options.f0_predictor,
    ]
    rest = f"_{'_'.join(parts)}.{extension}"
    return cut(song_stem(song), NAME_BYTES - len(rest.encode(errors="surrogateescape"))) + rest


def cut(text: str, size: int) -> str:
    """The beginning of a text that takes at most ``size`` bytes in UTF-8."""
    coded = text.encode(errors="surrogateescape")
    return text if len(coded) <= size else coded[:size].decode(errors="ignore")


def free_path(path: Path, taken: Collection[Path]) -> Path:
    """``path``, or the same with _2, _3 and so on where it is one of ``taken`` (resolved paths)."""
    return next(candidate for candidate in numbered(path) if candidate.resolve() not in taken)
