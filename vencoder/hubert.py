"""HuBERT encoders: ContentVec and Chinese HuBERT, from fairseq's files."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.errors import UserError
from vencoder import fairseq
from vencoder.encoder import HOP_LENGTH, Precision, SpeechEncoder, Window
from vencoder.layers import Attention, Block, Norm, count_layers
from vencoder.layers import load_model as load_weights

ConvShape = tuple[int, int, int]  # channels, kernel, stride
STANDARD_CONVS: tuple[ConvShape, ...] = ((512, 10, 5), *[(512, 3, 2)] * 4, *[(512, 2, 2)] * 2)
FIELD = 400  # samples that one frame of the convolutions sees
PIECE = 250  # frames of the convolutions at a time: 5 s, 65 MB


class HubertEncoder(SpeechEncoder):
    """Units of a HuBERT model.

    Attributes:
        pad: zeros put on both sides of the audio.
        normalize: bring the clip to mean 0 and variance 1 first.
    """

    pad = 0

    def __init__(
        self, model: HubertModel, device: str = "cpu", precision: Precision = "auto", normalize: bool = False
    ) -> None:
        super().__init__(device, precision)
        self.normalize = normalize
        self.model = self.ready(model)
        self.width = model.projection.out_features if model.projection else model.norm.normalized_shape[0]

    @classmethod
    def _from_file(
        cls, path: Path, device: str = "cpu", precision: Precision = "auto", layer: int = 0, project: bool = False
    ) -> HubertEncoder:
        """Load a fairseq checkpoint.

        Args:
            layer: how many transformer layers run; 0 for all, with the last norm of a pre-norm model.
            project: put ``final_proj`` after them.
        """
        return cls(load_model(path, layer, project), device, precision)

    def frames(self, samples: int) -> int:
        return max(1, (samples + 2 * self.pad - FIELD) // HOP_LENGTH + 1)

    def prepare(self, audio: Tensor) -> Tensor:
        """Features [frames, channels]: windows overlap, and the convolutions cost a third of an encoding."""
        if self.normalize:
            audio = F.layer_norm(audio, audio.shape)
        return self.model.features(F.pad(audio, (self.pad, self.pad)))

    def encode_windows(self, windows: Sequence[Window]) -> Tensor:
        return self.model(torch.stack([window.clip[window.start : window.stop] for window in windows]))


def load_model(path: Path, layer: int = 0, project: bool = False) -> HubertModel:
    """A HuBERT model from a fairseq checkpoint, cut after ``layer`` layers (0: all)."""
    file = fairseq.read(path)
    sizes = sizes_of(file, path)
    if layer > len(sizes.layers):
        raise UserError(f"the model has {len(sizes.layers)} layers, {layer} are needed", path, "use the official file")
    projection = len(file.state["final_proj.weight"]) if project else 0
    sizes = replace(sizes, layers=sizes.layers[: layer or None], projection=projection)
    return load_weights(rename_fairseq(file.state), path, HubertModel, sizes)


class HubertModel(nn.Module):
    """Projection, convolutional positions, transformer over the features of the front end.

    The last projection is optional.
    """

    def __init__(self, sizes: HubertSizes) -> None:
        super().__init__()
        self.pre_norm = sizes.pre_norm
        self.front_end = ConvFrontEnd(sizes)
        channels, width = sizes.convs[-1][0], sizes.width
        self.feature_norm = Norm(channels)
        self.feature_projection = nn.Linear(channels, width)
        kernel = sizes.position_kernel
        self.positions = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=sizes.position_groups)
        self.norm = Norm(width)
        self.blocks = nn.ModuleList(
            Block(width, self.make_attention(width, layer), layer.hidden, sizes.pre_norm) for layer in sizes.layers
        )
        self.projection = nn.Linear(width, sizes.projection) if sizes.projection else None

    def make_attention(self, width: int, layer: LayerSizes) -> nn.Module | None:
        return Attention(width, layer.heads, layer.head_dim) if layer.heads else None

    def attention_bias(self, frames: int) -> Tensor | None:
        """What every layer's attention adds to its scores."""
        return None

    def features(self, audio: Tensor) -> Tensor:
        """Features [frames, channels] of audio [T], in the precision of the model."""
        return self.front_end(audio, self.feature_projection.weight.dtype)

    def forward(self, features: Tensor) -> Tensor:
        """Units [B, frames, width] of features [B, frames, channels]."""
        dtype = self.feature_projection.weight.dtype
        x = self.feature_projection(self.feature_norm(features).to(dtype)).float()
        x = x + self._positions(x)
        if not self.pre_norm:
            x = self.norm(x)
        bias = self.attention_bias(x.shape[1])
        for block in self.blocks:
            x = block(x, bias)
        if self.pre_norm:
            x = self.norm(x)
        return x if self.projection is None else self.projection(x.to(dtype))

    def _positions(self, x: Tensor) -> Tensor:
        frames = x.shape[1]
        shifted = self.positions(x.to(self.positions.weight.dtype).transpose(1, 2))
        return F.gelu(shifted[..., :frames]).transpose(1, 2)  # an even kernel gives one frame too many


