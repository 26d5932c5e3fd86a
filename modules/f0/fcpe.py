"""fcpe: fast context-based pitch estimation (Luo et al. 2025), conformer layers over a mel spectrogram.

Weights are pretrain/fcpe.pt; without that file, those that come with the torchfcpe package, a newer model of
the same family without attention. Both are read into the one network here.

The first layers hold a group norm over the whole audio: long audio gets its statistics from a first pass over
the windows, so that the model without attention gives in windows what it gives in one pass. The attention of
fcpe.pt, linear and over all frames, sees one window (48 s) at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modules import checkpoint
from modules.audio.resample import SPEECH_RATE
from modules.errors import UserError
from modules.f0.base import F0Settings
from modules.f0.neural import (
    HOP_LENGTH,
    MEL_FLOOR,
    N_FFT,
    N_MELS,
    SaliencePredictor,
    Window,
    local_average_f0,
    mel_filters,
)

# By the names of the two layouts, the second of which says sr.
MEL = {
    "sampling_rate": SPEECH_RATE,
    "sr": SPEECH_RATE,
    "num_mels": N_MELS,
    "n_fft": N_FFT,
    "win_size": N_FFT,
    "hop_size": HOP_LENGTH,
    "fmin": 0,
    "fmax": 8000,
}
HEAD_WIDTH = 64
KERNEL_SIZE = 31
EXPANSION = 2
NORM_GROUPS = 4
BUNDLED_RANGE = (50.0, 1100.0)  # Hz; measured: steady tones of 1150 Hz and of 45 Hz are unvoiced to it
BUNDLED_THRESHOLD = 0.006  # what torchfcpe recommends for its weights


class FcpePredictor(SaliencePredictor):
    """FCPE on the given device."""

    pad = (N_FFT - HOP_LENGTH) // 2

    def __init__(self, settings: F0Settings) -> None:
        super().__init__(settings)
        self.network, bundled = load_network(settings.pretrain_dir / "fcpe.pt")
        self.network.eval().to(self.device)
        self.bundled = bundled
        if bundled and settings.threshold is None:
            self.threshold = BUNDLED_THRESHOLD
        self.filters = mel_filters(fmin=MEL["fmin"], fmax=MEL["fmax"], htk=False, device=self.device)

    @property
    def reach(self) -> tuple[float, float]:
        return BUNDLED_RANGE if self.bundled else super().reach

    def _mel(self, padded: Tensor, window: Window, total: int) -> Tensor:
        # There is one frame more than the audio gives; the original repeats the last one.
        spectrum = self._spectrum(padded, window.first, min(window.last, total - 1))
        magnitude = torch.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-9)
        mel = (self.filters @ magnitude).clamp(min=MEL_FLOOR).log()
        return torch.cat([mel, mel[:, -1:]], dim=1) if window.last == total else mel

    def _survey(self, padded: Tensor, spans: list[Window], total: int) -> GroupStatistics | None:
        if len(spans) == 1:
            return None
        parts = [
            self.network.first_layer(self._mel(padded, window, total).T[None], window.core) for window in spans
        ]
        return GroupStatistics.join(parts)

    def _salience(self, mel: Tensor, survey: GroupStatistics | None) -> Tensor:
        return self.network(mel.T[None], survey)[0]

    def _decode(self, salience: Tensor) -> Tensor:
        return local_average_f0(salience, self.network.cent_table, self.threshold, repeat_edges=True)


@dataclass(frozen=True)
class GroupStatistics:
    """Mean and mean square [groups] of the first layer over ``count`` values."""

    mean: Tensor
    mean_square: Tensor
    count: int

    @classmethod
    def of(cls, hidden: Tensor) -> GroupStatistics:
        """Of hidden [1, C, T], in float64 because the squared mean is taken from the mean square; MPS has none."""
        groups = hidden.cpu().double().reshape(NORM_GROUPS, -1)
        return cls(groups.mean(dim=1), groups.square().mean(dim=1), groups.shape[1])

    @classmethod
    def join(cls, parts: list[GroupStatistics]) -> GroupStatistics:
        """Of all parts together."""
        count = sum(part.count for part in parts)
        mean = sum((part.mean * (part.count / count) for part in parts), torch.zeros_like(parts[0].mean))
        square = sum((part.mean_square * (part.count / count) for part in parts), torch.zeros_like(mean))
        return cls(mean, square, count)


class WholeGroupNorm(nn.GroupNorm):
    """Group norm whose statistics may be those of the whole audio that hidden [1, C, T] is a part of."""

    def forward(self, hidden: Tensor, statistics: GroupStatistics | None = None) -> Tensor:
        if statistics is None:
            return super().forward(hidden)
        deviation = (statistics.mean_square - statistics.mean.square() + self.eps).sqrt()
        width = hidden.shape[1] // self.num_groups
        mean, scale = (
            values.float().to(hidden.device).repeat_interleave(width)[:, None]
            for values in (statistics.mean, 1 / deviation)
        )
        return (hidden - mean) * scale * self.weight[:, None] + self.bias[:, None]


class FcpeNetwork(nn.Module):
    """[B, T, mels] to the salience [B, T, bins] of pitch bins."""

    cent_table: Tensor

    def __init__(
        self,
        in_channels: int = N_MELS,
        bins: int = 360,
        layers: int = 12,
        channels: int = 512,
        f0_min: float = 32.7,
        f0_max: float = 1975.5,
        attention: bool = True,
    ) -> None:
        super().__init__()
        low, high = (1200 * math.log2(f0 / 10) for f0 in (f0_min, f0_max))
        self.register_buffer("cent_table", torch.from_numpy(np.linspace(low, high, bins)).float())
        self.stack = nn.Sequential(
            nn.Conv1d(in_channels, channels, 3, padding=1),
            WholeGroupNorm(NORM_GROUPS, channels),
            nn.LeakyReLU(),
            nn.Conv1d(channels, channels, 3, padding=1),
        )
        self.decoder = Decoder(layers, channels, attention)
        self.norm = nn.LayerNorm(channels)
        self.dense_out = nn.Linear(channels, bins)

    def forward(self, mel: Tensor, statistics: GroupStatistics | None = None) -> Tensor:
        """``statistics`` are of the whole audio where ``mel`` is a window of it."""
        first, norm, activation, second = self.stack
        hidden = first(mel.transpose(1, 2))
        hidden = second(activation(norm(hidden, statistics))).transpose(1, 2)
        return torch.sigmoid(self.dense_out(self.norm(self.decoder(hidden))))

    def first_layer(self, mel: Tensor, core: slice) -> GroupStatistics:
        """The statistics that the group norm needs, over the frames ``core`` of mel [1, T, mels]."""
        return GroupStatistics.of(self.stack[0](mel.transpose(1, 2))[..., core])


class Decoder(nn.Module):
    """A stack of conformer layers over [B, T, C]."""

    def __init__(self, layers: int, channels: int, attention: bool) -> None:
        super().__init__()
        self._layers = nn.ModuleList(ConformerLayer(channels, attention) for _ in range(layers))

    def forward(self, hidden: Tensor) -> Tensor:
        for layer in self._layers:
            hidden = layer(hidden)
        return hidden


class ConformerLayer(nn.Module):
    """Attention, where the model has it, then the convolution module; both residual, over [B, T, C]."""

    def __init__(self, channels: int, attention: bool) -> None:
        super().__init__()
        self.conformer = ConvolutionModule(channels)
        self.norm = nn.LayerNorm(channels)
        self.attn = SelfAttention(channels) if attention else None

    def forward(self, hidden: Tensor) -> Tensor:
        if self.attn is not None:
            hidden = hidden + self.attn(self.norm(hidden))
        return hidden + self.conformer(hidden)


class Transpose(nn.Module):
    """[B, T, C] to [B, C, T] and back."""

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden.transpose(1, 2)


class DepthwiseConvolution(nn.Module):
    """One filter a channel over [B, C, T]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, KERNEL_SIZE, padding=KERNEL_SIZE // 2, groups=channels)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.conv(hidden)


