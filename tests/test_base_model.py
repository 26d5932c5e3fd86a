"""The base model that comes with the project: who starts from it, from what, and who does not."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import inference_main
import preprocess_flist_config
import pretrain
import train as script
from modules import checkpoint
from modules.config import Config, load_config, parse_config
from modules.data.f0_ranges import trained_range
from modules.errors import UserError
from modules.training import base_model
from modules.training.distributed import Ranks
from modules.training.options import TrainOptions
from modules.training.vits import build_networks, train
from pretrain import BASE_DIR, BASE_DISCRIMINATOR, BASE_GENERATOR, BASE_POSTERIOR
from tests.conftest import ROOT
from tests.standin_voice import small_config, write_base, write_encoder
from tests.tiny_voice import make_dataset, tiny_config

CPU = Ranks(torch.device("cpu"))
BASE_SPEAKERS = {"alice": 0, "carol": 2, "dave": 3}  # row 1 is nobody's


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"), tiny_config(), BASE_SPEAKERS)


def config_for(speakers: Iterable[str], **model: Any) -> Config:
    config = tiny_config(model=model)
    config.spk = {name: number for number, name in enumerate(speakers)}
    config.model.n_speakers = len(config.spk)
    return config


def begun(config: Config, base: Path | None, folder: Path) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """State dicts of the networks before training, and the notes."""
    networks, progress, notes = build_networks(config, CPU, folder, base)
    assert progress.step == 0
    return networks.generator.state_dict(), networks.discriminator.state_dict(), notes


def stored(base: Path, name: str = BASE_GENERATOR) -> dict[str, torch.Tensor]:
    return {key: value.float() for key, value in checkpoint.load(base / name).items()}


@pytest.mark.parametrize("speakers", [["new"], ["x", "y", "z"], ["x", "carol"]])
def test_a_new_voice_starts_from_the_base_model(base: Path, tmp_path: Path, speakers: list[str]) -> None:
    generator, discriminator, notes = begun(config_for(speakers), base, tmp_path)
    file = stored(base) | stored(base, BASE_POSTERIOR)
    table = file.pop("emb_g.weight")
    assert all(torch.equal(generator[key], value) for key, value in file.items())
    assert generator.keys() == file.keys() | {"emb_g.weight"}
    assert all(torch.equal(discriminator[key], value) for key, value in stored(base, BASE_DISCRIMINATOR).items())

    mean = table[[0, 2, 3]].mean(dim=0)
    for number, name in enumerate(speakers):
        want = table[2] if name == "carol" else mean
        assert torch.allclose(generator["emb_g.weight"][number], want, atol=1e-6)
    assert len(generator["emb_g.weight"]) == len(speakers)
    new = ", ".join(sorted(set(speakers) - {"carol"}))
    assert len(notes) == 1 and notes[0].startswith(f"starting from the base model {base / BASE_GENERATOR}")
    assert f"{new}: from the mean of its speakers" in notes[0]
    assert ("carol: as it knows them" in notes[0]) == ("carol" in speakers)


def test_rows_that_no_name_has_are_the_mean_too(base: Path, tmp_path: Path) -> None:
    config = config_for(["x"])
    config.model.n_speakers = 5
    table = begun(config, base, tmp_path)[0]["emb_g.weight"]
    assert torch.equal(table, table[:1].expand(5, -1)) and table[0].abs().max() > 0


def assert_as_initialised(config: Config, base: Path | None, tmp_path: Path) -> str:
    """That nothing of the base model is in the networks; returns the note."""
    generator, discriminator, notes = begun(config, base, tmp_path / "a")
    fresh_generator, fresh_discriminator, _ = begun(config, None, tmp_path / "b")
    assert all(torch.equal(generator[key], value) for key, value in fresh_generator.items())
    assert all(torch.equal(discriminator[key], value) for key, value in fresh_discriminator.items())
    assert len(notes) == 1 and notes[0].startswith("starting from random weights")
    return notes[0]


def test_another_encoder_or_other_sizes_start_from_nothing_and_say_why(base: Path, tmp_path: Path) -> None:
    note = assert_as_initialised(config_for(["x"], speech_encoder="hubertsoft"), base, tmp_path)
    assert "trained with the speech encoder vec768l12 and the config names hubertsoft" in note

    note = assert_as_initialised(config_for(["x"], hidden_channels=32, n_layers=2), base, tmp_path)
    assert "model.hidden_channels is 32 here and 16 there" in note and "model.n_layers is 2 here and 1 there" in note
    assert "--micro" in note

    slower = config_for(["x"])
    slower.data.sampling_rate = 32000
    assert "data.sampling_rate is 32000 here and 44100 there" in assert_as_initialised(slower, base, tmp_path)
    assert "no base model in" in assert_as_initialised(config_for(["x"]), tmp_path / "nowhere", tmp_path)


def test_discriminators_may_be_missing_or_of_another_width(base: Path, tmp_path: Path) -> None:
    fresh = begun(config_for(["x"]), None, tmp_path / "m")[1]
    alone = write_base(tmp_path / "alone", tiny_config(), BASE_SPEAKERS, discriminator=False)
    generator, discriminator, notes = begun(config_for(["x"]), alone, tmp_path / "m")
    assert torch.equal(generator["pre.weight"], stored(alone)["pre.weight"])
    assert all(torch.equal(discriminator[key], value) for key, value in fresh.items())
    assert "the discriminators start anew (there is no D_0.safetensors)" in notes[0]

    generator, _, notes = begun(config_for(["x"], discriminator_width=0.125), base, tmp_path / "m")
    assert torch.equal(generator["pre.weight"], stored(base)["pre.weight"])
    assert "model.discriminator_width is 0.125 here and 0.0625 there" in notes[0]


def test_a_release_without_the_posterior_encoder_still_serves(tmp_path: Path) -> None:
    lean = write_base(tmp_path / "lean", tiny_config(), BASE_SPEAKERS, posterior=False)
    assert not any(key.startswith("enc_q.") for key in stored(lean)) and not (lean / BASE_POSTERIOR).exists()
    generator, _, notes = begun(config_for(["x"]), lean, tmp_path / "m")
    fresh = begun(config_for(["x"]), None, tmp_path / "m")[0]
    assert torch.equal(generator["enc_q.pre.weight"], fresh["enc_q.pre.weight"])
    assert torch.equal(generator["pre.weight"], stored(lean)["pre.weight"])
    assert "the posterior encoder starts anew (there is no Q_0.safetensors)" in notes[0]


@pytest.mark.parametrize("fault", ["cut off", "no config", "rubbish", "lacks a layer", "broken D_0", "broken Q_0"])
def test_a_broken_base_model_is_said_to_be_broken(base: Path, tmp_path: Path, fault: str) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in (BASE_GENERATOR, BASE_POSTERIOR, BASE_DISCRIMINATOR):
        (broken / name).write_bytes((base / name).read_bytes())
    named = f"{fault[-3:]}.safetensors" if fault.startswith("broken") else BASE_GENERATOR
    path = broken / named
    if fault == "cut off" or fault.startswith("broken"):
        path.write_bytes(path.read_bytes()[:-1000])
    elif fault == "rubbish":
        path.write_text("version https://git-lfs.github.com/spec/v1\n")
    else:
        state = checkpoint.load(path)
        metadata = checkpoint.safetensors_metadata(path) if fault == "lacks a layer" else {}
        if fault == "lacks a layer":
            del state["pre.weight"]
        checkpoint.save_safetensors(state, path, metadata)
    with pytest.raises(UserError) as error:
        begun(config_for(["x"]), broken, tmp_path / "m")
    assert named in error.value.where and "--from-scratch" in error.value.fix
    begun(config_for(["x"]), None, tmp_path / "m")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("voice")
    make_dataset(root, tiny_config(train={"eval_interval": 1000}))
    return root


def run(prepared: Path, folder: Path, max_steps: int, base: Path | None) -> int:
    config = prepared / "configs/config.json"
    options = TrainOptions(config, folder.name, folder.parent, max_steps=max_steps, base_dir=base)
    return train(options, CPU)


def test_a_resumed_run_never_reads_the_base_model_again(
    base: Path, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "m"
    assert run(prepared, folder, 1, base) == 0
    assert "starting from the base model" in capsys.readouterr().out
    trained = checkpoint.load(folder / "G_1.pth")["model"]
    bytes_of = {name: (base / name).read_bytes() for name in (BASE_GENERATOR, BASE_DISCRIMINATOR)}
    other = tmp_path / "other"
    other.mkdir()
    for name in bytes_of:
        (other / name).write_text("rubbish that nobody may read")
    networks, progress, notes = build_networks(load_config(folder / "config.json"), CPU, folder, other)
    assert progress.step == 1 and notes == ["resuming from step 1"]
    assert all(torch.equal(networks.generator.state_dict()[key], value) for key, value in trained.items())
    assert run(prepared, folder, 2, other) == 0 and (folder / "G_2.pth").is_file()


def test_a_base_model_of_the_users_own_goes_before(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    torch.manual_seed(77)
    networks = build_networks(config_for(["x"]), CPU, tmp_path / "none")[0]
    for network in networks.pair:
        checkpoint.save({"model": network.module.state_dict()}, folder / f"{network.name}_0.pth")
    generator, _, notes = begun(config_for(["x"]), base, folder)
    assert torch.equal(generator["pre.weight"], networks.generator.state_dict()["pre.weight"])
    assert not torch.equal(generator["pre.weight"], stored(base)["pre.weight"])
    assert len(notes) == 2 and all("starting from the base model" in note and "_0.pth" in note for note in notes)


def test_the_first_evaluation_hears_the_base_model(
    base: Path, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Step 0 of the curve is the base model's own distance, which a fresh model does not have."""
    distances = []
    for name, start in (("from_base", base), ("fresh", None)):
        run(prepared, tmp_path / name, 1, start)
        rows = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        distances.append(next(row["val/mel_distance"] for row in rows if row["step"] == 0))
    assert distances[0] != distances[1]


