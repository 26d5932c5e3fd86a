"""Feature retrieval: golden numbers, recall, exact hits, the own format and the original's pickle."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch

import train_index
from cluster import retrieval
from modules import checkpoint
from modules.config import Config
from modules.errors import UserError
from tests.disk import SIZE, small_disk
from tests.parity import fill, golden

GOLDENS = Path(__file__).parent / "parity" / "goldens"


@pytest.fixture(scope="module")
def case():
    meta, arrays = golden.load(GOLDENS / "h_retrieval.npz")
    return meta, arrays, golden.inputs(meta, arrays)


def clustered(name: str, n: int, dim: int = 16) -> np.ndarray:
    return np.repeat(fill.fill(f"{name}/hubs", (n // 10 + 1, dim), 3.0), 10, axis=0)[:n] + fill.fill(name, (n, dim))


def brute_force_blend(stored: np.ndarray, units: np.ndarray, ratio: float, k: int = 8) -> np.ndarray:
    distances = ((units[:, None].astype(np.float64) - stored[None]) ** 2).sum(-1)
    nearest = np.argsort(distances, axis=1)[:, :k]
    weights = (1 / np.take_along_axis(distances, nearest, axis=1)) ** 2
    weights /= weights.sum(axis=1, keepdims=True)
    return ratio * (weights[:, :, None] * stored[nearest]).sum(axis=1) + (1 - ratio) * units


def test_golden_flat_blend(case):
    meta, arrays, x = case
    index = faiss.IndexFlatL2(24)
    index.add(x["big_npy"])
    speaker = retrieval.SpeakerIndex(index, nprobe=1)
    for ratio in (1, 0.5):
        golden.compare(meta, arrays, f"flat_ratio{ratio}", speaker.blend(x["c"].T, ratio).T)


def test_golden_ivf_blend_with_the_originals_single_cell(case):
    meta, arrays, x = case
    speaker = retrieval.SpeakerIndex(faiss.deserialize_index(x["ivf_index"]), nprobe=1)
    distances, vectors = speaker.search(x["c"].T)
    found = arrays["out_ivf_search_index"] >= 0
    np.testing.assert_allclose(distances[found], arrays["out_ivf_search_score"][found], rtol=1e-4)
    assert np.isinf(distances[~found]).all() and not vectors[~found].any()
    golden.compare(meta, arrays, "ivf_ratio0.5", speaker.blend(x["c"].T, 0.5).T)


def test_blend_equals_brute_force_on_all_cells():
    stored, units = clustered("stored", 900), fill.fill("units", (50, 16), 2.0)
    built = retrieval.build(stored)
    everywhere = retrieval.SpeakerIndex(built.index, nprobe=built.index.nlist)
    np.testing.assert_allclose(
        everywhere.blend(units, 0.7), brute_force_blend(stored, units, 0.7), rtol=1e-3, atol=1e-4
    )


def test_an_exact_hit_returns_the_stored_frame_and_no_nan():
    """Converting a training clip (A19)."""
    stored = clustered("stored", 900)
    blended = retrieval.build(stored).blend(stored[:40], 1.0)
    np.testing.assert_allclose(blended, stored[:40], atol=1e-5)


def test_weights_of_tiny_and_absent_neighbours_are_finite():
    distances = np.array([[1e-30, 1.0, np.inf], [0.0, 0.0, 5.0], [2.0, np.inf, np.inf]])
    np.testing.assert_allclose(
        retrieval.neighbour_weights(distances), [[1, 0, 0], [0.5, 0.5, 0], [1, 0, 0]], atol=1e-12
    )


@pytest.mark.parametrize("frames", [1, 5, 38, 39, 100])
def test_few_frames_can_be_searched(frames):
    """Fewer than 39 frames made an index of 0 cells that failed at conversion (B10)."""
    stored = fill.fill("few", (frames, 16))
    blended = retrieval.build(stored).blend(fill.fill("units", (20, 16)), 0.5)
    assert blended.shape == (20, 16) and np.isfinite(blended).all()


def test_cells_follow_the_formula_and_recall_is_kept():
    stored = clustered("recall", 4000)
    built = retrieval.build(stored)
    assert built.index.nlist == min(int(16 * 4000**0.5), 4000 // 39)
    queries = stored[::40] + fill.fill("jitter", (100, 16), 0.3)
    truth = faiss.IndexFlatL2(16)
    truth.add(stored)
    wanted = truth.search(queries, 8)[1]
    found = built.index.search(queries, 8, params=retrieval._search_parameters(built.index, built.nprobe))[1]
    assert np.mean([len(set(f) & set(w)) / 8 for f, w in zip(found, wanted, strict=True)]) > 0.9


def test_many_frames_are_reduced_to_centres(monkeypatch):
    monkeypatch.setattr(retrieval, "MAX_FRAMES", 500)
    monkeypatch.setattr(retrieval, "REDUCED_FRAMES", 80)
    assert retrieval.build(clustered("many", 600)).index.ntotal == 80


def test_own_format_round_trip_by_the_name_that_users_type(tmp_path):
    indexes = {0: retrieval.build(clustered("a", 300)), 7: retrieval.build(clustered("b", 50))}
    retrieval.save(indexes, tmp_path / "feature_and_index")
    units = fill.fill("units", (20, 16))
    for name in ("feature_and_index.pkl", "feature_and_index"):
        loaded = retrieval.load(tmp_path / name)
        assert loaded.keys() == indexes.keys()
        for speaker_id, speaker in indexes.items():
            np.testing.assert_array_equal(loaded[speaker_id].blend(units, 0.5), speaker.blend(units, 0.5))


def test_an_index_carries_the_names_of_its_speakers(tmp_path):
    indexes = {number: retrieval.build(clustered("a", 40)) for number in (0, 7)}
    retrieval.save(indexes, tmp_path / "index", {"alice": 0, "歌手": 7})
    loaded = retrieval.load(tmp_path / "index")
    assert {number: index.name for number, index in loaded.items()} == {0: "alice", 7: "歌手"}
    retrieval.save(loaded, tmp_path / "again")
    assert retrieval.load(tmp_path / "again")[7].name == "歌手"


def test_an_index_without_names_is_read_and_serves_any_model(tmp_path):
    retrieval.save({0: retrieval.build(clustered("a", 40))}, tmp_path / "index")
    assert "name" not in json.loads((tmp_path / "index/index.json").read_text())["speakers"]["0"]
    retrieval.check_speakers(retrieval.load(tmp_path / "index"), {"zoe": 0}, tmp_path)


@pytest.mark.parametrize(
    ("speakers", "message"),
    [
        ({"zoe": 0, "bob": 1}, "0 is alice there and zoe in the model"),
        ({"bob": 0, "alice": 1}, "1 is bob there and alice in the model"),
        ({"zoe": 5}, "it knows alice, bob, the model zoe"),
    ],
)
def test_the_index_of_another_model_is_refused(tmp_path, speakers, message):
    """It was blended in without a word: both had a speaker 0."""
    indexes = {number: retrieval.SpeakerIndex(None, 1, name) for number, name in enumerate(("alice", "bob"))}
    with pytest.raises(UserError, match=message) as caught:
        retrieval.check_speakers(indexes, speakers, tmp_path / "index")
    assert caught.value.where == str(tmp_path / "index") and "train_index.py" in caught.value.fix


@pytest.mark.parametrize("speakers", [{"alice": 0, "bob": 1}, {"alice": 0}, {"alice": 0, "bob": 1, "zoe": 2}])
def test_the_index_of_the_model_itself_passes(speakers):
    indexes = {number: retrieval.SpeakerIndex(None, 1, name) for number, name in enumerate(("alice", "bob"))}
    retrieval.check_speakers(indexes, speakers, "index")


def test_an_index_that_does_not_fit_the_disk_leaves_nothing_under_its_name(tmp_path):
    """faiss left half a file."""
    index = faiss.IndexFlatL2(16)
    index.add(np.zeros((SIZE // 32, 16), np.float32))
    with small_disk(tmp_path / "small") as folder:
        with pytest.raises(OSError, match="No space left") as full:
            retrieval.save({0: retrieval.SpeakerIndex(index, 1)}, folder)
        assert full.value.filename == str(folder / "0.faiss") and not list(folder.iterdir())


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_the_originals_pickle_is_read_without_running_it(tmp_path, case, protocol):
    path = tmp_path / "feature_and_index.pkl"
    index = faiss.deserialize_index(case[2]["ivf_index"])
    path.write_bytes(pickle.dumps({3: index}, protocol))
    loaded = retrieval.load(path)
    assert list(loaded) == [3] and loaded[3].index.ntotal == 600
    everywhere = retrieval.SpeakerIndex(loaded[3].index, nprobe=15)
    vectors = loaded[3].index.reconstruct_n(0, 600) if loaded[3].index.make_direct_map() is None else None
    units = case[2]["c"].T
    np.testing.assert_allclose(
        everywhere.blend(units, 1.0), brute_force_blend(vectors, units, 1.0), rtol=1e-3, atol=1e-4
    )


class Attack:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def test_a_pickle_with_code_is_refused_by_name_and_not_run(tmp_path):
    path = tmp_path / "feature_and_index.pkl"
    path.write_bytes(pickle.dumps({0: Attack(tmp_path / "owned")}))
    with pytest.raises(UserError, match="system"):
        retrieval.load(path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps({0: 5}), pickle.dumps([1])])
def test_a_broken_pickle_is_a_clear_error(tmp_path, content):
    path = tmp_path / "feature_and_index.pkl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"train_index\.py"):
        retrieval.load(path)


def test_an_index_file_outside_its_folder_is_refused(tmp_path):
    retrieval.save({0: retrieval.build(clustered("a", 60))}, tmp_path / "index")
    table = tmp_path / "index" / "index.json"
    table.write_text(table.read_text().replace("0.faiss", "../0.faiss"))
    with pytest.raises(UserError, match="broken"):
        retrieval.load(tmp_path / "index")


def test_script_indexes_every_speaker_and_reports_the_missing_one(tmp_path, capsys):
    """A missing speaker aborted the others, and the output folder had to exist (B10)."""
    for name, frames in (("alice", 120), ("bob", 20)):
        (tmp_path / "data" / name).mkdir(parents=True)
        units = torch.from_numpy(fill.fill(name, (16, frames)))[None]
        checkpoint.save(units, tmp_path / "data" / name / "a.wav.soft.pt")
    Config(spk={"alice": 0, "bob": 1, "carol": 2}).save(tmp_path / "config.json")
    arguments = ["--root_dir", tmp_path / "data", "-c", tmp_path / "config.json", "--output_dir", tmp_path / "logs/44k"]
    assert train_index.main([str(argument) for argument in arguments]) == 1
    assert "carol" in capsys.readouterr().err
    loaded = retrieval.load(tmp_path / "logs/44k/feature_and_index.pkl")
    assert {speaker_id: speaker.index.ntotal for speaker_id, speaker in loaded.items()} == {0: 120, 1: 20}
    assert [speaker.name for speaker in loaded.values()] == ["alice", "bob"]
    shutil.rmtree(tmp_path / "data/bob")
    assert train_index.main([str(argument) for argument in arguments]) == 1
    assert "bob: the index of an earlier run is kept" in capsys.readouterr().out
    assert retrieval.load(tmp_path / "logs/44k/feature_and_index.pkl").keys() == {0, 1}
