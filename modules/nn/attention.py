"""Transformers over frames: with relative positions in a narrow window, causal, and conditioned for flows.

Shaw et al., "Self-Attention with Relative Position Representations", 2018, with the window of VITS (4 frames to
each side). Only 2*4+1 diagonals of the T x T score matrix have a relative part, so only those are computed: the
usual detour over T x (2T-1) matrices and their padded copies is not needed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.nn.convolutions import ChannelNorm, masked
from modules.nn.weight_norm import WeightNormConv1d

# Scores of one block of queries: 4 Mi values (16 MB in fp32) stay near the caches and bound the memory.
MAX_SCORES = 1 << 22


class TransformerSizes(NamedTuple):
    """Sizes of a transformer over frames."""

    hidden_channels: int
    filter_channels: int  # between the two convolutions of a feed-forward layer
    n_heads: int
    n_layers: int
    kernel_size: int  # of those convolutions, frames
    p_dropout: float

    def feed_forward(self, causal: bool = False) -> FeedForward:
        """The feed-forward part of one layer."""
        return FeedForward(self.hidden_channels, self.filter_channels, self.kernel_size, self.p_dropout, causal)


class RelativeEncoder(nn.Module):
    """Transformer encoder with relative positions, norms after the residuals (VITS's prior encoder)."""

    def __init__(self, sizes: TransformerSizes, window_size: int = 4) -> None:
        super().__init__()
        channels, layers = sizes.hidden_channels, range(sizes.n_layers)
        self.drop = nn.Dropout(sizes.p_dropout)
        self.attn_layers = nn.ModuleList(
            RelativeAttention(channels, sizes.n_heads, sizes.p_dropout, window_size) for _ in layers
        )
        self.norm_layers_1 = nn.ModuleList(ChannelNorm(channels) for _ in layers)
        self.ffn_layers = nn.ModuleList(sizes.feed_forward() for _ in layers)
        self.norm_layers_2 = nn.ModuleList(ChannelNorm(channels) for _ in layers)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """[B, hidden, T] -> [B, hidden, T]; ``mask`` [B, 1, T] is 1 where there is a frame."""
        x = masked(x, mask)
        for attention, norm_1, feed_forward, norm_2 in zip(
            self.attn_layers, self.norm_layers_1, self.ffn_layers, self.norm_layers_2, strict=True
        ):
            x = norm_1(x + self.drop(attention(x, mask)))
            x = norm_2(x + self.drop(feed_forward(x, mask)))
        return masked(x, mask)


class CausalTransformer(nn.Module):
    """Transformer in which a frame sees itself and what came before, norms after the residuals.

    With ``gin_channels`` every layer is first gated by a condition (the transformer flow): one ``cond_pre``
    serves all layers, as in released models.
    """

    def __init__(self, sizes: TransformerSizes, gin_channels: int = 0) -> None:
        super().__init__()
        channels, layers = sizes.hidden_channels, range(sizes.n_layers)
        self.drop = nn.Dropout(sizes.p_dropout)
        self.conditioned = gin_channels > 0
        if self.conditioned:
            self.cond_pre = nn.Conv1d(channels, 2 * channels, 1)
            self.cond_layer = WeightNormConv1d(gin_channels, 2 * channels * sizes.n_layers, 1)
        self.self_attn_layers = nn.ModuleList(CausalAttention(channels, sizes.n_heads, sizes.p_dropout) for _ in layers)
        self.norm_layers_0 = nn.ModuleList(ChannelNorm(channels) for _ in layers)
        self.ffn_layers = nn.ModuleList(sizes.feed_forward(causal=True) for _ in layers)
        self.norm_layers_1 = nn.ModuleList(ChannelNorm(channels) for _ in layers)

    def forward(self, x: Tensor, mask: Tensor | None, g: Tensor | None = None) -> Tensor:
        """[B, hidden, T] -> [B, hidden, T].

        Args:
            mask: [B, 1, T], 1 where there is a frame; padding stands at the end.
            g: condition [B, gin, 1] or [B, gin, T].
        """
        n_layers = len(self.self_attn_layers)
        conditions: tuple[Tensor, ...] | None = None
        if self.conditioned:
            assert g is not None, "a conditioned transformer needs its condition"
            conditions = self.cond_layer(g).chunk(n_layers, dim=1)
        x = masked(x, mask)
        for i in range(n_layers):
            if conditions is not None:
                x = gated(self.cond_pre(x) + conditions[i])
            x = self.norm_layers_0[i](x + self.drop(self.self_attn_layers[i](x)))
            x = self.norm_layers_1[i](x + self.drop(self.ffn_layers[i](x, mask)))
        return masked(x, mask)


def gated(x: Tensor) -> Tensor:
    """[B, 2C, T] -> [B, C, T]: tanh of the first half, scaled by the sigmoid of the second."""
    content, gate = x.chunk(2, dim=1)
    return torch.tanh(content) * torch.sigmoid(gate)


class _Attention(nn.Module):
    """Projections of multi-head self-attention over [B, C, T]."""

    def __init__(self, channels: int, n_heads: int, p_dropout: float) -> None:
        super().__init__()
        self.n_heads, self.p_dropout = n_heads, p_dropout
        self.conv_q = nn.Conv1d(channels, channels, 1)
        self.conv_k = nn.Conv1d(channels, channels, 1)
        self.conv_v = nn.Conv1d(channels, channels, 1)
        self.conv_o = nn.Conv1d(channels, channels, 1)
        for conv in (self.conv_q, self.conv_k, self.conv_v):
            nn.init.xavier_uniform_(conv.weight)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [B, heads, T, channels // heads]."""
        b, c, t = x.shape
        q, k, v = (
            conv(x).view(b, self.n_heads, c // self.n_heads, t).transpose(2, 3)
            for conv in (self.conv_q, self.conv_k, self.conv_v)
        )
        return q, k, v

    def merge(self, x: Tensor) -> Tensor:
        """[B, heads, T, channels // heads] -> projected [B, C, T]."""
        b, h, t, d = x.shape
        return self.conv_o(x.transpose(2, 3).reshape(b, h * d, t))


class CausalAttention(_Attention):
    """Self-attention of each frame over itself and the frames before it."""

    def __init__(self, channels: int, n_heads: int, p_dropout: float) -> None:
        super().__init__(channels, n_heads, p_dropout)
        # Keys start as the queries' twins, so that a frame first looks at frames like itself.
        self.conv_k.load_state_dict(self.conv_q.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, T]; padding needs no mask where it comes last, since no frame looks ahead."""
        q, k, v = self.heads(x)
        dropout = self.p_dropout if self.training else 0.0
        return self.merge(F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout))


class RelativeAttention(_Attention):
    """Self-attention with relative positions up to ``window_size`` frames away, shared by all heads."""

    def __init__(self, channels: int, n_heads: int, p_dropout: float, window_size: int = 4) -> None:
        super().__init__(channels, n_heads, p_dropout)
        depth = channels // n_heads
        self.emb_rel_k = nn.Parameter(torch.randn(1, 2 * window_size + 1, depth) * depth**-0.5)
        self.emb_rel_v = nn.Parameter(torch.randn(1, 2 * window_size + 1, depth) * depth**-0.5)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """[B, C, T] -> [B, C, T]; ``mask`` [B, 1, T] is 1 where there is a frame."""
        q, k, v = self.heads(x)
        padding = None if mask is None else mask[:, :, None] == 0
        dropout = self.p_dropout if self.training else 0.0
        return self.merge(banded_attention(q, k, v, self.emb_rel_k[0], self.emb_rel_v[0], padding, dropout))


def banded_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_k: Tensor,
    rel_v: Tensor,
    padding: Tensor | None = None,
    dropout: float = 0.0,
    max_scores: int = MAX_SCORES,
) -> Tensor:
    """Attention with relative positions within a window, exact, in blocks of queries.

    Scores are q k / sqrt(D), plus q rel_k / sqrt(D) on the 2W+1 diagonals nearest the main one; the output is
    the weighted sum of v plus that of rel_v on the same diagonals.

    Args:
        q, k, v: [B, H, T, D].
        rel_k, rel_v: [2W+1, D]; row W + r belongs to the key r frames after the query.
        padding: bool [B, 1, 1, T], True where there is no key.
        dropout: probability with which a weight is dropped.
        max_scores: largest number of scores held at a time where no gradient is needed.

    Returns:
        [B, H, T, D].
    """
    b, h, t, d = q.shape
    q = q * d**-0.5
    transposed_keys = k.transpose(2, 3)
    rows = max(1, max_scores // (b * h * t))
    if rows >= t:
        return _banded_block(q, 0, transposed_keys, v, rel_k, rel_v, padding, dropout)
    return torch.cat(
        [
            _banded_block(block, i * rows, transposed_keys, v, rel_k, rel_v, padding, dropout)
            for i, block in enumerate(q.split(rows, dim=2))
        ],
        dim=2,
    )


def _banded_block(
    q: Tensor,
    start: int,
    transposed_keys: Tensor,
    v: Tensor,
    rel_k: Tensor,
    rel_v: Tensor,
    padding: Tensor | None,
    dropout: float,
) -> Tensor:
    """The rows ``start`` to ``start + L`` of banded_attention for the scaled queries ``q`` [B, H, L, D]."""
    b, h, n_rows, _ = q.shape
    t, n_diagonals = v.shape[2], rel_k.shape[0]
    row = torch.arange(start, start + n_rows, device=q.device)[:, None]
    column = row + torch.arange(n_diagonals, device=q.device) - n_diagonals // 2  # [L, 2W+1]
    inside = (column >= 0) & (column < t)
    column = column.clamp(0, t - 1).expand(b, h, -1, -1)

    scores = torch.matmul(q, transposed_keys)
    scores = scores.scatter_add_(-1, column, torch.matmul(q, rel_k.to(q.dtype).T) * inside)
    if padding is not None:
        scores = scores.masked_fill(padding, -1e4)
    weights = torch.softmax(scores, dim=-1).to(v.dtype)
    if dropout > 0:
        weights = F.dropout(weights, dropout)
    near = weights.gather(-1, column) * inside
    return torch.matmul(weights, v) + torch.matmul(near, rel_v.to(v.dtype))


class FeedForward(nn.Module):
    """Two convolutions over time with a ReLU between them."""

    def __init__(
        self, channels: int, filter_channels: int, kernel_size: int, p_dropout: float, causal: bool = False
    ) -> None:
        super().__init__()
        before = kernel_size - 1 if causal else (kernel_size - 1) // 2
        self.padding = (before, kernel_size - 1 - before)
        self.conv_1 = nn.Conv1d(channels, filter_channels, kernel_size)
        self.conv_2 = nn.Conv1d(filter_channels, channels, kernel_size)
        self.drop = nn.Dropout(p_dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """[B, C, T] -> [B, C, T]; ``mask`` [B, 1, T] is 1 where there is a frame."""
        x = self.drop(F.relu(self.conv_1(F.pad(masked(x, mask), self.padding))))
        return masked(self.conv_2(F.pad(masked(x, mask), self.padding)), mask)
