"""All frames of a speaker's units, read from the feature files beside the wavs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from modules.data import features
from modules.data.folders import dataset_folders
from modules.errors import UserError

UNITS_SUFFIX = ".soft.pt"


def speaker_folders(dataset: str | Path) -> list[Path]:
    """The folders of a dataset that hold units, by name.

    Raises:
        UserError: there are none.
    """
    dataset = Path(dataset)
    if not dataset.is_dir():
        raise UserError("there is no such folder", dataset, "give the folder of the preprocessed dataset")
    folders = [path for path in dataset_folders(dataset) if any(path.glob(f"*{UNITS_SUFFIX}"))]
    if not folders:
        raise UserError("no speaker here has units", dataset, "run preprocess_hubert_f0.py first")
    return folders


def load_frames(folder: Path) -> np.ndarray:
    """The units of every clip of a speaker, one after the other.

    Units whose wav was deleted are left out, unless the folder holds no wavs at all.

    Returns:
        float32 [frames, dim], about 50 frames a second.

    Raises:
        UserError: no clip has units, or clips have units of different encoders or widths.
    """
    paths = _unit_files(folder)
    if not paths:
        raise UserError("the speaker has no units", folder, "run preprocess_hubert_f0.py first")
    clips = [features.load_units(path)[0].numpy() for path in paths]  # each [dim, frames]
    _check_one_encoder(paths, [len(clip) for clip in clips])
    frames = np.empty((sum(clip.shape[1] for clip in clips), len(clips[0])), dtype=np.float32)
    position = 0
    for clip in clips:  # filled in place: a list of copies would double the memory
        frames[position : position + clip.shape[1]] = clip.T
        position += clip.shape[1]
    return frames


def _unit_files(folder: Path) -> list[Path]:
    paths = sorted(folder.glob(f"*{UNITS_SUFFIX}"))
    return [path for path in paths if _wav_of(path).is_file()] or paths


def _wav_of(units: Path) -> Path:
    return units.with_name(units.name.removesuffix(UNITS_SUFFIX))


def _check_one_encoder(paths: Sequence[Path], widths: Sequence[int]) -> None:
    """Refuse a mix of units. Encoders of one width can only be told apart by the stamps beside the wavs."""
    kinds: dict[str, list[Path]] = {}
    for path, width in zip(paths, widths, strict=True):
        stamp = features.read_stamp(_wav_of(path))
        kinds.setdefault(f"{stamp.encoder if stamp else 'an unknown encoder'}, {width} wide", []).append(path)
    known = {kind for kind in kinds if not kind.startswith("an unknown")}
    if len(set(widths)) > 1 or len(known) > 1:
        few = min(kinds.values(), key=len)
        what = f"the clips have units of different widths or encoders: {'; '.join(sorted(kinds))}"
        fix = "run preprocess_hubert_f0.py again; if that changes nothing, delete these files"
        raise UserError(what, ", ".join(map(str, few[:3])) + (" ..." if len(few) > 3 else ""), fix)