class ConvolutionModule(nn.Module):
    """The convolution module of Conformer (Gulati et al. 2020), with a double-width middle and without batch norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels * EXPANSION
        self.net = nn.Sequential(
            nn.LayerNorm(channels),
            Transpose(),
            nn.Conv1d(channels, 2 * inner, 1),
            nn.GLU(dim=1),
            DepthwiseConvolution(inner),
            nn.SiLU(),
            nn.Conv1d(inner, channels, 1),
            Transpose(),
        )

    def forward(self, hidden: Tensor) -> Tensor:
        return self.net(hidden)


class SelfAttention(nn.Module):
    """Performer attention (Choromanski et al. 2021) over [B, T, C]: linear in T."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fast_attention = RandomFeatures()
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.Linear(channels, channels)

    def forward(self, hidden: Tensor) -> Tensor:
        query, key, value = (
            project(hidden).unflatten(-1, (-1, HEAD_WIDTH)).transpose(1, 2)  # [B, heads, T, HEAD_WIDTH]
            for project in (self.to_q, self.to_k, self.to_v)
        )
        query = self.fast_attention(query, is_query=True)
        key = self.fast_attention(key, is_query=False)
        weighted = query @ (key.transpose(-1, -2) @ value)
        total = query @ key.sum(dim=-2)[..., None]
        return self.to_out((weighted / total).transpose(1, 2).flatten(-2))


