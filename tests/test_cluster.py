"""K-means centres: golden numbers, quality against scikit-learn, the script on a small dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from cluster import kmeans, train_cluster
from cluster.units import load_frames
from modules import checkpoint
from modules.data.features import Stamp, write_stamp
from modules.errors import UserError
from tests.parity import fill, golden

GOLDENS = Path(__file__).parent / "parity" / "goldens"


def inertia(frames: np.ndarray, centres: np.ndarray) -> float:
    nearest = kmeans.assign(torch.from_numpy(frames), torch.from_numpy(centres)).numpy()
    return float(((frames - centres[nearest]) ** 2).sum())


def write_units(folder: Path, name: str, frames: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.save(torch.from_numpy(frames.T.copy())[None], folder / f"{name}.wav.soft.pt")


def test_golden_centres_are_picked_and_blended():
    meta, arrays = golden.load(GOLDENS / "h_kmeans.npz")
    x = golden.inputs(meta, arrays)
    units = np.ascontiguousarray(x["c"].T)
    centres = kmeans.Centres({"alice": x["centers_alice"], "bob": x["centers_bob"]})
    outcomes = []
    for speaker, values in centres.by_speaker.items():  # the case does not say whose centres it picked
        try:
            labels = kmeans.assign(torch.from_numpy(units), torch.from_numpy(values)).numpy()
            golden.compare(meta, arrays, "labels", labels)
            golden.compare(meta, arrays, "centers_picked_T", values[labels].T)
            golden.compare(meta, arrays, "mixed_ratio0.4", centres.blend(units, speaker, 0.4).T)
            outcomes.append(speaker)
        except AssertionError:
            continue
    assert len(outcomes) == 1


def test_inertia_is_within_two_percent_of_scikit_learn():
    rng = np.random.default_rng(0)
    hubs = rng.standard_normal((40, 32)) * 3
    frames = (hubs[rng.integers(40, size=6000)] + rng.standard_normal((6000, 32))).astype(np.float32)
    reference = KMeans(100, n_init=1, random_state=0).fit(frames)
    assert inertia(frames, kmeans.fit(frames, 100)) < 1.02 * reference.inertia_


def test_same_seed_gives_the_same_centres():
    frames = fill.fill("kmeans/frames", (500, 8))
    np.testing.assert_array_equal(kmeans.fit(frames, 20, seed=3), kmeans.fit(frames, 20, seed=3))
    assert not np.array_equal(kmeans.fit(frames, 20, seed=3), kmeans.fit(frames, 20, seed=4))


def test_identical_frames_make_finite_centres():
    centres = kmeans.fit(np.ones((40, 4), dtype=np.float32), 10)
    np.testing.assert_array_equal(centres, np.ones((10, 4), dtype=np.float32))


def test_nan_units_are_refused():
    frames = np.ones((40, 4), dtype=np.float32)
    frames[3, 2] = np.nan
    with pytest.raises(UserError, match="NaN"):
        kmeans.fit(frames, 10)


def test_script_trains_every_speaker_with_as_many_centres_as_there_can_be(tmp_path, capsys):
    """A short dataset is no error (B11), and the file has the original's layout."""
    write_units(tmp_path / "data" / "alice", "a", fill.fill("alice", (200, 12)))
    write_units(tmp_path / "data" / "bob", "b1", fill.fill("bob1", (30, 12)))
    write_units(tmp_path / "data" / "bob", "b2", fill.fill("bob2", (34, 12)))
    (tmp_path / "data" / ".DS_Store").write_text("x")
    assert train_cluster.main(["--dataset", str(tmp_path / "data"), "--output", str(tmp_path / "logs")]) == 0
    assert "200 frames carry 50 centres" in capsys.readouterr().out
    table = checkpoint.load(tmp_path / "logs" / "kmeans_10000.pt")
    assert {name: entry["cluster_centers_"].shape for name, entry in table.items()} == {
        "alice": (50, 12),
        "bob": (16, 12),
    }
    assert table["alice"]["cluster_centers_"].dtype == np.float32
    assert table["alice"]["n_features_in_"] == 12 and isinstance(table["alice"]["_n_threads"], int)
    centres = kmeans.load(tmp_path / "logs" / "kmeans_10000.pt")
    assert centres.blend(np.zeros((5, 12), np.float64), "bob", 1.0).shape == (5, 12)  # float64 units work (B11)


def test_a_speaker_with_broken_units_does_not_stop_the_others(tmp_path, capsys):
    write_units(tmp_path / "alice", "a", fill.fill("alice", (200, 12)))
    write_units(tmp_path / "bob", "b", np.full((30, 12), np.nan, dtype=np.float32))
    assert train_cluster.main(["--dataset", str(tmp_path), "--output", str(tmp_path / "logs")]) == 1
    assert "bob" in capsys.readouterr().err
    assert list(kmeans.load(tmp_path / "logs" / "kmeans_10000.pt").by_speaker) == ["alice"]


def test_no_units_cannot_start(tmp_path, capsys):
    assert train_cluster.main(["--dataset", str(tmp_path), "--output", str(tmp_path / "logs")]) == 2
    assert "preprocess_hubert_f0.py" in capsys.readouterr().err


def test_units_of_different_widths_are_refused(tmp_path):
    write_units(tmp_path, "a", fill.fill("a", (20, 12)))
    write_units(tmp_path, "b", fill.fill("b", (20, 16)))
    with pytest.raises(UserError, match="different widths"):
        load_frames(tmp_path)


def test_blending_for_an_unknown_speaker_or_other_encoder_says_so():
    centres = kmeans.Centres({"alice": np.zeros((4, 12), dtype=np.float32)})
    with pytest.raises(UserError, match="no speaker 'carol'"):
        centres.blend(np.zeros((3, 12), dtype=np.float32), "carol", 0.5)
    with pytest.raises(UserError, match="12 wide, the units 16"):
        centres.blend(np.zeros((3, 16), dtype=np.float32), "alice", 0.5)


def test_units_of_deleted_clips_are_left_out(tmp_path: Path) -> None:
    """Users listen, delete bad wavs, and build the index again."""
    for name in ("good", "bad"):
        write_units(tmp_path / "alice", name, np.full((7, 8), len(name), np.float32))
    assert len(load_frames(tmp_path / "alice")) == 14  # a data set whose wavs were all put away
    (tmp_path / "alice/good.wav").touch()
    frames = load_frames(tmp_path / "alice")
    assert frames.shape == (7, 8) and (frames == 4).all()


def test_units_of_two_encoders_of_one_width_are_refused_by_file(tmp_path: Path) -> None:
    for name, encoder in (("a", "vec768l12"), ("b", "vec768l12"), ("c", "wavlmbase+")):
        write_units(tmp_path / "alice", name, np.zeros((5, 8), np.float32))
        wav = tmp_path / f"alice/{name}.wav"
        wav.touch()
        write_stamp(wav, Stamp("0", {"units": {"encoder": encoder}}))
    with pytest.raises(UserError, match="vec768l12, 8 wide; wavlmbase") as caught:
        load_frames(tmp_path / "alice")
    assert "c.wav.soft.pt" in caught.value.where and "a.wav" not in caught.value.where
