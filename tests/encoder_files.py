"""Writes encoder files in their official layouts, with the pack's deterministic weights."""

from __future__ import annotations

import json
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.parity import fill, golden
from vencoder import ENCODERS
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
    """Every key in its shape, all zero."""
    return {key: torch.zeros(shape, dtype=dtype) for key, shape, *_ in manifest["entries"]}


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


HUBERT_SETTINGS = {
    "conv_feature_layers": "[(32,10,5)] + [(32,3,2)] * 4 + [(32,2,2)] * 2",
    "layer_norm_first": False,
    "normalize": False,
    "max_distance": 800,
}


def write_small(name: str, folder: Path) -> Path:
    """A file of the encoder ``name`` in its official layout and width, as small as the width allows, seeded."""
    spec = ENCODERS[name]
    path = folder / spec.file
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(5)
    if name.startswith("whisper-"):
        dims = {"n_mels": 80, "n_audio_ctx": 1500, "n_audio_state": spec.width, "n_audio_head": spec.width // 64}
        dims = {**dims, "n_audio_layer": 1}
        torch.save({"dims": dims, "model_state_dict": seeded(whisper_shapes(spec.width))}, path)
    elif name.endswith("-onnx"):
        write_small_onnx(path, spec.width, 40 if spec.options.get("pads") else 0)
    elif name == "hubertsoft":
        torch.save(seeded({key: shape for key, shape, *_ in load_manifest("hubert_soft")["entries"]}), path)
    elif name == "dphubert":
        manifest = load_manifest("dphubert_example")
        shapes = {key: shape for key, shape, *_ in manifest["entries"]}
        torch.save({"config": manifest["config"], "state_dict": seeded(shapes)}, path)
    else:
        width = 1024 if name == "cnhubertlarge" else 768
        layers = 12 if spec.options.get("layer") else 2
        settings = {**HUBERT_SETTINGS, "encoder_attention_heads": width // 64}
        write_fairseq(path, seeded(hubert_shapes(width, layers, name == "wavlmbase+")), settings)
    return path


def seeded(shapes: dict[str, Any]) -> dict[str, Tensor]:
    """Half-precision weights from torch's generator: norms near 1, small biases, products that keep the scale."""
    state = {}
    for key, shape in shapes.items():
        noise = torch.randn(tuple(shape))
        if len(shape) == 1:
            noise = 1 + 0.02 * noise if key.endswith("weight") else 0.01 * noise
        elif key.endswith("weight_g"):  # norms of weight_v, so that the weights themselves have unit gain
            noise = noise.abs() + 0.5
        else:
            noise = noise / int(np.prod(shape[1:])) ** 0.5
        state[key] = noise.half()
    return state


def whisper_shapes(width: int, layers: int = 1) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of a Whisper encoder."""
    pairs = {"encoder.conv1": (width, 80, 3), "encoder.conv2": (width, width, 3), "encoder.ln_post": (width,)}
    for layer in range(layers):
        block = f"encoder.blocks.{layer}"
        pairs |= {f"{block}.attn.{name}": (width, width) for name in ("query", "key", "value", "out")}
        pairs |= {f"{block}.attn_ln": (width,), f"{block}.mlp_ln": (width,)}
        pairs |= {f"{block}.mlp.0": (4 * width, width), f"{block}.mlp.2": (width, 4 * width)}
    shapes: dict[str, tuple[int, ...]] = {"encoder.positional_embedding": (1500, width)}
    for name, shape in pairs.items():
        shapes[f"{name}.weight"] = shape
        if not name.endswith(".key"):
            shapes[f"{name}.bias"] = shape[:1]
    return shapes


def hubert_shapes(width: int, layers: int, wavlm: bool) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of a fairseq HuBERT, or of a WavLM, with narrow convolutions and feed-forward parts."""
    shapes: dict[str, tuple[int, ...]] = {"feature_extractor.conv_layers.0.0.weight": (32, 1, 10)}
    for index, kernel in enumerate((3, 3, 3, 3, 2, 2), 1):
        shapes[f"feature_extractor.conv_layers.{index}.0.weight"] = (32, 32, kernel)
    pairs = {"feature_extractor.conv_layers.0.2": (32,), "layer_norm": (32,), "post_extract_proj": (width, 32)}
    pairs |= {"encoder.layer_norm": (width,), "final_proj": (256, width)}
    shapes |= {"encoder.pos_conv.0.weight_g": (1, 1, 16), "encoder.pos_conv.0.weight_v": (width, width // 16, 16)}
    shapes["encoder.pos_conv.0.bias"] = (width,)
    for layer in range(layers):
        at = f"encoder.layers.{layer}"
        pairs |= {f"{at}.self_attn.{part}_proj": (width, width) for part in ("q", "k", "v", "out")}
        pairs |= {f"{at}.{norm}_layer_norm": (width,) for norm in ("self_attn", "final")}
        pairs |= {f"{at}.fc1": (64, width), f"{at}.fc2": (width, 64)}
        if wavlm:
            shapes[f"{at}.self_attn.grep_a"] = (1, width // 64, 1, 1)
            pairs[f"{at}.self_attn.grep_linear"] = (8, 64)
    if wavlm:
        shapes["encoder.layers.0.self_attn.relative_attention_bias.weight"] = (320, width // 64)
    for name, shape in pairs.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


def write_small_onnx(path: Path, width: int, pad: int) -> None:
    """A graph of one convolution with the frame rule of the ONNX encoders."""
    from onnx import TensorProto, helper, numpy_helper, save

    weight = numpy_helper.from_array((torch.randn(width, 1, 400) / 20).numpy(), "weight")
    nodes = [
        helper.make_node("Conv", ["source", "weight"], ["features"], strides=[320], pads=[pad, pad]),
        helper.make_node("Transpose", ["features"], ["embed"], perm=[0, 2, 1]),
    ]
    inputs = [helper.make_tensor_value_info("source", TensorProto.FLOAT, [1, 1, "samples"])]
    outputs = [helper.make_tensor_value_info("embed", TensorProto.FLOAT, [1, "frames", width])]
    graph = helper.make_graph(nodes, "encoder", inputs, outputs, [weight])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))


class OnnxGraph(nn.Module):
    """What the ONNX encoders compute: [1, 1, samples] to [1, frames, width]."""

    def __init__(self, model: nn.Module, pad: int, projection: nn.Linear | None) -> None:
        super().__init__()
        self.model, self.pad, self.projection = model, pad, projection

    def forward(self, source: Tensor) -> Tensor:
        units = self.model(nn.functional.pad(source[:, 0], (self.pad, self.pad)))[0]
        return units if self.projection is None else self.projection(units)


def export_onnx(graph: nn.Module, path: Path) -> Path:
    """Write the graph with a dynamic number of samples."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph,
            (torch.zeros(1, 1, 16000),),
            str(path),
            dynamo=False,
            input_names=["source"],
            output_names=["embed"],
            dynamic_axes={"source": {2: "samples"}, "embed": {1: "frames"}},
            opset_version=17,
        )
    return path
