"""Conversion to safetensors, and the doctor."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster import kmeans
from modules import checkpoint
from modules.packing import pack, unpack
from pretrain.__main__ import main
from pretrain.convert import convert
from tests import encoder_files as files
from tests.parity import signals
from vencoder.dphubert import DphubertEncoder
from vencoder.hubert import HubertEncoder
from vencoder.hubert_soft import rename
from vencoder.wavlm import WavlmEncoder
from vencoder.whisper import WhisperEncoder


def same(a: Any, b: Any) -> bool:
    """Whether two nested structures hold the same values."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def test_packing_keeps_everything_of_a_checkpoint():
    content = {
        "model": {"a.weight": torch.ones(2, 3), "n": torch.tensor(3)},
        "a/b": torch.zeros(1),
        "a": {"b": torch.ones(1)},
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1e-4, "params": [0, 1]}]},
        "speaker 高": {"centres": np.ones((2, 2), np.float32), "flag": True, "nothing": None},
    }
    tensors, structure = pack(content)
    assert same(content, unpack(tensors, structure)) and len(tensors) == 6


@pytest.mark.parametrize(
    "structure", ["", "[]", '["tensor", "gone"]', '["dict", 3]', '["call", "os.system"]', "[" * 9999]
)
def test_broken_structure_is_refused(structure):
    with pytest.raises(ValueError):
        unpack({}, structure)


ENCODER_CASES = {
    "f_contentvec": (HubertEncoder, "cfg_model"),
    "f_wavlm_normalize": (WavlmEncoder, "cfg"),
    "f_dphubert": (DphubertEncoder, "config"),
    "f_whisper_ppg": (WhisperEncoder, "dims"),
}


@pytest.mark.parametrize("name", ENCODER_CASES)
def test_converted_encoder_gives_the_same_units(name, tmp_path):
    encoder, settings = ENCODER_CASES[name]
    meta, _, manifest, _ = files.load_case(name)
    state, values = files.filled(manifest), meta["config"][settings]
    source = tmp_path / "encoder.pt"
    content = {
        "f_contentvec": {"model": state, "cfg": {"model": values}, "optimizer_history": [{}]},
        "f_wavlm_normalize": {"model": state, "cfg": values},
        "f_dphubert": {"state_dict": state, "config": values},
        "f_whisper_ppg": {"model_state_dict": state, "dims": values},
    }[name]
    torch.save(content, source)
    target = convert(source)
    assert target == tmp_path / "encoder.safetensors"
    wav = torch.from_numpy(signals.voice_like(16000, 1.0))
    assert torch.equal(encoder.from_file(target).encode(wav), encoder.from_file(source).encode(wav))
    described = json.loads(target.with_suffix(".json").read_text(encoding="utf-8"))
    assert described["source"] == "encoder.pt" and len(described["source_sha256"]) == 64
    assert "optimizer_history" not in described["content"]
    assert any("float32 [" in str(value) for value in described["content"].values())


def test_converted_hubertsoft_loads(tmp_path):
    state = files.shapes_only(files.load_manifest("hubert_soft"))
    torch.save(state, tmp_path / "hubert-soft-0d54a1f4.pt")
    loaded = checkpoint.load(convert(tmp_path / "hubert-soft-0d54a1f4.pt"))
    assert rename(loaded).keys() == rename(state).keys()


def test_converted_generator_keeps_weights_and_carries_its_config(tmp_path):
    content = {
        "model": {"enc_p.proj.weight": torch.randn(3, 2).half(), "dec.conv.weight": torch.randn(4)},
        "iteration": 12,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]},
        "learning_rate": 1e-4,
    }
    torch.save(content, tmp_path / "G_800.pth")
    (tmp_path / "config.json").write_text('{"model": {}}', encoding="utf-8")
    target = convert(tmp_path / "G_800.pth")
    loaded = checkpoint.load(target)
    assert same({key: value for key, value in content.items() if key != "optimizer"}, loaded)
    assert same(content["model"], checkpoint.model_state(loaded, target))
    assert checkpoint.safetensors_metadata(target)["config"] == '{"model": {}}'
    whole = convert(tmp_path / "G_800.pth", tmp_path / "whole.safetensors", keep_training_state=True)
    assert same(content, checkpoint.load(whole))


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("discriminator", {"model": {"discriminators.0.convs.0.bias": torch.ones(2)}, "iteration": 1}),
        (
            "diffusion",
            {"global_step": 5, "model": {"decoder.betas": torch.ones(2), "unit_embed.weight": torch.ones(2)}},
        ),
        ("vocoder", {"generator": {"conv_pre.weight_g": torch.ones(2)}}),
        ("model", {"model": {"unet.encoder.bn.weight": torch.ones(2)}, "config": {"f0_max": 1975.5}}),
    ],
)
def test_every_kind_of_checkpoint_is_recognised_and_kept(kind, content, tmp_path):
    torch.save(content, tmp_path / "file.pt")
    target = convert(tmp_path / "file.pt")
    assert checkpoint.safetensors_metadata(target)["kind"] == kind
    assert same(content, checkpoint.load(target))


def test_converted_clusters_load_in_their_own_reader(tmp_path):
    centres = kmeans.Centres({"ami": np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)})
    kmeans.save(centres, tmp_path / "kmeans_10000.pt")
    loaded = kmeans.load(convert(tmp_path / "kmeans_10000.pt"))
    np.testing.assert_array_equal(loaded.by_speaker["ami"], centres.by_speaker["ami"])


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/converted-evil",)


def test_conversion_refuses_code_rubbish_and_what_is_no_model(tmp_path, capsys):
    torch.save({"model": {"enc_p.a": torch.ones(1)}, "extra": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "rubbish.pt").write_bytes(b"rubbish")
    torch.save({"some": "thing"}, tmp_path / "other.pt")
    torch.save({"model": {"enc_p.a": torch.ones(1)}}, tmp_path / "good.pth")
    names = ["evil.pth", "rubbish.pt", "other.pt", "absent.pt", "good.pth"]
    assert main(["convert", *(str(tmp_path / name) for name in names)]) == 1
    shown = capsys.readouterr()
    assert "posix.system" in shown.err and shown.err.count("failed:") == 4
    assert not Path("/tmp/converted-evil").exists()
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == ["good.safetensors"]


def test_doctor_tells_present_missing_and_wrong_and_what_to_do(tmp_path, capsys):
    (tmp_path / "hubert-soft-0d54a1f4.pt").write_bytes(b"not it")
    (tmp_path / "rmvpe.pt").write_bytes(b"who knows")
    assert main(["doctor", "--dir", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    lines = {line.split()[0]: line for line in shown.splitlines() if line.strip()}
    assert "WRONG" in lines["hubertsoft"] and "present" in lines["rmvpe"] and "missing" in lines["fcpe"]
    assert f"torch {torch.__version__.split('+')[0]}" in lines["packages"]
    assert "cores" in lines["cpu"] and "GB" in lines["disk"] and "GB" in lines["memory"] and "ffmpeg" in lines
    assert "python -m pretrain fetch hubertsoft" in shown.partition("to do:")[2]
