"""The transformer parts that the HuBERT, WavLM and Whisper encoders share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

QUERIES = 256  # rows of scores at a time: what fits the second-level cache


class Norm(nn.LayerNorm):
    """Layer norm that always computes in float32; its output is the float32 residual stream."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float())


class Attention(nn.Module):
    """Self-attention with one stacked projection for queries, keys and values.

    Args:
        width: channels of the input and output.
        heads: number of heads.
        head_dim: channels of a head; width / heads unless the model was pruned.
    """

    def __init__(self, width: int, heads: int, head_dim: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = head_dim or width // heads
        self.qkv = nn.Linear(width, 3 * heads * self.head_dim)
        self.out = nn.Linear(heads * self.head_dim, width)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [B, T, width]; bias [B or 1, heads, T, T] is added to the scores. Returns [B, T, width]."""
        stacked = self.qkv(x.to(self.qkv.weight.dtype)).unflatten(-1, (3, self.heads, self.head_dim))
        q, k, v = stacked.permute(2, 0, 3, 1, 4)  # each [B, heads, T, head_dim]
        return self.out(attend(q, k, v, bias).transpose(1, 2).flatten(2))


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(head_dim) + bias) v; q, k, v [B, heads, T, head_dim].

    torch's fused kernel does it, but for bfloat16 on the CPU: there it takes 2.3 times as long as the same in
    blocks of queries by plain products (torch 2.11, AVX512-BF16, 1500 frames, 12 heads; benchmarks/encoders.py).
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    scaled, keys, values = q * q.shape[-1] ** -0.5, k.transpose(-1, -2).contiguous(), v.contiguous()
    mixed = torch.empty_like(scaled)
    for start in range(0, q.shape[2], QUERIES):
        rows = slice(start, start + QUERIES)
        scores = scaled[:, :, rows] @ keys
        if bias is not None:
            scores += bias[:, :, rows]
        mixed[:, :, rows] = scores.softmax(-1) @ values
    return mixed


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x.to(self.up.weight.dtype))))


class Block(nn.Module):
    """One transformer layer; normalised before its parts (``pre_norm``) or after them.

    Args:
        attention: the attention module, None where pruning left none.
        hidden: channels of the feed-forward part, 0 where pruning left none.
    """

    def __init__(self, width: int, attention: nn.Module | None, hidden: int, pre_norm: bool) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.attention = attention
        self.attention_norm = Norm(width)
        self.feed_forward = FeedForward(width, hidden) if hidden else None
        self.feed_forward_norm = Norm(width)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [B, T, width], float32 residual stream; returns the same shape."""
        if self.pre_norm:
            if self.attention is not None:
                x = x + self.attention(self.attention_norm(x), bias)
            if self.feed_forward is not None:
                x = x + self.feed_forward(self.feed_forward_norm(x))
            return x
        if self.attention is not None:
            x = x + self.attention(x, bias)
        x = self.attention_norm(x)
        if self.feed_forward is not None:
            x = x + self.feed_forward(x)
        return self.feed_forward_norm(x)


Model = TypeVar("Model", bound=nn.Module)


def build_empty(model_class: Callable[..., Model], *args: Any) -> Model:
    """A model without initial values, which would take longer than reading the weights that replace them all."""
    with torch.device("meta"):
        model = model_class(*args)
    return model.to_empty(device="cpu")


def set_precision(module: nn.Module, dtype: torch.dtype) -> None:
    """Hold the weights of linear and convolution layers in ``dtype``; norms stay in float32."""
    for part in module.modules():
        if isinstance(part, nn.Linear) or (isinstance(part, nn.Conv1d) and not _miscomputed(part, dtype)):
            part.to(dtype)


def _miscomputed(conv: nn.Conv1d, dtype: torch.dtype) -> bool:
    """Whether torch 2.11 gets it wrong: many groups of a width that is no multiple of 16, in bfloat16 on CPUs with AMX.

    Such groups are no larger than those of pruned and small models, and cost next to nothing in float32.
    """
    return dtype == torch.bfloat16 and 1 < conv.groups < conv.in_channels and conv.in_channels // conv.groups % 16 != 0
