"""Transcripts by Whisper: openai-whisper's model and tokenizer, filled with the weights that pretrain/ has.

Needs no network: the tokenizer comes with the package, the weights are OpenAI's base.pt or the CTranslate2 file that
the speech encoder whisper-ppg-base uses as well.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from modules import checkpoint
from modules.errors import UserError
from pretrain import require
from vencoder.ctranslate2 import read_model

if TYPE_CHECKING:
    from whisper import Whisper

WEIGHT = "whisper-base"


@dataclass(frozen=True)
class Transcript:
    """What Whisper understood, and in which language."""

    text: str
    language: str


class Transcriber:
    """Writes down what is said or sung; the same audio always gives the same text.

    Raises:
        ImportError: openai-whisper is not installed.
        UserError: the weights are missing or of something else.
    """

    def __init__(self, device: str = "cpu", pretrain_dir: Path = Path("pretrain")) -> None:
        import whisper  # noqa: F401  (says at once where it is missing)

        self.device = device
        self.model = load_whisper(require(WEIGHT, pretrain_dir)).to(device)

    def transcribe(self, audio: np.ndarray, language: str | None = None) -> Transcript:
        """The text of audio [T] at 16 kHz, in ``language`` or in the one that Whisper detects."""
        if not np.any(audio):
            return Transcript("", language or "")
        found = self.model.transcribe(
            np.asarray(audio, dtype=np.float32),
            language=language,
            temperature=0.0,  # the likeliest word each time: nothing is drawn
            condition_on_previous_text=False,  # a window that is misheard does not spoil the next
            fp16=False,
            verbose=None,
        )
        return Transcript(str(found["text"]).strip(), str(found["language"]))


def load_whisper(path: Path) -> Whisper:
    """The whole model in an OpenAI .pt or a CTranslate2 .bin, in float32. Raises UserError for anything else."""
    from whisper.model import ModelDimensions, Whisper

    dims, state = _from_ctranslate2(path) if path.suffix == ".bin" else _from_openai(path)
    model = Whisper(ModelDimensions(**dims))
    checkpoint.load_into(model, {key: value.float() for key, value in state.items()}, path)
    return model.eval().requires_grad_(False)


def _from_openai(path: Path) -> tuple[dict[str, int], dict[str, Tensor]]:
    content = checkpoint.load(path)
    if not isinstance(content, dict) or not {"dims", "model_state_dict"} <= content.keys():
        raise UserError("the file is not a Whisper checkpoint: it has no dims", path, "use OpenAI's own file")
    return dict(content["dims"]), content["model_state_dict"]


def _from_ctranslate2(path: Path) -> tuple[dict[str, int], dict[str, Tensor]]:
    spec, variables = read_model(path)
    if spec != "WhisperSpec" or any(value.dtype == torch.int8 and value.dim() > 1 for value in variables.values()):
        raise UserError(f"the file holds no Whisper with float weights ({spec})", path, "use a float16 model.bin")
    state: dict[str, Tensor] = {}
    for name, value in variables.items():
        if value.dtype in (torch.float16, torch.float32):
            state.update(_rename(name, value))
    width, n_mels = variables["encoder/conv1/weight"].shape[:2]
    vocabulary = variables["decoder/embeddings/weight"].shape[0]
    sizes: dict[str, Any] = {
        "n_mels": n_mels,
        "n_audio_ctx": len(variables["encoder/position_encodings/encodings"]),
        "n_audio_state": width,
        "n_audio_head": int(variables["encoder/num_heads"]),
        "n_audio_layer": _layers(variables, "encoder"),
        "n_vocab": vocabulary,
        "n_text_ctx": len(variables["decoder/position_encodings/encodings"]),
        "n_text_state": width,
        "n_text_head": int(variables["decoder/num_heads"]),
        "n_text_layer": _layers(variables, "decoder"),
    }
    return sizes, state


def _layers(variables: dict[str, Tensor], side: str) -> int:
    found = {match[1] for name in variables if (match := re.match(rf"{side}/layer_(\d+)/", name))}
    return len(found)


def _rename(name: str, value: Tensor) -> dict[str, Tensor]:
    """A variable of CTranslate2 under OpenAI's name; fused projections become two or three.

    OpenAI's keys have no bias; the zeros that CTranslate2 keeps for them are left out.
    """
    for theirs, ours in _NAMES:
        name = re.sub(theirs, ours, name)
    name = name.replace("/", ".")
    match = re.fullmatch(r"(.+\.)(qkv|kv)\.(weight|bias)", name)
    if match is None:
        return {name: value}
    parts = ("query", "key", "value")[-len(match[2]) :]
    chunks = zip(parts, value.chunk(len(parts)), strict=True)
    return {f"{match[1]}{part}.{match[3]}": chunk for part, chunk in chunks if (part, match[3]) != ("key", "bias")}


_NAMES = (
    (r"position_encodings/encodings", "positional_embedding"),
    (r"embeddings/weight", "token_embedding/weight"),
    (r"layer_norm/gamma", "layer_norm/weight"),
    (r"layer_norm/beta", "layer_norm/bias"),
    (r"self_attention/layer_norm", "attn_ln"),
    (r"self_attention/linear_0", "attn/qkv"),
    (r"self_attention/linear_1", "attn/out"),
    (r"/attention/layer_norm", "/cross_attn_ln"),
    (r"/attention/linear_0", "/cross_attn/query"),
    (r"/attention/linear_1", "/cross_attn/kv"),
    (r"/attention/linear_2", "/cross_attn/out"),
    (r"ffn/layer_norm", "mlp_ln"),
    (r"ffn/linear_0", "mlp/0"),
    (r"ffn/linear_1", "mlp/2"),
    (r"encoder/layer_norm", "encoder/ln_post"),
    (r"decoder/layer_norm", "decoder/ln"),
    (r"layer_(\d+)", r"blocks/\1"),
)
