"""Feature retrieval: each frame of units moves towards the nearest frames of the target's own recordings.

Own format, free of pickle: a folder with one faiss file a speaker and index.json. The pickle of faiss objects
that so-vits-svc 4.1 writes is read without running anything from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from unicodedata import normalize

import faiss
import numpy as np
from pydantic import Field

from cluster import kmeans
from cluster.neighbours import NEIGHBOURS, neighbour_weights
from modules import pickles
from modules.errors import UserError
from modules.files import write_bytes, write_text
from modules.pickles import BrokenPickle, Call, RefusedName, Unfinished
from modules.text_formats import read_as

MAX_FRAMES = 200_000  # more frames than this are first reduced to REDUCED_FRAMES centres
REDUCED_FRAMES = 10_000
FRAMES_PER_CELL = 39  # faiss wants at least so many training points a cell
TARGET_RECALL = 0.97  # of the 8 true neighbours, on the speaker's own frames
RECALL_SAMPLE = 256  # frames that the recall is measured on
DEFAULT_NPROBE = 8  # cells searched in an index of the original, which says 1 and misses most neighbours
INDEX_FILE = "index.json"
FORMAT_VERSION = 1
_REBUILD = "make it anew with train_index.py"


@dataclass(frozen=True)
class SpeakerIndex:
    """The searchable frames of one speaker."""

    index: Any  # faiss.Index
    nprobe: int
    name: str = ""  # of the speaker; empty where the file does not say

    def search(self, queries: np.ndarray, k: int = NEIGHBOURS) -> tuple[np.ndarray, np.ndarray]:
        """Squared distances [T, k] and vectors [T, k, dim] of the nearest stored frames of each query [T, dim].

        Where a search finds fewer than k, the rest has distance infinity and vector 0.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        try:
            distances, found, vectors = self.index.search_and_reconstruct(
                queries, k, params=_search_parameters(self.index, self.nprobe)
            )
        except (RuntimeError, AssertionError) as error:  # a damaged index, found only by what is asked of it
            raise UserError(f"the feature index cannot be searched ({error})", self.name, _REBUILD) from None
        absent = found < 0
        distances[absent] = np.inf
        vectors[absent] = 0.0
        return distances, vectors

    def blend(self, units: np.ndarray, ratio: float) -> np.ndarray:
        """Move units towards their neighbours.

        Each neighbour weighs (1/d)^2 with d faiss's squared distance, normalised over the neighbours. An exact
        hit (d = 0) takes all the weight, shared by all exact hits.

        Args:
            units: float32 [T, dim].
            ratio: 0 leaves the units, 1 takes the neighbours alone.

        Returns:
            float32 [T, dim].
        """
        distances, vectors = self.search(units)
        weights = neighbour_weights(distances)
        retrieved = np.einsum("tk,tkd->td", weights.astype(np.float32), vectors)
        return (ratio * retrieved + (1.0 - ratio) * units).astype(np.float32)


