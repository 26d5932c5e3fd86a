"""Releases of models: what they hold and that nothing takes them for training checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import compress_model
from modules import checkpoint
from modules.config import Config, parse_config
from modules.training.resume import clean, newest
from tests.disk import SIZE, is_mounted, small_disk
from tests.parity import fill, golden

GOLDENS = Path(__file__).parent / "parity" / "goldens"


@pytest.fixture
def trained(tmp_path):
    """A training checkpoint of the small default model, deterministic weights."""
    manifest = json.loads((GOLDENS / "manifests" / "b_default.json").read_text())
    state = {key: torch.from_numpy(value) for key, value in fill.fill_state_dict(manifest).items()}
    path = tmp_path / "logs" / "G_800.pth"
    checkpoint.save(
        {"model": state, "iteration": 12, "optimizer": {"state": {0: torch.ones(5)}}, "learning_rate": 1}, path
    )
    checkpoint.save({"model": {"discriminators.0.x": torch.ones(1)}}, path.with_name("D_800.pth"))
    config = tmp_path / "config.json"
    Config.model_validate({"model": manifest["config_model"], "spk": {"alice": 0}}).save(config)
    return path, config, state


def release(trained, *flags: str) -> Path:
    path, config, _ = trained
    assert compress_model.main(["-c", str(config), "-i", str(path), *flags]) == 0
    return next(path.parent.glob("*_release*"))


@pytest.mark.parametrize("half", [False, True])
def test_golden_keys_types_and_fields(trained, half):
    meta, arrays = golden.load(GOLDENS / "h_compress.npz")
    path = release(trained, *["--half"] * half)
    assert path.name == ("G_800_release_half.pth" if half else "G_800_release.pth")
    content = checkpoint.load(path)
    expected = meta["half" if half else "full"]
    assert list(content["model"]) == meta["keys"]
    assert {str(value.dtype) for value in content["model"].values()} == set(expected["dtypes"])
    assert {key: type(value).__name__ for key, value in content.items()} == {**expected["top"], "model": "dict"}
    assert content["iteration"] == expected["iteration"] and content["learning_rate"] == expected["learning_rate"]
    group = content["optimizer"]["param_groups"][0]
    assert (
        content["optimizer"]["state"] == {}
        and len(group["params"]) == expected["optimizer"]["param_groups"][0]["params"]
    )
    if half:
        sample = next(key for key, value in content["model"].items() if list(value.shape) == [32, 48, 5])
        golden.compare(meta, arrays, "sample_half", content["model"][sample][:4].float().numpy())


def test_kept_weights_are_bit_equal(trained):
    content = checkpoint.load(release(trained))["model"]
    assert all(torch.equal(content[key], trained[2][key]) for key in content)


def test_a_release_is_neither_resumed_from_nor_cleaned_away(trained):
    """G_800_release.pth sorted behind every checkpoint and was trained on, then deleted (A15)."""
    path = release(trained)
    half = release(trained, "--half")
    folder = path.parent
    for step in (1600, 2400):
        for letter in "GD":
            (folder / f"{letter}_{step}.pth").write_bytes(b"x")
    assert newest(folder)[0] == 2400
    clean(folder, keep=1)
    assert path.exists() and half.exists()
    assert sorted(p.name for p in folder.glob("[GD]_*00.pth")) == ["D_2400.pth", "G_2400.pth"]


def test_safetensors_release_carries_its_config(trained):
    path = release(trained, "--safetensors")
    config = parse_config(checkpoint.safetensors_metadata(path)["config"], path)
    assert config.spk == {"alice": 0}
    state = checkpoint.model_state(checkpoint.load(path), path)
    assert not any(key.startswith("enc_q.") for key in state)
    assert all(torch.equal(state[key], trained[2][key]) for key in state)


def test_keys_of_a_parallel_wrapper_are_stripped_of_their_prefix(trained):
    """Joining key parts with a comma broke `module.` dicts (B20)."""
    path, config, state = trained
    checkpoint.save({"model": {f"module.{key}": value for key, value in state.items()}}, path)
    content = checkpoint.load(release(trained))["model"]
    assert "emb_g.weight" in content and not any("enc_q" in key or key.startswith("module.") for key in content)


def test_the_model_itself_is_never_overwritten(trained, capsys):
    path, config, _ = trained
    before = path.read_bytes()
    assert compress_model.main(["-c", str(config), "-i", str(path), "-o", str(path)]) == 2
    assert path.read_bytes() == before and "overwrite" in capsys.readouterr().err


def test_the_config_beside_the_model_is_taken_and_not_that_of_the_next_voice(trained, monkeypatch, tmp_path):
    path, config, _ = trained
    Config(spk={"zoe": 0}).save(tmp_path / "configs/config.json")
    config.rename(path.with_name("config.json"))
    monkeypatch.chdir(tmp_path)
    assert compress_model.main(["-i", str(path), "-o", "r.safetensors"]) == 0
    assert parse_config(checkpoint.safetensors_metadata("r.safetensors")["config"], path).spk == {"alice": 0}


def test_a_config_of_other_sizes_is_refused_before_anything_is_written(trained, capsys):
    path, config, _ = trained
    values = json.loads(config.read_text())
    values["model"]["n_speakers"] += 1
    config.write_text(json.dumps(values))
    assert compress_model.main(["-c", str(config), "-i", str(path)]) == 2
    message = capsys.readouterr().err
    assert "emb_g.weight" in message and f"{config} is of another model" in message
    assert not list(path.parent.glob("*release*"))


def test_discriminators_are_refused_by_name(trained, capsys):
    path, config, _ = trained
    assert compress_model.main(["-c", str(config), "-i", str(path.with_name("D_800.pth"))]) == 2
    message = capsys.readouterr().err
    assert "holds the discriminators" in message and "D_800.pth" in message
    assert not list(path.parent.glob("*release*"))


@pytest.mark.parametrize("flags", [[], ["--safetensors"]])
def test_a_release_that_does_not_fit_the_disk_is_a_message_and_leaves_nothing(trained, tmp_path, capsys, flags):
    path, config, state = trained
    assert sum(value.nbytes for value in state.values()) > SIZE
    with small_disk(tmp_path / "small") as folder:
        target = folder / f"r{'.safetensors' if flags else '.pth'}"
        code = compress_model.main(["-c", str(config), "-i", str(path), "-o", str(target), *flags])
        if not is_mounted(folder) and not flags:
            pytest.skip("torch.save writes past the disk of this process")
        assert code == 2 and not list(folder.iterdir())
    message = capsys.readouterr().err
    assert "No space left" in message and str(target) in message and "Traceback" not in message


def test_the_posterior_encoder_goes_into_a_file_of_its_own(trained, tmp_path, capsys):
    target = tmp_path / "Q_0.safetensors"
    path = release(trained, "--safetensors", "--posterior", str(target))
    rest, posterior = checkpoint.load(path), checkpoint.load(target)
    assert posterior.keys() == {key for key in trained[2] if key.startswith("enc_q.")} and posterior
    assert rest.keys() | posterior.keys() == trained[2].keys() and not rest.keys() & posterior.keys()
    assert all(torch.equal(posterior[key], trained[2][key]) for key in posterior)

    flags = ["-c", str(trained[1]), "-i", str(path), "-o", str(tmp_path / "again.pth"), "--posterior"]
    assert compress_model.main([*flags, str(target)]) == 2 and "no posterior encoder" in capsys.readouterr().err
    assert compress_model.main([*flags, str(tmp_path / "Q.pth")]) == 2 and not (tmp_path / "again.pth").exists()