class ConvFrontEnd(nn.Module):
    """Waveform to features, 50 frames a second, computed channels last: each convolution is one product.

    Group norm after the first convolution normalises each channel over the whole clip. Its mean and variance
    follow exactly from those of the samples under the kernel, so it folds into the weight of that convolution, and
    a clip can be computed piece by piece: what the first layer gives is 64 times as much as the features.
    """

    def __init__(self, sizes: HubertSizes) -> None:
        super().__init__()
        self.convs = tuple(sizes.convs)
        self.norm_each = sizes.norm_each_conv
        first, kernel, _ = self.convs[0]
        self.first_weight = nn.Parameter(torch.zeros(kernel, first))
        self.first_bias = nn.Parameter(torch.zeros(first)) if sizes.conv_bias else None
        inputs = [channels for channels, _, _ in self.convs]
        self.linears = nn.ModuleList(
            nn.Linear(size * kernel, channels, bias=sizes.conv_bias)
            for size, (channels, kernel, _) in zip(inputs, self.convs[1:], strict=False)
        )
        norms = [channels for channels, _, _ in self.convs] if self.norm_each else [first]
        self.norms = nn.ModuleList(Norm(channels) for channels in norms)
        self.scale = nn.Parameter(torch.ones(inputs[-1])) if sizes.scaled else None

    def forward(self, audio: Tensor, dtype: torch.dtype) -> Tensor:
        """Features [frames, channels] in ``dtype`` of audio [T], T of one frame or more."""
        weight, bias = self.first_layer(audio)
        frames = (audio.shape[0] - FIELD) // HOP_LENGTH + 1
        pieces = []
        for start in range(0, frames, PIECE):
            last = (min(start + PIECE, frames) - 1) * HOP_LENGTH + FIELD
            pieces.append(self._piece(audio[start * HOP_LENGTH : last], weight, bias, dtype))
        return torch.cat(pieces)

    def first_layer(self, audio: Tensor) -> tuple[Tensor, Tensor | None]:
        """The weight [kernel, channels] and bias [channels] of the first layer for ``audio`` [T]."""
        if self.norm_each:
            return self.first_weight, self.first_bias
        _, kernel, stride = self.convs[0]
        patches = audio.double().unfold(0, kernel, stride)
        mean = patches.mean(0)
        covariance = patches.T @ patches / len(patches) - torch.outer(mean, mean)
        weight = self.first_weight.double()
        variance = torch.einsum("kc,kl,lc->c", weight, covariance, weight).clamp(min=0)
        norm = self.norms[0]
        assert isinstance(norm, Norm)
        scale = norm.weight.double() / (variance + norm.eps).sqrt()
        bias = norm.bias.double() - scale * (mean @ weight)  # a bias of the convolution would cancel out
        return (weight * scale).float(), bias.float()

    def _piece(self, audio: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        _, kernel, stride = self.convs[0]
        patches = audio.unfold(0, kernel, stride)
        x = patches @ weight if bias is None else torch.addmm(bias, patches, weight)
        x = self._activate(x, 0, dtype)
        for index, linear in enumerate(self.linears, 1):
            _, kernel, stride = self.convs[index]
            x = self._activate(linear(strided_patches(x, kernel, stride)), index, dtype)
        return x if self.scale is None else x * self.scale

    def _activate(self, x: Tensor, index: int, dtype: torch.dtype) -> Tensor:
        return F.gelu((self.norms[index](x) if self.norm_each else x).to(dtype))


def strided_patches(x: Tensor, kernel: int, stride: int) -> Tensor:
    """What each step of a convolution sees: a view [frames, kernel * C] of contiguous x [T, C]."""
    length, channels = x.shape
    frames = (length - kernel) // stride + 1
    return x.as_strided((frames, kernel * channels), (stride * channels, 1))


@dataclass(frozen=True)
class LayerSizes:
    """A transformer layer; 0 heads or 0 hidden channels where pruning left no attention or no feed-forward part."""

    heads: int = 12
    head_dim: int = 64
    hidden: int = 3072


@dataclass(frozen=True)
class HubertSizes:
    """Everything that shapes a HuBERT model."""

    width: int = 768
    layers: Sequence[LayerSizes] = (LayerSizes(),) * 12
    pre_norm: bool = False
    norm_each_conv: bool = False  # layer norm after every convolution; else group norm after the first
    conv_bias: bool = False
    convs: Sequence[ConvShape] = STANDARD_CONVS
    position_kernel: int = 128
    position_groups: int = 16
    projection: int = 0  # channels of final_proj, 0 for none
    scaled: bool = False  # a pruned front end scales its features channel by channel


def sizes_of(file: fairseq.FairseqCheckpoint, path: Path) -> HubertSizes:
    """Sizes by the file's tensors; heads and strides, which tensors do not show, by its settings.

    Raises:
        UserError: the file holds no HuBERT model, or one with other convolutions.
    """
    state, settings = file.state, file.settings
    try:
        width = len(state["post_extract_proj.weight"])
        convs = parse_convs(settings.get("conv_feature_layers"))
        shapes = [state[f"feature_extractor.conv_layers.{index}.0.weight"].shape for index in range(len(convs))]
        positions = state["encoder.pos_conv.0.weight_v"].shape
        count = count_layers(state, "encoder.layers.")
        hidden = len(state["encoder.layers.0.fc1.weight"])
    except (KeyError, ValueError, SyntaxError, TypeError, IndexError) as error:
        raise UserError(f"the file holds no HuBERT model ({error})", path, "use the official file") from None
    if not hops_like_hubert(convs) or [(shape[0], shape[2]) for shape in shapes] != [conv[:2] for conv in convs]:
        raise UserError("the convolutions are not those of HuBERT", path, "use the official file")
    heads = int(settings.get("encoder_attention_heads") or width // 64)
    return HubertSizes(
        width=width,
        layers=(LayerSizes(heads, width // heads, hidden),) * count,
        pre_norm=bool(settings.get("layer_norm_first", False)),
        norm_each_conv="feature_extractor.conv_layers.0.2.1.weight" in state,
        conv_bias="feature_extractor.conv_layers.0.0.bias" in state,
        convs=convs,
        position_kernel=positions[2],
        position_groups=width // positions[1],
    )


def hops_like_hubert(convs: Sequence[ConvShape]) -> bool:
    """Whether the convolutions give a frame every 320 samples that sees 400."""
    seen, hop = 1, 1
    for _, kernel, stride in convs:
        seen, hop = seen + (kernel - 1) * hop, hop * stride
    return (seen, hop) == (FIELD, HOP_LENGTH)


def parse_convs(text: Any) -> tuple[ConvShape, ...]:
    """fairseq's "[(512,10,5)] + [(512,3,2)] * 4" as shapes; nothing in the text is run.

    Raises:
        ValueError: the text is none of these.
    """
    if text is None:
        return STANDARD_CONVS
    shapes: list[ConvShape] = []
    for term in str(text).split("+"):
        match = re.fullmatch(r"\s*(\[.*\])\s*(?:\*\s*(\d+))?\s*", term)
        if match is None:
            raise ValueError(f"conv_feature_layers {text!r}")
        layers = [tuple(int(number) for number in layer) for layer in ast.literal_eval(match.group(1))]
        if not all(len(layer) == 3 for layer in layers) or len(layers) * int(match.group(2) or 1) > 64:
            raise ValueError(f"conv_feature_layers {text!r}")
        shapes += [(a, b, c) for a, b, c in layers] * int(match.group(2) or 1)
    return tuple(shapes)


def rename_fairseq(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """fairseq's keys to ours."""
    return rename_keys(state, _FAIRSEQ_NAMES)


_FAIRSEQ_NAMES = (
    (r"^encoder\.layers\.0\.self_attn\.relative_attention_bias\.", "position_bias."),
    (r"\.self_attn\.grep_linear\.", ".attention.gate."),
    (r"\.self_attn\.grep_a$", ".attention.gate_scale"),
    (r"^feature_extractor\.conv_layers\.(\d+)\.0\.", r"conv.\1."),
    (r"^feature_extractor\.conv_layers\.(\d+)\.2\.(?:1\.)?", r"front_end.norms.\1."),
    (r"^layer_norm\.", "feature_norm."),
    (r"^post_extract_proj\.", "feature_projection."),
    (r"^encoder\.pos_conv\.0\.", "positions."),
    (r"^encoder\.layer_norm\.", "norm."),
    (r"^encoder\.layers\.", "blocks."),
    (r"\.self_attn\.out_proj\.", ".attention.out."),
    (r"\.self_attn\.", ".attention."),
    (r"\.self_attn_layer_norm\.", ".attention_norm."),
    (r"\.fc1\.", ".feed_forward.up."),
    (r"\.fc2\.", ".feed_forward.down."),
    (r"\.final_layer_norm\.", ".feed_forward_norm."),
    (r"^final_proj\.", "projection."),
)


def rename_keys(state: Mapping[str, Tensor], names: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """A file's keys to ours, by patterns in turn: convolutions as products, q, k, v stacked, norms folded."""
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        for pattern, replacement in names:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return _reshape(renamed)


def _reshape(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Where our layers are shaped otherwise, the tensors change and not only their names.

    ``conv.<n>.weight`` [out, in, kernel] becomes a product's weight, ``positions.weight_g`` and ``weight_v``
    one weight, and the projections of q, k and v one stacked projection.
    """
    done = dict(state)
    for key in [key for key in state if key.startswith("conv.")]:
        _, index, kind = key.split(".")
        value = done.pop(key)
        if index == "0":
            name = f"front_end.first_{kind}"
            done[name] = value[:, 0].T.contiguous() if kind == "weight" else value
        else:
            value = value.transpose(1, 2).flatten(1) if kind == "weight" else value
            done[f"front_end.linears.{int(index) - 1}.{kind}"] = value
    if "positions.weight_g" in done:
        direction = done.pop("positions.weight_v").float()
        norm = direction.norm(dim=(0, 1), keepdim=True)
        done["positions.weight"] = done.pop("positions.weight_g").float() * direction / norm
    for prefix in {key.rsplit(".q_proj.", 1)[0] for key in state if ".q_proj." in key}:
        for kind in ("weight", "bias"):
            done[f"{prefix}.qkv.{kind}"] = torch.cat([done.pop(f"{prefix}.{part}_proj.{kind}") for part in "qkv"])
    return done