def test_train_py_starts_from_it_unless_told_not_to(
    base: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pretrain, "BASE_DIR", base)
    monkeypatch.chdir(tmp_path)
    flags = ["-c", str(prepared / "configs/config.json"), "-d", "cpu", "--max_steps", "1", "-m", "voice"]
    assert script.main([*flags, "--log_dir", "here"]) == 0
    assert "starting from the base model" in capsys.readouterr().out and Path("here/voice/G_1.pth").is_file()
    assert script.main([*flags, "--from-scratch"]) == 0
    out = capsys.readouterr().out
    assert "starting from random weights\n" in out and Path("logs/voice/G_1.pth").is_file()


def test_all_ranks_start_from_the_same(base: Path, prepared: Path, tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    paths = [prepared / "configs/config.json", tmp_path / "m", tmp_path / "reports"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(ROOT / "tests/train_under_torchrun.py"), *map(str, paths), "2", str(base)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("starting from the base model") == 1
    reports = [json.loads((tmp_path / f"reports/rank{rank}.json").read_text()) for rank in range(2)]
    assert reports[0]["weights"] == reports[1]["weights"]
    assert reports[0]["begun"] == reports[1]["begun"] != reports[0]["weights"]
    trained = checkpoint.load(tmp_path / "m/G_2.pth")["model"]["pre.weight"]
    assert (trained - stored(base)["pre.weight"]).abs().max() < 0.05  # two steps away from the base model


def test_the_config_of_micro_fits_a_base_model_of_its_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = micro_config()
    base = load_config("configs/config.json")
    base.spk, base.model.n_speakers = dict(BASE_SPEAKERS), 4
    assert base_model.incompatibility(config, base) == ""
    base.model.n_layers += 1
    assert "model.n_layers" in base_model.incompatibility(config, base)


def micro_config() -> Config:
    for index in range(3):
        path = Path(f"dataset/44k/me/{index}.wav")
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.zeros(44100, np.int16), 44100, format="WAV")
    assert preprocess_flist_config.main(["--speech_encoder", "whisper-ppg-base", "--micro"]) == 0
    return load_config("configs/config.json")


def test_the_base_model_that_comes_along_fits_the_config_of_micro(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    generator, _, notes = begun(micro_config(), BASE_DIR, tmp_path / "m")
    assert notes[0].startswith("starting from the base model"), notes
    assert torch.equal(generator["pre.weight"], stored(BASE_DIR)["pre.weight"])
    assert (BASE_DIR / BASE_GENERATOR).stat().st_size <= 24e6
    assert "posterior" not in notes[0], "fine-tuning needs the posterior encoder: compress with --posterior"
    assert (BASE_DIR / "README.md").is_file()


@pytest.mark.parametrize("name", ["base", "the path"])
def test_a_song_is_converted_with_nothing_but_the_base_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    folder = write_base(tmp_path / "base", small_config(), BASE_SPEAKERS, discriminator=False)
    monkeypatch.setattr(inference_main, "BASE_DIR", folder)
    other_config = tmp_path / "repository/logs/44k/config.json"  # of another model, where the default of -c points
    config_for(["nobody"]).save(other_config)
    monkeypatch.setattr(inference_main, "ROOT", tmp_path / "repository")
    write_encoder(tmp_path / "pretrain")
    monkeypatch.chdir(tmp_path)
    time = np.arange(44100) / 44100
    soundfile.write("song.wav", 0.3 * np.sin(2 * np.pi * 220 * time), 44100)
    model = "base" if name == "base" else str(folder / BASE_GENERATOR)
    code = inference_main.main(["-m", model, "-n", "song.wav", "-s", "carol", "-d", "cpu", "--out_dir", "out"])
    assert code == 0, capsys.readouterr().err
    (result,) = Path("out").glob("song*carol*.flac")
    assert soundfile.info(result).frames == 44100
    assert re.search("carol", result.name)


def test_the_base_model_says_which_notes_its_speakers_were_trained_on() -> None:
    """So the first conversion gets advice; and the weights are those that were trained."""
    path = BASE_DIR / BASE_GENERATOR
    config = parse_config(checkpoint.safetensors_metadata(path)["config"], path)
    ranges = {speaker: trained_range(config, speaker) for speaker in config.spk}
    assert all(found is not None and found[1] > 1.3 * found[0] for found in ranges.values())
    assert ranges["pjs"] == (108.9, 352.1) and ranges["f001"] == (269.5, 546.8)
    content = path.read_bytes()
    weights = content[8 + int.from_bytes(content[:8], "little") :]
    assert hashlib.sha256(weights).hexdigest() == "960d11bf1b93202738cffe181a6bc3492efeb9b3d7769a88e3cb82cecfd99806"