class RandomFeatures(nn.Module):
    """The positive random features of the softmax kernel (FAVOR+, equation 5 of the paper)."""

    projection_matrix: Tensor

    def __init__(self) -> None:
        super().__init__()
        features = int(HEAD_WIDTH * math.log(HEAD_WIDTH))
        self.register_buffer("projection_matrix", torch.zeros(features, HEAD_WIDTH))

    def forward(self, heads: Tensor, is_query: bool, eps: float = 1e-4) -> Tensor:
        """[B, heads, T, HEAD_WIDTH] to [B, heads, T, features].

        Where eps goes, and that only queries lose their maximum, is how the model was trained.
        """
        scaled = heads * HEAD_WIDTH**-0.25
        projected = scaled @ self.projection_matrix.T
        half_norm = scaled.square().sum(dim=-1, keepdim=True) / 2
        if is_query:
            features = torch.exp(projected - half_norm - projected.amax(dim=-1, keepdim=True)) + eps
        else:
            features = torch.exp(projected - half_norm + eps)
        return len(self.projection_matrix) ** -0.5 * features


def load_network(path: Path) -> tuple[FcpeNetwork, bool]:
    """The network of ``path``, or of the torchfcpe package where there is no such file; True for the latter."""
    if path.is_file():
        return _original_network(checkpoint.load(path), path), False
    with resources.as_file(resources.files("torchfcpe") / "assets" / "fcpe_c_v001.pt") as bundled:
        return _bundled_network(checkpoint.load(bundled), bundled), True


def _original_network(content: Any, path: Path) -> FcpeNetwork:
    state, config = _parts(content, "config", path)
    for flag in ("use_siren", "use_full", "confidence"):
        if config.get(flag):
            raise UserError(f"this kind of FCPE model is not known: {flag} is on", path, "use the usual fcpe.pt")
    sizes = {
        "in_channels": config.get("input_channel", N_MELS),
        "bins": config.get("out_dims", 360),
        "layers": config.get("n_layers", 12),
        "channels": config.get("n_chans", 512),
        "f0_min": config.get("f0_min", 32.7),
        "f0_max": config.get("f0_max", 1975.5),
    }
    return _filled(sizes, state, path)


def _bundled_network(content: Any, path: Path) -> FcpeNetwork:
    state, config = _parts(content, "config_dict", path)
    names = {"input_stack.": "stack.", "net.encoder_layers.": "decoder._layers.", "output_proj.": "dense_out."}
    renamed = {}
    for key, value in state.items():
        old = next((prefix for prefix in names if key.startswith(prefix)), "")
        renamed[names.get(old, "") + key.removeprefix(old)] = value
    sizes = {
        "bins": config["out_dims"],
        "layers": config["n_layers"],
        "channels": config["hidden_dims"],
        "f0_min": config["f0_min"],
        "f0_max": config["f0_max"],
        "attention": not config["conv_only"],
    }
    return _filled(sizes, renamed, path)


def _filled(sizes: dict[str, Any], state: dict[str, Tensor], path: Path) -> FcpeNetwork:
    with torch.device("meta"):  # no random initialisation: it takes time and moves the global generator
        network = FcpeNetwork(**sizes)
    network.to_empty(device="cpu")
    checkpoint.load_into(network, _fold_weight_norm(state), path)
    return network


def _parts(content: Any, config_key: str, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict and the model section of the config."""
    config = content.get(config_key) if isinstance(content, dict) else None
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise UserError(
            "the file is not an FCPE model of the expected layout",
            path,
            "get fcpe.pt again, or remove it to use the model of the torchfcpe package",
        )
    _check_mel(config.get("mel"), path)
    return checkpoint.model_state(content, path), config["model"]


def _check_mel(mel: Any, path: Path) -> None:
    """Refuse weights that want another mel than the one that is computed here; a file that tells none wants it."""
    for key, own in MEL.items():
        wanted = mel.get(key, own) if isinstance(mel, dict) else own
        if wanted != own:
            what = f"these FCPE weights want a mel with {key} {wanted!r}; only {own} is known"
            raise UserError(what, f"{path}, config, key mel.{key}", "use the usual fcpe.pt")


def _fold_weight_norm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    folded = dict(state)
    direction, length = folded.pop("dense_out.weight_v", None), folded.pop("dense_out.weight_g", None)
    if direction is not None and length is not None:
        folded["dense_out.weight"] = direction * (length / direction.norm(dim=1, keepdim=True))
    return folded
