"""Turns a .pth or .pt file of any kind into .safetensors and a JSON that describes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from modules import checkpoint
from modules.errors import UserError
from modules.files import write_text
from modules.packing import STRUCTURE, pack
from pretrain import foreign
from pretrain.fetch import sha256_of

CONVERTED = (".pth", ".pt", ".ckpt", "")
TRAINING_STATE = ("optimizer", "optimizer_history", "last_optimizer_state", "extra_state")


def convert(source: Path, target: Path | None = None, keep_training_state: bool = False) -> Path:
    """Write ``source`` as .safetensors, and its description beside it as .json.

    Every script reads the result where it reads the source.

    Args:
        target: the .safetensors file; beside the source by default.
        keep_training_state: keep what only going on with training needs, such as the optimizer.

    Raises:
        UserError: the source is missing, broken, of no kind that is known, or carries code.
    """
    target = target or source.with_suffix(".safetensors")
    if source.suffix not in CONVERTED or target.suffix != ".safetensors":
        raise UserError(f"cannot convert {source.suffix} to {target.suffix}", source, "give a .pth or .pt file")
    content = foreign.read(source)
    kind = kind_of(content)
    if kind is None:
        raise UserError("the file holds no model, clusters or encoder", source, "give a checkpoint of this suite")
    if not keep_training_state and isinstance(content, dict):
        content = {key: value for key, value in content.items() if key not in TRAINING_STATE}
    tensors, structure = pack(content)
    metadata = {"kind": kind, "source": source.name, "source_sha256": sha256_of(source), STRUCTURE: structure}
    config = source.with_name("config.json")
    if kind == "generator" and config.is_file():
        metadata["config"] = config.read_text(encoding="utf-8")  # so that a converted voice is one file
    checkpoint.save_safetensors(tensors, target, metadata)
    described = {**{key: metadata[key] for key in ("kind", "source", "source_sha256")}, "content": describe(content)}
    write_text(target.with_suffix(".json"), json.dumps(described, indent=1, ensure_ascii=False) + "\n")
    return target


def kind_of(content: Any) -> str | None:
    """What a file is, by what it holds; None where it is nothing of ours."""
    if not isinstance(content, dict):
        return None
    model = content.get("model")
    keys = set(model) if isinstance(model, dict) else set()
    kinds = {
        "whisper": {"dims", "model_state_dict"} <= content.keys(),
        "dphubert": {"config", "state_dict"} <= content.keys(),
        "vocoder": isinstance(content.get("generator"), dict),
        "diffusion": "global_step" in content and any(key.startswith("decoder.") for key in keys),
        "generator": any(key.startswith("enc_p.") for key in keys),
        "discriminator": any(key.startswith("discriminators.") for key in keys),
        "wavlm": any("grep_linear" in key for key in keys),
        "fairseq": any(key.startswith("feature_extractor.") for key in keys),
        "hubertsoft": any(key.removeprefix("module.").startswith("feature_projection.") for key in content),
        "model": any(isinstance(value, Tensor) for value in (model or {}).values()) if keys else False,
        "clusters": bool(content) and all(_is_clusters(value) for value in content.values()),
    }
    return next((kind for kind, fits in kinds.items() if fits), None)


def _is_clusters(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("cluster_centers_"), np.ndarray)


def describe(value: Any) -> Any:
    """``value`` for people: a tensor as its dtype and shape, everything else as it is."""
    if isinstance(value, (Tensor, np.ndarray)):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, dict):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, list):
        return [describe(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value
