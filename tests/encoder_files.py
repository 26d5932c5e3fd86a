"""Writes encoder files in their official layouts, with the pack's deterministic weights."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.parity import fill, golden
from vencoder.whisper import sinusoids

PARITY = Path(__file__).parent / "parity"
GOLDENS, MANIFESTS = PARITY / "goldens", PARITY / "manifests"


def load_case(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, Any], Tensor]:
    """Meta, arrays, manifest and waveform of a golden case of an encoder."""
    meta, arrays = golden.load(GOLDENS / f"{name}.npz")
    manifest = json.loads((GOLDENS / meta["config"]["manifest"]).read_text(encoding="utf-8"))
    return meta, arrays, manifest, torch.from_numpy(golden.inputs(meta, arrays)["wav"])


def load_manifest(name: str) -> dict[str, Any]:
    """The manifest of a full-size model."""
    return json.loads((MANIFESTS / f"{name}.json").read_text(encoding="utf-8"))


def filled(manifest: dict[str, Any]) -> dict[str, Tensor]:
    """The state dict of a manifest with the pack's values."""
    return {key: torch.from_numpy(value) for key, value in fill.fill_state_dict(manifest).items()}


def shapes_only(manifest: dict[str, Any], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Every key in its shape, each made of one stored zero, so that a file of a large model is small."""
    return {key: torch.zeros((), dtype=dtype).expand(shape) for key, shape, *_ in manifest["entries"]}


def write_fairseq(path: Path, state: dict[str, Tensor], settings: dict[str, Any], **more: Any) -> Path:
    """A fairseq checkpoint with plain settings."""
    torch.save({"model": state, "cfg": {"model": settings}, **more}, path)
    return path


def whisper_state(manifest: dict[str, Any]) -> dict[str, Tensor]:
    """A state dict as OpenAI's files hold it, positions included."""
    state = filled(manifest)
    dims = manifest["dims"]
    state["encoder.positional_embedding"] = sinusoids(dims["n_audio_ctx"], dims["n_audio_state"])
    assert state.keys() == {entry[0] for entry in manifest["entries"]}
    return state


def write_whisper(path: Path, manifest: dict[str, Any], dtype: torch.dtype = torch.float32) -> Path:
    """OpenAI's own layout."""
    state = {key: value.to(dtype) for key, value in whisper_state(manifest).items()}
    torch.save({"dims": manifest["dims"], "model_state_dict": state}, path)
    return path


def write_ctranslate2(path: Path, manifest: dict[str, Any], dtype: torch.dtype = torch.float16) -> Path:
    """The same encoder as CTranslate2's converter lays it out, with a decoder variable and aliases after it."""
    state = whisper_state(manifest)
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
    for kind, letter in (("weight", "gamma"), ("bias", "beta")):
        put(f"layer_norm/{letter}", state[f"encoder.ln_post.{kind}"])
        for layer in range(manifest["dims"]["n_audio_layer"]):
            block, ours = f"encoder.blocks.{layer}", f"layer_{layer}"
            zero = torch.zeros_like(state[f"{block}.attn.query.bias"])  # keys have no bias
            parts = [state.get(f"{block}.attn.{part}.{kind}", zero) for part in ("query", "key", "value")]
            put(f"{ours}/self_attention/linear_0/{kind}", torch.cat(parts))
            put(f"{ours}/self_attention/linear_1/{kind}", state[f"{block}.attn.out.{kind}"])
            put(f"{ours}/self_attention/layer_norm/{letter}", state[f"{block}.attn_ln.{kind}"])
            put(f"{ours}/ffn/layer_norm/{letter}", state[f"{block}.mlp_ln.{kind}"])
            put(f"{ours}/ffn/linear_0/{kind}", state[f"{block}.mlp.0.{kind}"])
            put(f"{ours}/ffn/linear_1/{kind}", state[f"{block}.mlp.2.{kind}"])
    path.write_bytes(ctranslate2_bytes(variables))
    return path


def ctranslate2_bytes(variables: dict[str, Tensor], version: int = 6, spec: str = "WhisperSpec") -> bytes:
    """The bytes of a model.bin."""
    codes = {torch.float32: 0, torch.int8: 1, torch.int16: 2, torch.float16: 4}

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    data = struct.pack("<I", version) + text(spec) + struct.pack("<II", 3, len(variables))
    for name, value in variables.items():
        raw = value.numpy().tobytes()
        data += text(name) + struct.pack("<B", value.dim()) + struct.pack(f"<{value.dim()}I", *value.shape)
        data += struct.pack("<BI", codes[value.dtype], len(raw)) + raw
    return data + struct.pack("<I", 1) + text("decoder/projection/weight") + text("decoder/embeddings/weight")


def snr(units: Tensor, reference: Tensor) -> float:
    """Signal-to-noise ratio in dB of units against a reference."""
    noise = (units - reference).double().square().sum()
    return float(10 * torch.log10(reference.double().square().sum() / noise))
