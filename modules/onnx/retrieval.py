"""K-means centres and the feature index in numpy: what cluster/ does with torch and faiss.

The files are .npz archives without objects, so that nothing in them can run: kmeans.npz holds centres [K, dim] by
speaker name; retrieval.npz holds of each speaker id ``<id>.centroids`` [cells, dim], ``<id>.vectors`` [N, dim] in the
order of the cells, ``<id>.offsets`` [cells + 1] into them, and ``<id>.nprobe``.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster.neighbours import NEIGHBOURS, neighbour_weights
from modules import npy
from modules.errors import UserError
from modules.files import unfolds_too_far
from modules.onnx.manifest import EXPORT

PARTS = ("centroids", "vectors", "offsets", "nprobe")


class CentreBlender:
    """Nearest k-means centres.

    Args:
        speakers: name -> id; the file knows names.
    """

    def __init__(self, path: Path, speakers: Mapping[str, int]) -> None:
        self.path, self.names = path, {speaker_id: name for name, speaker_id in speakers.items()}
        self.centres = _read(path)

    def blend(self, units: np.ndarray, speaker: int, ratio: float) -> np.ndarray:
        """float32 [F, dim] -> [F, dim]; ratio 0 leaves the units, 1 takes the centres alone."""
        name = self.names.get(speaker, str(speaker))
        if name not in self.centres:
            raise _no_speaker(name, self.centres, self.path)
        centres = self.centres[name]
        _check_width(centres, units, self.path)
        # the squared distance is smallest where x.c - |c|^2 / 2 is largest
        nearest = (units @ centres.T - 0.5 * np.square(centres).sum(axis=1)).argmax(axis=1)
        return (ratio * centres[nearest] + (1.0 - ratio) * units).astype(np.float32)


@dataclass(frozen=True)
class Cells:
    """The frames of a speaker in cells, as faiss's IndexIVFFlat has them.

    Attributes:
        centroids: [cells, dim].
        vectors: [N, dim], cell after cell.
        offsets: [cells + 1], where the cells begin.
        nprobe: cells that a search looks into.
    """

    centroids: np.ndarray
    vectors: np.ndarray
    offsets: np.ndarray
    nprobe: int

    def __post_init__(self) -> None:
        """Raises ValueError where the parts do not belong together."""
        flat = self.centroids.ndim == self.vectors.ndim == 2 and self.offsets.ndim == 1 and self.nprobe > 0
        if not flat or self.centroids.shape[1] != self.vectors.shape[1] or self.offsets.dtype.kind not in "iu":
            raise ValueError("parts of other kinds")
        ends = self.offsets[:1].tolist() + self.offsets[-1:].tolist()
        if ends != [0, len(self.vectors)] or len(self.offsets) != len(self.centroids) + 1:
            raise ValueError("cells that do not fill the index")
        if (np.diff(self.offsets.astype(np.int64)) < 0).any():
            raise ValueError("cells in no order")

    def search(self, queries: np.ndarray, k: int = NEIGHBOURS) -> tuple[np.ndarray, np.ndarray]:
        """Squared distances [T, k] and vectors [T, k, dim] of the nearest frames in the cells looked into.

        Where there are fewer than k, the rest has distance infinity and vector 0.
        """
        probed = smallest(squared_distances(queries, self.centroids), min(self.nprobe, len(self.centroids)))
        best = np.full((len(queries), k), np.inf, dtype=np.float32)
        found = np.full((len(queries), k), -1)
        for cell in np.unique(probed):
            start, stop = self.offsets[cell : cell + 2]
            if start == stop:
                continue
            rows = np.flatnonzero((probed == cell).any(axis=1))
            distances = squared_distances(queries[rows], self.vectors[start:stop])
            distances = np.concatenate([best[rows], distances], axis=1)
            inside = np.broadcast_to(np.arange(start, stop), (len(rows), stop - start))
            ids = np.concatenate([found[rows], inside], axis=1)
            chosen = smallest(distances, k)
            best[rows] = np.take_along_axis(distances, chosen, axis=1)
            found[rows] = np.take_along_axis(ids, chosen, axis=1)
        vectors = np.where(found[..., None] < 0, np.float32(0), self.vectors[found])
        exact = np.square(queries[:, None] - vectors).sum(axis=2)  # products round near 0, and near 0 weighs most
        return np.where(found < 0, np.inf, exact), vectors


class RetrievalBlender:
    """Nearest frames of the speaker's recordings."""

    def __init__(self, path: Path) -> None:
        self.path = path
        arrays = _read(path)
        ids = sorted({key.partition(".")[0] for key in arrays})
        try:
            parts = {key: [arrays[f"{key}.{part}"] for part in PARTS] for key in ids}
            self.speakers = {
                int(key): Cells(centroids, vectors, offsets, int(nprobe))
                for key, (centroids, vectors, offsets, nprobe) in parts.items()
            }
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            raise UserError(f"the file holds no feature index ({error})", path, EXPORT) from None

    def blend(self, units: np.ndarray, speaker: int, ratio: float) -> np.ndarray:
        """float32 [F, dim] -> [F, dim]; ratio 0 leaves the units, 1 takes the retrieved frames alone."""
        if speaker not in self.speakers:
            raise _no_speaker(str(speaker), self.speakers, self.path)
        cells = self.speakers[speaker]
        _check_width(cells.vectors, units, self.path)
        distances, vectors = cells.search(units)
        weights = neighbour_weights(distances).astype(np.float32)
        retrieved = np.einsum("tk,tkd->td", weights, vectors)
        return (ratio * retrieved + (1.0 - ratio) * units).astype(np.float32)


def squared_distances(queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """[T, N] of [T, dim] and [N, dim]."""
    own = np.square(queries).sum(axis=1)[:, None]
    return np.maximum(own - 2 * (queries @ vectors.T) + np.square(vectors).sum(axis=1), 0)


def smallest(values: np.ndarray, k: int) -> np.ndarray:
    """Where the k smallest of each row lie, in no order; all where there are no more."""
    if values.shape[1] <= k:
        return np.broadcast_to(np.arange(values.shape[1]), values.shape)
    return np.argpartition(values, k - 1, axis=1)[:, :k]


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            if unfolds_too_far(archive, path.stat().st_size):
                raise ValueError("it unfolds to much more than its size")
            return {name.removesuffix(".npy"): _numbers(archive.read(name)) for name in archive.namelist()}
    except Exception as error:  # a broken archive fails in many ways
        raise UserError(f"the file is broken ({error})", path, EXPORT) from None


def _numbers(data: bytes) -> np.ndarray:
    array = npy.loads(data)
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def _no_speaker(name: str, known: Mapping[str, object] | Mapping[int, object], path: Path) -> UserError:
    fix = "make it anew of a data set with this speaker and export it, or use --cluster_infer_ratio 0"
    return UserError(f"the file has no speaker {name}; it has {', '.join(map(str, known))}", path, fix)


def _check_width(vectors: np.ndarray, units: np.ndarray, path: Path) -> None:
    if vectors.shape[1] != units.shape[1]:
        raise UserError(
            f"the file holds features of {vectors.shape[1]} channels, the encoder gives {units.shape[1]}",
            path,
            "export the file that was made with this model's speech encoder",
        )
