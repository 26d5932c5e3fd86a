"""All frames of a speaker's units, read from the feature files beside the wavs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from modules import checkpoint
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

    Returns:
        float32 [frames, dim], about 50 frames a second.

    Raises:
        UserError: no clip has units, or clips have units of different widths.
    """
    paths = sorted(folder.glob(f"*{UNITS_SUFFIX}"))
    if not paths:
        raise UserError("the speaker has no units", folder, "run preprocess_hubert_f0.py first")
    clips = [checkpoint.load(path)[0].numpy() for path in paths]  # each [dim, frames]
    widths = {clip.shape[0] for clip in clips}
    if len(widths) > 1:
        what = f"the clips have units of different widths: {sorted(widths)}"
        raise UserError(what, folder, "run preprocess_hubert_f0.py again")
    frames = np.empty((sum(clip.shape[1] for clip in clips), widths.pop()), dtype=np.float32)
    position = 0
    for clip in clips:  # filled in place: a list of copies would double the memory
        frames[position : position + clip.shape[1]] = clip.T
        position += clip.shape[1]
    return frames
