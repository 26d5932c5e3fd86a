"""Static mix of models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from modules import checkpoint, mixing
from modules.errors import UserError
from tests.parity import golden

GOLDENS = Path(__file__).parent / "parity" / "goldens"


@pytest.fixture
def models(tmp_path):
    meta, arrays = golden.load(GOLDENS / "a_mix_model.npz")
    x = golden.inputs(meta, arrays)
    paths = []
    for i in range(3):
        state = {key: torch.from_numpy(x[f"m{i}.{key}"]) for key in "wb"}
        paths.append(tmp_path / f"G_{i}.pth")
        content = {"model": state, "iteration": 4, "optimizer": {"state": {}}, "learning_rate": 0.5}
        checkpoint.save(content, paths[-1])
    return meta, arrays, paths


@pytest.mark.parametrize("mode", ["convex", "linear"])
def test_golden_modes_of_the_original(models, mode):
    meta, arrays, paths = models
    mixed = mixing.mix_models(paths, meta["rates"], mode)
    for key in "wb":
        golden.compare(meta, arrays, f"{mode}.{key}", mixed["model"][key].numpy())


def test_percent_means_percent_and_zero_leaves_a_voice_out(models):
    """Softmax made 27/73 of 0/100 (A28)."""
    _, _, paths = models
    states = [checkpoint.load(path)["model"]["w"].numpy() for path in paths]
    left_out = mixing.mix_models(paths[:2], [0, 100])["model"]["w"].numpy()
    np.testing.assert_array_equal(left_out, states[1])
    shared = mixing.mix_models(paths[:2], [30, 70])["model"]["w"].numpy()
    np.testing.assert_allclose(shared, 0.3 * states[0] + 0.7 * states[1], rtol=1e-6)


def test_no_training_state_is_kept(models):
    """The mix kept the first model's optimizer and epoch (A28)."""
    mixed = mixing.mix_models(models[2], [1, 1, 1])
    assert mixed["optimizer"] is None and mixed["iteration"] == 0


def test_the_key_that_does_not_agree_is_named(models, tmp_path):
    _, _, paths = models
    other = checkpoint.load(paths[0])
    other["model"]["w"] = torch.zeros(4, 6)
    checkpoint.save(other, tmp_path / "wide.pth")
    with pytest.raises(UserError, match=r"w is \[4, 5\] in one and \[4, 6\] in the other"):
        mixing.mix_models([paths[0], tmp_path / "wide.pth"], [50, 50])
    other["model"] = {"w": torch.zeros(4, 5)}
    checkpoint.save(other, tmp_path / "short.pth")
    with pytest.raises(UserError, match=r"G_0\.pth has the key b"):
        mixing.mix_models([paths[0], tmp_path / "short.pth"], [50, 50])


@pytest.mark.parametrize(
    ("percents", "reason"), [([0, 0], "no whole"), ([-10, 110], "no whole"), ([float("nan"), 1], "numbers")]
)
def test_percentages_that_make_no_sense_are_refused(models, percents, reason):
    with pytest.raises(UserError, match=reason):
        mixing.mix_models(models[2][:2], percents)


def test_command_writes_any_name_and_never_over_a_model(models, tmp_path, capsys):
    _, _, paths = models
    target = tmp_path / "mixed.pth"
    assert mixing.main([f"{paths[0]}=25", f"{paths[1]}=75", "-o", str(target)]) == 0
    state = checkpoint.load(target)["model"]["b"]
    expected = 0.25 * checkpoint.load(paths[0])["model"]["b"] + 0.75 * checkpoint.load(paths[1])["model"]["b"]
    torch.testing.assert_close(state, expected)
    before = paths[0].read_bytes()
    assert mixing.main([f"{paths[0]}=25", f"{paths[1]}=75", "-o", str(paths[0])]) == 2
    assert "overwrite" in capsys.readouterr().err and paths[0].read_bytes() == before
    assert mixing.main([str(paths[0]), "-o", str(target)]) == 2
