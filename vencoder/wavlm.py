"""WavLM (microsoft/unilm, arXiv 2110.13900): HuBERT whose attention adds a gated relative position bias."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from modules.errors import UserError
from vencoder import fairseq
from vencoder.encoder import Precision
from vencoder.hubert import HubertEncoder, HubertModel, HubertSizes, LayerSizes, rename_fairseq, sizes_of
from vencoder.layers import Attention, load_model


class WavlmEncoder(HubertEncoder):
    """Units of WavLM's last layer."""

    @classmethod
    def _from_file(cls, path: Path, device: str = "cpu", precision: Precision = "auto") -> WavlmEncoder:  # type: ignore[override]
        """Load WavLM-Base+.pt or a .safetensors of it."""
        file = fairseq.read(path)
        state = rename_fairseq(file.state)
        if "position_bias.weight" not in state:
            raise UserError("the file holds no WavLM model: it has no position bias", path, "use the official file")
        buckets = len(state["position_bias.weight"])
        longest = int(file.settings.get("max_distance", 800))
        model = load_model(state, path, WavlmModel, sizes_of(file, path), buckets, longest)
        return cls(model, device, precision, bool(file.settings.get("normalize", False)))


class WavlmModel(HubertModel):
    """HuBERT base with one table of position biases for all layers."""

    def __init__(self, sizes: HubertSizes, buckets: int, longest: int) -> None:
        super().__init__(sizes)
        self.longest = longest
        self.position_bias = nn.Embedding(buckets, sizes.layers[0].heads)

    def make_attention(self, width: int, layer: LayerSizes) -> nn.Module:
        return GatedAttention(width, layer.heads, layer.head_dim)

    def attention_bias(self, frames: int) -> Tensor:
        """[1, heads, frames, frames] in the precision of the attention."""
        distances = torch.arange(1 - frames, frames, device=self.position_bias.weight.device)
        buckets = bucket_of(distances, self.position_bias.num_embeddings, self.longest)
        by_distance = self.position_bias(buckets).T.to(self.feature_projection.weight.dtype)
        # row i of the matrix is the stretch of distances -i to frames - 1 - i
        return by_distance.unfold(1, frames, 1).flip(1)[None]


class GatedAttention(Attention):
    """Self-attention whose position bias is scaled by two gates for each head and frame (section 3.1)."""

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__(width, heads, head_dim)
        self.gate = nn.Linear(head_dim, 8)
        self.gate_scale = nn.Parameter(torch.ones(1, heads, 1, 1))

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [B, T, width]; bias [1, heads, T, T], the same for every layer."""
        split = x.to(self.gate.weight.dtype).unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)
        update, reset = self.gate(split).unflatten(-1, (2, 4)).sum(-1, keepdim=True).sigmoid().unbind(-2)
        gate = update * (reset * self.gate_scale - 1.0) + 2.0  # [B, heads, T, 1]
        return super().forward(x, None if bias is None else gate.to(bias.dtype) * bias)


def bucket_of(distance: Tensor, buckets: int, longest: int) -> Tensor:
    """T5's buckets: half of them for each direction, exact at first, then logarithmic up to ``longest`` frames."""
    half = buckets // 2
    exact = half // 2
    size = distance.abs()
    far = torch.log(size.clamp(min=1).float() / exact) / math.log(longest / exact) * (half - exact)
    far = (exact + far).long()
    return torch.where(size < exact, size, far.clamp(max=half - 1)) + half * (distance > 0)
