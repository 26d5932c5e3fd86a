"""The Whisper encoders: parity, both file formats, windows, precision, refusals."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.parity import fill, golden, signals
from vencoder.whisper import WhisperEncoder, log_mel, sinusoids

GOLDENS = Path(__file__).parent / "parity" / "goldens"


def official_state(manifest: dict[str, Any]) -> dict[str, Tensor]:
    """A state dict as OpenAI's files hold it, positions included."""
    state = {key: torch.from_numpy(value) for key, value in fill.fill_state_dict(manifest).items()}
    dims = manifest["dims"]
    state["encoder.positional_embedding"] = sinusoids(dims["n_audio_ctx"], dims["n_audio_state"])
    assert state.keys() == {entry[0] for entry in manifest["entries"]}
    return state


def write_official(path: Path, manifest: dict[str, Any], dtype: torch.dtype = torch.float32) -> Path:
    state = {key: value.to(dtype) for key, value in official_state(manifest).items()}
    torch.save({"dims": manifest["dims"], "model_state_dict": state}, path)
    return path


def write_ctranslate2(path: Path, manifest: dict[str, Any], dtype: torch.dtype = torch.float16) -> Path:
    """The same encoder as CTranslate2's converter lays it out, with a decoder variable and aliases after it."""
    state = official_state(manifest)
    variables: dict[str, Tensor] = {
        "decoder/embeddings/weight": torch.zeros(5, 4, dtype=dtype),
        "encoder/num_heads": torch.tensor(manifest["dims"]["n_audio_head"], dtype=torch.int16),
    }

    def put(name: str, value: Tensor) -> None:
        variables[f"encoder/{name}"] = value.to(dtype)

    put("position_encodings/encodings", state["encoder.positional_embedding"])
    for kind in ("weight", "bias"):
        for conv in ("conv1", "conv2"):
            put(f"{conv}/{kind}", state[f"encoder.{conv}.{kind}"])
    greek = {"weight": "gamma", "bias": "beta"}
    for kind, letter in greek.items():
        put(f"layer_norm/{letter}", state[f"encoder.ln_post.{kind}"])
        for layer in range(manifest["dims"]["n_audio_layer"]):
            block, ours = f"encoder.blocks.{layer}", f"layer_{layer}"
            zero = torch.zeros_like(state[f"{block}.attn.query.bias"])
            parts = [state.get(f"{block}.attn.{part}.{kind}", zero) for part in ("query", "key", "value")]
            put(f"{ours}/self_attention/linear_0/{kind}", torch.cat(parts))
            put(f"{ours}/self_attention/linear_1/{kind}", state[f"{block}.attn.out.{kind}"])
            put(f"{ours}/self_attention/layer_norm/{letter}", state[f"{block}.attn_ln.{kind}"])
            put(f"{ours}/ffn/layer_norm/{letter}", state[f"{block}.mlp_ln.{kind}"])
            put(f"{ours}/ffn/linear_0/{kind}", state[f"{block}.mlp.0.{kind}"])
            put(f"{ours}/ffn/linear_1/{kind}", state[f"{block}.mlp.2.{kind}"])
    codes = {torch.float32: 0, torch.int8: 1, torch.int16: 2, torch.float16: 4}

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    data = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(variables))
    for name, value in variables.items():
        raw = value.numpy().tobytes()
        data += text(name) + struct.pack("<B", value.dim()) + struct.pack(f"<{value.dim()}I", *value.shape)
        data += struct.pack("<BI", codes[value.dtype], len(raw)) + raw
    data += struct.pack("<I", 1) + text("decoder/projection/weight") + text("decoder/embeddings/weight")
    path.write_bytes(data)
    return path


@pytest.fixture(scope="module")
def case() -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, Any]]:
    meta, arrays = golden.load(GOLDENS / "f_whisper_ppg.npz")
    manifest = json.loads((GOLDENS / meta["config"]["manifest"]).read_text(encoding="utf-8"))
    return meta, arrays, manifest


@pytest.fixture(scope="module")
def official(case, tmp_path_factory) -> Path:
    return write_official(tmp_path_factory.mktemp("whisper") / "tiny.pt", case[2])


def test_units_and_log_mel_match_the_original(case, official):
    meta, arrays, _ = case
    wav = torch.from_numpy(golden.inputs(meta, arrays)["wav"])
    encoder = WhisperEncoder.from_file(official, precision="fp32", padded=True)
    golden.compare(meta, arrays, "units", encoder.encode(wav).numpy())
    mel = log_mel(wav, 80, 3000)
    assert list(mel.shape) == meta["log_mel_shape"]
    golden.compare(meta, arrays, "log_mel_first400", mel[:, :400].numpy())
    golden.compare(meta, arrays, "positional_embedding_every100", sinusoids(1500, 48)[::100].numpy())


def test_frame_counts_match_the_original(case, official):
    encoder = WhisperEncoder.from_file(official, precision="fp32")
    for samples, frames in case[0]["frames"].items():
        assert encoder.encode(torch.zeros(int(samples))).shape == (1, 48, frames)


def test_ctranslate2_file_gives_the_units_of_the_official_file(case, official, tmp_path):
    wav = torch.from_numpy(signals.voice_like(16000, 2.0))
    expected = WhisperEncoder.from_file(official, precision="fp32").encode(wav)
    exact = write_ctranslate2(tmp_path / "f32.bin", case[2], torch.float32)
    torch.testing.assert_close(WhisperEncoder.from_file(exact, precision="fp32").encode(wav), expected)
    half = write_ctranslate2(tmp_path / "f16.bin", case[2])
    units = WhisperEncoder.from_file(half, precision="fp32").encode(wav)
    assert snr(units, expected) > 40


def snr(units: Tensor, reference: Tensor) -> float:
    noise = (units - reference).double().square().sum()
    return float(10 * torch.log10(reference.double().square().sum() / noise))
