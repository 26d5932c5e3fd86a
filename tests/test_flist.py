"""preprocess_flist_config.py: lists and configs that are the same on every machine and on every run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml

import preprocess_flist_config as script
from modules.config import load_config, load_diffusion_config
from modules.data.preprocess_flist import speaker_ids
from vencoder import ENCODERS

TEMPLATE = json.loads((script.TEMPLATES / "config_template.json").read_text(encoding="utf-8"))


def clip(path: Path, seconds: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(int(seconds * 44100), np.int16), 44100, format="WAV")
    return path


def speaker(name: str, clips: int = 5) -> None:
    for index in range(clips):
        clip(Path("dataset/44k") / name / f"{index}.wav")


def run(*flags: str) -> int:
    return script.main(list(flags))


def lines(name: str) -> list[str]:
    return Path(f"filelists/{name}.txt").read_text(encoding="utf-8").splitlines()


def config() -> dict[str, Any]:
    return json.loads(Path("configs/config.json").read_text(encoding="utf-8"))


def diffusion() -> dict[str, Any]:
    return yaml.safe_load(Path("configs/diffusion.yaml").read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is not the repository: templates come from beside the script."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_clip_is_in_one_list_and_two_of_each_speaker_validate() -> None:
    speaker("bob", 7)
    speaker("alice", 4)
    assert run() == 0
    train, val = lines("train"), lines("val")
    assert sorted(train + val) == sorted(
        f"./dataset/44k/{name}/{index}.wav" for name, count in (("alice", 4), ("bob", 7)) for index in range(count)
    )
    assert sorted(line.split("/")[3] for line in val) == ["alice", "alice", "bob", "bob"]


def test_speaker_ids_follow_the_sorted_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """(A9) The original took them as the directory listed them, which differs between machines."""
    listing = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: sorted(listing(self), reverse=True))
    for name in ("carol", "Alice", "bob"):
        speaker(name, 3)
    assert run() == 0
    assert config()["spk"] == diffusion()["spk"] == {"Alice": 0, "bob": 1, "carol": 2}
    assert config()["model"]["n_speakers"] == diffusion()["model"]["n_spk"] == 3


def test_only_the_named_speakers_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("alice", "bob", "carol"):
        speaker(name)
    assert run("--speakers", "carol", "alice") == 0
    assert config()["spk"] == {"alice": 0, "carol": 1}
    assert {line.split("/")[-2] for line in lines("train") + lines("val")} == {"alice", "carol"}
    assert run("--speakers", "dora") == 2
    assert "speakers with clips: alice, bob, carol" in capsys.readouterr().err


def test_the_diffusion_model_goes_into_the_folder_of_its_voice() -> None:
    speaker("alice")
    assert run() == 0 and diffusion()["env"]["expdir"] == "logs/44k/diffusion"
    assert run("-m", "alice") == 0 and diffusion()["env"]["expdir"] == "logs/alice/diffusion"


def test_hidden_folders_and_stray_files_are_no_speakers() -> None:
    """(A9)"""
    speaker("alice", 3)
    clip(Path("dataset/44k/.ipynb_checkpoints/0.wav"))
    clip(Path("dataset/44k/alice/.hidden.wav"))
    clip(Path("dataset/44k/loose.wav"))
    Path("dataset/44k/.DS_Store").write_bytes(b"x")
    Path("dataset/44k/alice/0.wav.soft.pt").write_bytes(b"x")
    Path("dataset/44k/alice/notes.txt").write_bytes(b"x")
    assert run() == 0
    assert config()["spk"] == {"alice": 0} and len(lines("train") + lines("val")) == 3


def test_the_split_is_the_same_on_every_run_and_machine() -> None:
    """(A10)"""
    speaker("alice", 20)
    assert run() == 0
    first = lines("train"), lines("val")
    assert run() == 0
    assert (lines("train"), lines("val")) == first
    assert first[1] == [f"./dataset/44k/alice/{index}.wav" for index in (11, 1)]  # sha256sum of 1234/alice/<n>.wav
    assert run("--seed", "99") == 0
    assert lines("val") != first[1]


def test_new_clips_send_none_from_training_to_validation_but_new_ones() -> None:
    """(A10) A re-run of the original leaked validation clips into training and the reverse."""
    speaker("alice", 20)
    run()
    train, val = set(lines("train")), set(lines("val"))
    speaker("alice", 40)
    run()
    assert not set(lines("val")) & train
    assert len(set(lines("val")) - val) <= 2 and train < set(lines("train"))


@pytest.mark.parametrize(("clips", "validation"), [(1, 0), (2, 1), (3, 1)])
def test_a_speaker_keeps_a_clip_to_train_on(
    clips: int, validation: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """(A10) The original gave both of two clips to validation and trained on none."""
    speaker("alice", clips)
    speaker("bob", 5)
    assert run() == 0
    counts = [sum("/alice/" in line for line in lines(name)) for name in ("train", "val")]
    assert counts == [clips - validation, validation]
    assert (f"alice has only {clips} clip(s)" in capsys.readouterr().err) == (clips < 3)


def test_lists_and_configs_are_utf8_with_line_feeds() -> None:
    """(B18)"""
    speaker("歌手", 3)
    assert run() == 0
    for path in ("filelists/train.txt", "filelists/val.txt", "configs/config.json", "configs/diffusion.yaml"):
        data = Path(path).read_bytes()
        assert "歌手".encode() in data and b"\r" not in data
    assert load_config("configs/config.json").spk == {"歌手": 0}
    assert load_diffusion_config("configs/diffusion.yaml").spk == {"歌手": 0}


def test_short_clips_are_left_out_and_unusual_names_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    speaker("alice", 3)
    clip(Path("dataset/44k/alice/short.wav"), 0.29)
    clip(Path("dataset/44k/alice/long enough.wav"), 0.3)
    assert run() == 0
    error = capsys.readouterr().err
    assert "skipped: ./dataset/44k/alice/short.wav: 0.29 s long" in error
    assert "./dataset/44k/alice/long enough.wav: characters other than" in error
    assert "./dataset/44k/alice/long enough.wav" in lines("train") + lines("val")
    assert "./dataset/44k/alice/short.wav" not in lines("train") + lines("val")


def test_uppercase_suffixes_count() -> None:
    for index in range(3):
        clip(Path(f"dataset/44k/alice/{index}.WAV"))
    assert run() == 0 and len(lines("train") + lines("val")) == 3


def test_unreadable_clips_are_listed_and_the_lists_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    speaker("alice", 3)
    Path("dataset/44k/alice/lyrics.wav").write_text("la la")
    cut = clip(Path("dataset/44k/alice/cut.wav"))
    cut.write_bytes(cut.read_bytes()[:5000])
    clip(Path("dataset/44k/alice/a|b.wav"))
    assert run() == 1
    assert len(lines("train") + lines("val")) == 3
    error = capsys.readouterr().err
    assert all(f"failed: ./dataset/44k/alice/{name}.wav" in error for name in ("lyrics", "cut", "a|b"))


def test_a_speaker_without_usable_clips_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    speaker("alice", 3)
    clip(Path("dataset/44k/aaron/short.wav"), 0.1)
    Path("dataset/44k/adam").mkdir()
    assert run() == 0
    assert config()["spk"] == {"alice": 0}
    error = capsys.readouterr().err
    assert "aaron has no usable clip" in error and "adam has no usable clip" in error


def test_a_single_clip_trains_and_validates(capsys: pytest.CaptureFixture[str]) -> None:
    """An empty validation list would stop training."""
    speaker("alice", 1)
    assert run() == 0
    assert lines("train") == lines("val") != []
    assert "no clip can be spared" in capsys.readouterr().err


def test_an_empty_or_missing_dataset_cannot_start(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 2
    assert "no such folder" in capsys.readouterr().err
    Path("dataset/44k/alice").mkdir(parents=True)
    assert run() == 2
    assert "no clips to train on" in capsys.readouterr().err
    assert not Path("configs").exists() and not Path("filelists").exists()


def test_other_paths_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    speaker("alice", 4)
    Path("dataset").rename("elsewhere")
    flags = ["--source_dir", "elsewhere/44k/", "--train_list", "my/t.txt", "--val_list", "my/v.txt"]
    assert run(*flags, "--config", "my/c.json", "--diffusion_config", "my/d.yaml") == 0
    assert set(Path("my/t.txt").read_text().split()) < {f"elsewhere/44k/alice/{index}.wav" for index in range(4)}
    assert load_config("my/c.json").data.training_files == "my/t.txt"
    assert load_diffusion_config("my/d.yaml").data.validation_files == "my/v.txt"
    assert not Path("configs").exists()


@pytest.mark.parametrize("name", list(ENCODERS))
def test_sizes_follow_the_encoder(name: str) -> None:
    speaker("alice", 3)
    assert run("--speech_encoder", name) == 0
    width = ENCODERS[name].width
    got = config()
    assert got["model"]["ssl_dim"] == got["model"]["gin_channels"] == width
    assert got["model"]["filter_channels"] == {1024: 1024, 1280: 1280}.get(width, 768)
    assert got["model"]["speech_encoder"] == diffusion()["data"]["encoder"] == name
    assert diffusion()["data"]["encoder_out_channels"] == width


def test_everything_else_is_as_in_the_templates() -> None:
    speaker("alice", 3)
    assert run() == 0
    got = config()
    want = json.loads(json.dumps(TEMPLATE))
    want["data"].update(training_files="./filelists/train.txt", validation_files="./filelists/val.txt")
    want["model"]["n_speakers"] = 1
    want["spk"] = {"alice": 0}
    for section in want:
        assert want[section].items() <= got[section].items(), section
    assert got["train"]["vol_aug"] is False and got["model"]["vol_embedding"] is False
    template = yaml.safe_load((script.TEMPLATES / "diffusion_template.yaml").read_text(encoding="utf-8"))
    assert template["train"].items() <= diffusion()["train"].items()


def test_vol_aug_switches_augmentation_and_embedding_on() -> None:
    speaker("alice", 3)
    assert run("--vol_aug") == 0
    assert config()["train"]["vol_aug"] is True and config()["model"]["vol_embedding"] is True


def test_tiny_takes_the_tiny_template() -> None:
    speaker("alice", 3)
    assert run("--tiny", "--speech_encoder", "whisper-ppg") == 0
    model = config()["model"]
    assert (model["filter_channels"], model["ssl_dim"], model["gin_channels"]) == (512, 1024, 1024)
    assert model["upsample_initial_channel"] == 400
    assert model["use_depthwise_conv"] is True and model["flow_share_parameter"] is True


def test_micro_keeps_its_sizes_but_for_the_encoders() -> None:
    speaker("alice", 3)
    assert run("--micro", "--speech_encoder", "whisper-ppg-base") == 0
    template = json.loads((script.TEMPLATES / "config_micro_template.json").read_text(encoding="utf-8"))["model"]
    changed = {"ssl_dim": 512, "speech_encoder": "whisper-ppg-base", "n_speakers": 1}
    assert {**template, **changed}.items() <= config()["model"].items()


@pytest.mark.parametrize("flags", [("--tiny", "--micro"), ("--speech_encoder", "vec999")])
def test_wrong_flags_are_refused(flags: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*flags)
    assert caught.value.code == 2


def test_the_ids_of_an_existing_config_stay(capsys: pytest.CaptureFixture[str]) -> None:
    """(A9) A trained model knows its voices by id; a re-run must not swap them."""
    speaker("alice", 3)
    speaker("bob", 3)
    assert run() == 0
    stored = config()
    stored["spk"] = {"bob": 0, "alice": 1}
    Path("configs/config.json").write_text(json.dumps(stored))
    assert run() == 0
    assert config()["spk"] == diffusion()["spk"] == {"bob": 0, "alice": 1}
    assert "THE SPEAKERS" not in capsys.readouterr().err

    speaker("aaron", 3)
    assert run() == 0
    assert config()["spk"] == {"bob": 0, "alice": 1, "aaron": 2}
    assert "THE SPEAKERS ARE NOT THOSE OF THE EXISTING CONFIG (new: aaron)" in capsys.readouterr().err


def test_ids_of_speakers_who_left_stay_free() -> None:
    ids, warnings = speaker_ids(["alice", "carol", "dave"], {"alice": 2, "bob": 0, "carol": 1})
    assert ids == {"carol": 1, "alice": 2, "dave": 3}
    assert "new: dave; no longer there: bob" in warnings[0]


def test_ids_start_anew_with_other_speakers_altogether(capsys: pytest.CaptureFixture[str]) -> None:
    speaker("alice", 3)
    Path("configs").mkdir()
    Path("configs/config.json").write_text('{"spk": {"demo": 0}}')
    assert run() == 0
    assert config()["spk"] == {"alice": 0}
    assert "no longer there: demo" in capsys.readouterr().err


def test_a_broken_config_is_replaced_with_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    speaker("alice", 3)
    Path("configs").mkdir()
    Path("configs/config.json").write_text("{ half")
    assert run() == 0
    assert config()["spk"] == {"alice": 0} and "not valid JSON" in capsys.readouterr().err
    assert Path("configs/config.json.bak").read_text() == "{ half"


def change(path: str, **sections: dict[str, Any]) -> None:
    values = json.loads(Path(path).read_text(encoding="utf-8"))
    for name, section in sections.items():
        values[name].update(section)
    Path(path).write_text(json.dumps(values), encoding="utf-8")


def test_what_was_set_by_hand_stays_and_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    speaker("alice")
    assert run("--micro", "--speech_encoder", "whisper-ppg-base") == 0
    change("configs/config.json", train={"batch_size": 2, "learning_rate": 1e-5, "mine": [1]}, data={"mel_fmin": 40.0})
    values = diffusion()
    values["train"]["batch_size"] = 7
    Path("configs/diffusion.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    capsys.readouterr()
    assert run("--micro", "--speech_encoder", "whisper-ppg-base", "--vol_aug") == 0
    train = config()["train"]
    assert (train["batch_size"], train["learning_rate"], train["mine"], train["vol_aug"]) == (2, 1e-5, [1], True)
    assert config()["data"]["mel_fmin"] == 40.0 and diffusion()["train"]["batch_size"] == 7
    out, err = capsys.readouterr()
    assert "train.batch_size = 2" in out and "diffusion train.batch_size = 7" in out and "epochs" not in out
    assert "volume embedding: False before, True now" in err


def test_another_size_takes_its_own_values_but_for_those_set_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    speaker("alice")
    assert run("--micro", "--speech_encoder", "whisper-ppg-base") == 0
    change("configs/config.json", train={"keep_ckpts": 9})
    assert run() == 0
    assert config()["train"]["batch_size"] == TEMPLATE["train"]["batch_size"] and config()["train"]["keep_ckpts"] == 9
    err = capsys.readouterr().err
    assert "size: --micro before, full size now" in err and "speech encoder: whisper-ppg-base before, vec768l12" in err


def test_a_model_keeps_its_room_for_speakers() -> None:
    """Models of 4.0 have 200 rows; without them their weights do not fit."""
    speaker("alice")
    speaker("bob")
    assert run() == 0
    change("configs/config.json", model={"n_speakers": 200})
    (Path("dataset/44k") / "bob").rename("elsewhere")
    assert run() == 0
    assert config()["spk"] == {"alice": 0} and config()["model"]["n_speakers"] == 200
    assert diffusion()["model"]["n_spk"] == 2


def test_a_byte_order_mark_does_not_cost_the_ids() -> None:
    speaker("alice")
    speaker("bob")
    Path("configs").mkdir()
    text = json.dumps({**TEMPLATE, "spk": {"bob": 0, "alice": 1}})
    Path("configs/config.json").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert run() == 0
    assert config()["spk"] == {"bob": 0, "alice": 1}


@pytest.mark.parametrize("name", ["a\u2028b", "a\x85b", "a\x0cb", "a\rb"])
def test_names_that_would_split_a_line_are_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    speaker("alice")
    clip(Path(f"dataset/44k/alice/{name}.wav"))
    assert run() == 1
    assert "a line break in the name" in capsys.readouterr().err
    assert len(lines("train")) + len(lines("val")) == 5


def test_names_that_are_not_utf_8_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    speaker("alice")
    Path("dataset/44k/alice/0.wav").rename(os.fsdecode(b"dataset/44k/alice/\x83\x6f.wav"))
    assert run() == 1
    assert "the name is not UTF-8" in capsys.readouterr().err and len(lines("train")) + len(lines("val")) == 4


def test_a_clip_at_another_rate_is_not_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """Step 3 refuses it, and step 4 then lacks its features."""
    speaker("alice")
    soundfile.write("dataset/44k/alice/fast.wav", np.zeros(48000, np.int16), 48000)
    assert run() == 1
    assert "fast.wav: the wav has 48000 Hz and must have 44100" in capsys.readouterr().err
    assert not [line for line in lines("train") + lines("val") if "fast" in line]
