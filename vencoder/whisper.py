"""The encoder of Whisper (openai/whisper, MIT) as a source of phonetic posteriorgrams.

Its sizes come from the file, so every size from tiny to large-v3 loads, from OpenAI's .pt as well as from a
CTranslate2 model.bin.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules import checkpoint
from modules.audio.resample import SPEECH_RATE
from modules.errors import UserError
from vencoder.ctranslate2 import read_model
from vencoder.encoder import HOP_LENGTH, Precision, SpeechEncoder, Window, plan_windows
from vencoder.layers import Attention, Block, Norm, count_layers
from vencoder.layers import load_model as load_weights

N_FFT, MEL_HOP = 400, 160  # 25 ms windows every 10 ms
MEL_PER_FRAME = HOP_LENGTH // MEL_HOP
POSITIONS = 1500  # frames of the 30 s that Whisper was trained on
SILENCE = 25  # frames after a clip that is not padded to 30 s


class WhisperEncoder(SpeechEncoder):
    """Units of Whisper's encoder.

    Padded, a short clip is followed by silence up to 30 s, as so-vits-svc 4.1 does it and as models trained on its
    units expect. Otherwise half a second of silence follows and the positions are cut to the clip, which costs a
    clip of 5 s a sixth of the time; the units differ, see docs/encoders.md, and models have to be trained on them.

    Args:
        padded: whether every pass sees 30 s.
    """

    def __init__(
        self, model: WhisperModel, device: str = "cpu", precision: Precision = "auto", padded: bool = False
    ) -> None:
        super().__init__(device, precision)
        self.model = self.ready(model)
        self.width = model.conv1.out_channels
        self.n_mels = model.conv1.in_channels
        self.padded = padded
        self.silence = POSITIONS if padded else SILENCE

    @classmethod
    def _from_file(
        cls, path: Path, device: str = "cpu", precision: Precision = "auto", padded: bool = False
    ) -> WhisperEncoder:
        """Load an OpenAI .pt, a .safetensors of it or a CTranslate2 .bin."""
        return cls(load_model(path), device, precision, padded)

    def plan(self, frames: int) -> list[tuple[int, int]]:
        if self.padded:  # a pass takes as long whatever it holds
            return plan_windows(frames, POSITIONS, self.overlap, shortest=POSITIONS)
        return plan_windows(frames, POSITIONS - SILENCE, self.overlap)

    def prepare(self, audio: Tensor) -> Tensor:
        return log_mel(audio, self.n_mels, (self.frames(audio.shape[0]) + self.silence) * MEL_PER_FRAME)

    def encode_windows(self, windows: Sequence[Window]) -> Tensor:
        frames = windows[0].stop - windows[0].start
        seen = min(frames + self.silence, POSITIONS)
        mels = [mel[:, start * MEL_PER_FRAME : (start + seen) * MEL_PER_FRAME] for mel, start, _ in windows]
        return self.model(torch.stack(mels))[:, :frames]


def load_model(path: Path) -> WhisperModel:
    """The encoder in an OpenAI .pt (or .safetensors of it) or in a CTranslate2 .bin.

    Raises:
        UserError: the file holds no Whisper encoder.
    """
    state, heads = _from_ctranslate2(path) if path.suffix == ".bin" else _from_openai(path)
    if not heads or not {"conv1.weight", "blocks.0.attention.qkv.weight"} <= state.keys():
        raise UserError("the file holds no Whisper encoder", path, "use the official file")
    width, n_mels = state["conv1.weight"].shape[:2]
    layers = count_layers(state, "blocks.")
    state.setdefault("positions", sinusoids(POSITIONS, width))
    return load_weights(state, path, WhisperModel, Dims(n_mels, len(state["positions"]), width, heads, layers))


class WhisperModel(nn.Module):
    """Two convolutions, sinusoidal positions, pre-norm transformer blocks, a last norm."""

    positions: Tensor

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        width = dims.n_audio_state
        self.conv1 = nn.Conv1d(dims.n_mels, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(
            Block(width, Attention(width, dims.n_audio_head), 4 * width, pre_norm=True)
            for _ in range(dims.n_audio_layer)
        )
        self.norm = Norm(width)
        self.register_buffer("positions", sinusoids(dims.n_audio_ctx, width))

    def forward(self, mel: Tensor) -> Tensor:
        """mel [B, n_mels, 2 * frames] to units [B, frames, width]."""
        x = F.gelu(self.conv1(mel.to(self.conv1.weight.dtype)))
        x = F.gelu(self.conv2(x)).transpose(1, 2).float()
        x = x + self.positions[: x.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


@dataclass(frozen=True)
class Dims:
    """Sizes of the audio encoder, by the names in OpenAI's files."""

    n_mels: int
    n_audio_ctx: int
    n_audio_state: int
    n_audio_head: int
    n_audio_layer: int


