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
FIRST_EXTENSIONS = (".wav", ".flac", ".mp3")  # where several files have the name


def find_song(name: str, folders: Sequence[Path]) -> Path:
    """The file that ``name`` means: one in the folders, or a path; with or without its extension.

    Raises:
        UserError: there is none.
    """
    extensions = ["", *FIRST_EXTENSIONS, *sorted(AUDIO_EXTENSIONS.difference(FIRST_EXTENSIONS))]
    bases = [*(folder / name for folder in folders), Path(name)]
    for base in bases:
        for extension in extensions:
            path = base.with_name(base.name + extension) if base.name else base
            if path.is_file():
                return path
    where = " or ".join(str(folder) for folder in folders)
    raise UserError(f"there is no song {name!r}", "--clean_names", f"put it into {where}, or give its path")


def song_stem(path: Path) -> str:
    """The name of a song without its audio extension; other dots belong to the name."""
    return path.stem if path.suffix.lower() in AUDIO_EXTENSIONS else path.name


def result_name(song: Path, speaker: str, model: ModelOptions, options: InferenceOptions, extension: str) -> str:
    """<name>_<key>_<speaker>[_<ratio>]_<kind>_<f0 predictor>.<extension>"""
    kind = "diff" if model.only_diffusion else "sovdiff" if model.shallow_diffusion else "sovits"
    parts = [
        song_stem(song),
        "auto" if options.auto_predict_f0 else f"{options.trans:g}key",
        UNFIT_FOR_FILES.sub("_", speaker),
        *([f"{options.cluster_infer_ratio:g}"] if options.cluster_infer_ratio else []),
        kind,
        options.f0_predictor,
    ]
    return "_".join(parts) + f".{extension}"


def free_path(path: Path, taken: Collection[Path]) -> Path:
    """``path``, or the same with _2, _3 and so on where it is one of ``taken`` (resolved paths)."""
    return next(candidate for candidate in numbered(path) if candidate.resolve() not in taken)