def build(frames: np.ndarray, seed: int = 1234) -> SpeakerIndex:
    """An index "IVF{n},Flat" with n = min(int(16 * sqrt(N)), N // 39) cells over frames [N, dim].

    nprobe is the smallest power of two that finds TARGET_RECALL of the true neighbours on the speaker's own
    frames (with few cells, all of them are searched).
    """
    if len(frames) > MAX_FRAMES:
        frames = kmeans.fit(frames, REDUCED_FRAMES, seed=seed)
    cells = max(1, min(int(16 * len(frames) ** 0.5), len(frames) // FRAMES_PER_CELL))
    index: Any = faiss.index_factory(frames.shape[1], f"IVF{cells},Flat")
    index.cp.seed = seed
    index.cp.min_points_per_centroid = 1  # a speaker with few frames gets one cell; that needs no warning
    index.train(frames)
    index.add(frames)
    return SpeakerIndex(index, _choose_nprobe(index, frames, cells, seed))


def _choose_nprobe(index: Any, frames: np.ndarray, cells: int, seed: int) -> int:
    rows = np.random.default_rng(seed).choice(len(frames), min(RECALL_SAMPLE, len(frames)), replace=False)
    queries, k = frames[rows], min(NEIGHBOURS + 1, len(frames))
    truth = _search_ids(index, queries, k, nprobe=cells)
    nprobe = 1
    while nprobe < cells:
        found = _search_ids(index, queries, k, nprobe=nprobe)
        # the frame itself is always found: leave it out of the count
        hits = sum(len(set(f) & set(t)) - 1 for f, t in zip(found, truth, strict=True))
        if k > 1 and hits >= TARGET_RECALL * len(rows) * (k - 1):
            break
        nprobe *= 2
    return min(nprobe, cells)


def _search_ids(index: Any, queries: np.ndarray, k: int, nprobe: int) -> list[list[int]]:
    return index.search(queries, k, params=_search_parameters(index, nprobe))[1].tolist()


def _search_parameters(index: Any, nprobe: int) -> Any:
    if not isinstance(index, faiss.IndexIVF):
        return None  # a flat index has no cells to choose from
    parameters = faiss.SearchParametersIVF()
    parameters.nprobe = nprobe
    return parameters


def save(indexes: Mapping[int, SpeakerIndex], folder: str | Path, speakers: Mapping[str, int] | None = None) -> None:
    """Write ``folder``/<speaker id>.faiss and, last, ``folder``/index.json.

    Args:
        speakers: ids by name; without them the indexes' own names are kept.
    """
    folder = Path(folder)
    names = {speaker_id: name for name, speaker_id in (speakers or {}).items()}
    table = {}
    for speaker_id, speaker in sorted(indexes.items()):
        file = f"{speaker_id}.faiss"
        # Through memory: faiss's own writer leaves half a file on a full disk.
        write_bytes(folder / file, faiss.serialize_index(speaker.index).tobytes())
        entry = {"file": file, "frames": speaker.index.ntotal, "nprobe": speaker.nprobe}
        name = names.get(speaker_id, speaker.name)
        table[str(speaker_id)] = {"name": name, **entry} if name else entry
    text = json.dumps({"version": FORMAT_VERSION, "speakers": table}, indent=2, ensure_ascii=False)
    write_text(folder / INDEX_FILE, text + "\n")


def check_speakers(indexes: Mapping[int, SpeakerIndex], speakers: Mapping[str, int], path: str | Path) -> None:
    """Refuse the index of another model. Indexes without names, of older files and of so-vits-svc, pass.

    Args:
        speakers: ids by name of the model that the index is to serve.
        path: of the index, for the message.

    Raises:
        UserError: an id is somebody else's in the model, or the model knows none of the index's speakers.
    """
    here = {speaker_id: name for name, speaker_id in speakers.items()}
    named = {speaker_id: index.name for speaker_id, index in indexes.items() if index.name}
    others = [f"{number} is {name} there and {here[number]} in the model" for number, name in named.items()
              if number in here and normalize("NFC", name) != normalize("NFC", here[number])]  # fmt: skip
    if named and not named.keys() & here.keys():
        others = [f"it knows {', '.join(named.values())}, the model {', '.join(speakers) or 'nobody'}"]
    if others:
        fix = "give the index of this model with -cm, or make it with train_index.py"
        raise UserError(f"the feature index is of another model: {'; '.join(others)}", path, fix)


def load(path: str | Path) -> dict[int, SpeakerIndex]:
    """Read a feature index by the name that users type, logs/44k/feature_and_index.pkl.

    The folder of the same name without .pkl is taken first, then a file of so-vits-svc 4.1.

    Raises:
        UserError: neither is there, or the file is broken or carries code.
    """
    path = Path(path)
    folder = path.with_suffix("") if path.suffix == ".pkl" else path
    if (folder / INDEX_FILE).is_file():
        return _load_folder(folder)
    if path.is_file():
        return _load_pickle(path)
    raise UserError("there is no feature index", path, "make one with train_index.py")


@dataclass(frozen=True)
class _Entry:
    file: str
    nprobe: Annotated[int, Field(ge=1, le=2**20)]
    name: str = ""


@dataclass(frozen=True)
class _IndexFile:
    speakers: dict[int, _Entry]


def _load_folder(folder: Path) -> dict[int, SpeakerIndex]:
    content = read_as(_IndexFile, folder / INDEX_FILE)
    try:
        if content is None:
            raise ValueError(INDEX_FILE)
        return {
            speaker_id: SpeakerIndex(_read_index(folder, entry.file), entry.nprobe, entry.name)
            for speaker_id, entry in content.speakers.items()
        }
    except (ValueError, TypeError, RuntimeError, MemoryError, OSError) as error:
        raise UserError(f"the feature index is broken ({type(error).__name__})", folder, _REBUILD) from None


def _read_index(folder: Path, name: str) -> Any:
    if Path(name).name != name:
        raise ValueError(name)  # a file outside the folder is not part of the index
    return _deserialize(np.fromfile(folder / name, dtype=np.uint8))


def _deserialize(data: np.ndarray) -> Any:
    """The index in bytes of faiss, which may not claim more than they are, and which answers a search.

    Raises:
        ValueError, RuntimeError, MemoryError: there is no such index in them.
    """
    limits = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()
    faiss.set_deserialization_vector_byte_limit(len(data))  # they hold for the whole process
    faiss.set_deserialization_loop_limit(len(data))
    try:
        index = faiss.deserialize_index(data)
    finally:
        faiss.set_deserialization_vector_byte_limit(limits[0])
        faiss.set_deserialization_loop_limit(limits[1])
    if not isinstance(index, faiss.IndexIVFFlat | faiss.IndexFlat):
        raise ValueError(f"an index of kind {type(index).__name__}")
    SpeakerIndex(index, 1).search(np.zeros((1, index.d), np.float32))
    return index


class _PickledIndex(Unfinished):
    """Takes the place of a faiss object in a pickle: keeps the state it is given and does nothing with it."""

    state: Any = None

    def finish(self, state: Any) -> _PickledIndex:
        self.state = state
        return self


def _admit(name: str) -> Call:
    """The index classes of faiss, by whatever module the writing version kept them in."""
    if name.partition(".")[0] == "faiss" and name.rpartition(".")[2].startswith("Index"):
        return Call(lambda *_: _PickledIndex())
    raise KeyError(name)


def _load_pickle(path: Path) -> dict[int, SpeakerIndex]:
    data = path.read_bytes()
    if data[:4] == b"PK\3\4":
        what = "the file is a .pth, such as k-means centres, and not a feature index"
        raise UserError(what, path, "leave out --feature_retrieval for k-means centres")
    try:
        table = pickles.loads(data, _admit)
    except RefusedName as error:
        raise UserError(f"refused: the file carries {error}, which is not an index", path, _REBUILD) from None
    except BrokenPickle as error:
        raise UserError(f"the file is broken: {error}", path, _REBUILD) from None
    try:
        return {int(key): SpeakerIndex(_from_state(pickled), DEFAULT_NPROBE) for key, pickled in table.items()}
    except (AttributeError, TypeError, ValueError, KeyError, RuntimeError, MemoryError) as error:
        raise UserError(f"the file holds no faiss indexes ({type(error).__name__})", path, _REBUILD) from None


def _from_state(pickled: _PickledIndex) -> Any:
    """The index in the bytes that faiss keeps under "this"."""
    return _deserialize(np.frombuffer(bytes(pickled.state["this"]), dtype=np.uint8))