def log_mel(audio: Tensor, n_mels: int, frames: int) -> Tensor:
    """Whisper's log-mel of ``audio`` [T] followed by silence: [n_mels, frames], frames of 10 ms.

    The floor lies 8 (80 dB) below the loudest value, and the range is scaled to about -1..1.
    """
    audio = F.pad(audio, (0, max(0, frames * MEL_HOP + N_FFT - audio.shape[0])))
    window = torch.hann_window(N_FFT, device=audio.device)
    spectrum = torch.stft(audio, N_FFT, MEL_HOP, window=window, return_complex=True)[:, :frames]
    power = spectrum.real.square() + spectrum.imag.square()
    mel = (mel_filters(n_mels).to(audio.device) @ power).clamp(min=1e-10).log10()
    return (mel.maximum(mel.max() - 8.0) + 4.0) / 4.0


@lru_cache(maxsize=4)
def mel_filters(n_mels: int) -> Tensor:
    """Slaney mel filters [n_mels, N_FFT / 2 + 1] from 0 to 8000 Hz."""
    from librosa.filters import mel

    return torch.from_numpy(mel(sr=SPEECH_RATE, n_fft=N_FFT, n_mels=n_mels).astype(np.float32))


def sinusoids(length: int, channels: int, longest: float = 10000.0) -> Tensor:
    """Positions [length, channels]: sines in the first half of the channels, cosines in the second."""
    step = math.log(longest) / (channels // 2 - 1)
    rates = torch.exp(-step * torch.arange(channels // 2))
    angles = torch.arange(length)[:, None] * rates[None]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _from_openai(path: Path) -> tuple[dict[str, Tensor], int]:
    content = checkpoint.load(path)
    if not isinstance(content, dict) or not {"dims", "model_state_dict"} <= content.keys():
        raise UserError("the file is not a Whisper checkpoint: it has no dims", path, "use OpenAI's own file")
    return rename_openai(content["model_state_dict"]), int(content["dims"]["n_audio_head"])


def rename_openai(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenAI's encoder keys to ours; the keys of attention have no bias there, which is a bias of zero."""
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if not key.startswith("encoder."):
            continue
        key = key.removeprefix("encoder.")
        for theirs, ours in _OPENAI_NAMES:
            key = key.replace(theirs, ours)
        renamed[key] = value
    for prefix in {key.rsplit(".query.", 1)[0] for key in renamed if ".query." in key}:
        parts = [renamed.pop(f"{prefix}.{name}.weight") for name in ("query", "key", "value")]
        q_bias, v_bias = renamed.pop(f"{prefix}.query.bias"), renamed.pop(f"{prefix}.value.bias")
        renamed[f"{prefix}.qkv.weight"] = torch.cat(parts)
        renamed[f"{prefix}.qkv.bias"] = torch.cat([q_bias, torch.zeros_like(q_bias), v_bias])
    return renamed


_OPENAI_NAMES = (
    ("positional_embedding", "positions"),
    ("ln_post", "norm"),
    ("attn_ln", "attention_norm"),
    (".attn.", ".attention."),
    ("mlp_ln", "feed_forward_norm"),
    ("mlp.0", "feed_forward.up"),
    ("mlp.2", "feed_forward.down"),
)


def _from_ctranslate2(path: Path) -> tuple[dict[str, Tensor], int]:
    spec, variables = read_model(path, lambda name: name.startswith("encoder/"))
    if spec != "WhisperSpec":
        raise UserError(f"the file holds a {spec}, not Whisper", path, "use a Whisper model.bin")
    quantised = sorted(name for name, value in variables.items() if value.dtype == torch.int8)
    if quantised:
        raise UserError(f"the weights are quantised to 8 bits ({quantised[0]})", path, "use a float16 model.bin")
    heads = int(variables.pop("encoder/num_heads", 0))  # 0: no encoder, which load_model says
    return {_rename_ctranslate2(name): value for name, value in variables.items()}, heads


def _rename_ctranslate2(name: str) -> str:
    name = name.removeprefix("encoder/").replace("layer_norm/gamma", "layer_norm/weight")
    name = name.replace("layer_norm/beta", "layer_norm/bias")
    for theirs, ours in _CTRANSLATE2_NAMES:
        name = name.replace(theirs, ours)
    return name.replace("/", ".")


_CTRANSLATE2_NAMES = (
    ("position_encodings/encodings", "positions"),
    ("self_attention/layer_norm", "attention_norm"),
    ("self_attention/linear_0", "attention.qkv"),
    ("self_attention/linear_1", "attention.out"),
    ("ffn/layer_norm", "feed_forward_norm"),
    ("ffn/linear_0", "feed_forward.up"),
    ("ffn/linear_1", "feed_forward.down"),
    ("layer_norm/", "norm/"),
    ("layer_", "blocks/"),
)
