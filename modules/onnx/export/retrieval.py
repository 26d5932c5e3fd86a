"""K-means centres and feature indexes as the .npz files that modules.onnx.retrieval reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from cluster import kmeans, retrieval
from modules.files import atomic_path


def export_centres(source: Path, target: Path) -> int:
    """kmeans_10000.pt to kmeans.npz; returns the width of the centres. Raises UserError for what holds none."""
    centres = kmeans.load(source).by_speaker
    _write(target, centres)
    return next(iter(centres.values())).shape[1]


def export_index(source: Path, target: Path, speakers: Mapping[str, int]) -> int:
    """A feature index, ours or the original's, to retrieval.npz; returns its width.

    Args:
        speakers: name -> id of the model that it is to serve.

    Raises:
        UserError: there is none, it is broken, or it is another model's.
    """
    arrays: dict[str, np.ndarray] = {}
    width = 0
    indexes = retrieval.load(source)
    retrieval.check_speakers(indexes, speakers, source)
    for speaker_id, speaker in indexes.items():
        for part, values in index_arrays(speaker.index).items():
            arrays[f"{speaker_id}.{part}"] = values
        arrays[f"{speaker_id}.nprobe"] = np.array(speaker.nprobe)
        width = speaker.index.d
    _write(target, arrays)
    return width


def index_arrays(index: Any) -> dict[str, np.ndarray]:
    """centroids, vectors and offsets of an IVF index; a flat one is a single cell."""
    if not isinstance(index, faiss.IndexIVF):
        vectors = index.reconstruct_n(0, index.ntotal)
        return _cells(np.zeros((1, index.d), dtype=np.float32), [vectors])
    centroids = faiss.downcast_index(index.quantizer).reconstruct_n(0, index.nlist)
    lists: Any = index.invlists
    cells = []
    for cell in range(index.nlist):
        size = lists.list_size(cell)
        codes = faiss.rev_swig_ptr(lists.get_codes(cell), size * index.code_size) if size else np.empty(0, np.uint8)
        cells.append(codes.copy().view(np.float32).reshape(size, index.d))
    return _cells(centroids, cells)


def _cells(centroids: np.ndarray, cells: list[np.ndarray]) -> dict[str, np.ndarray]:
    offsets = np.concatenate([[0], np.cumsum([len(cell) for cell in cells])])
    return {"centroids": centroids, "vectors": np.concatenate(cells), "offsets": offsets}


def _write(target: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with atomic_path(target) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
