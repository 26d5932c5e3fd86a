"""Masks of padded batches, and the short segments of them that the decoder is trained on."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def sequence_mask(lengths: Tensor, max_length: int | None = None) -> Tensor:
    """bool [B, max_length], True in the first ``lengths[i]`` places; max_length defaults to the longest."""
    longest = int(lengths.max()) if max_length is None else max_length
    return torch.arange(longest, device=lengths.device) < lengths[:, None]


def random_starts(lengths: Tensor, segment: int, generator: torch.Generator | None = None) -> Tensor:
    """First frames of random segments, int64 [B]; a clip shorter than the segment starts at 0."""
    choices = (lengths - segment + 1).clamp(min=1)
    return (torch.rand(len(lengths), generator=generator, device=lengths.device) * choices).long()


def slice_segments(x: Tensor, starts: Tensor, segment: int) -> Tensor:
    """[B, ..., T] -> [B, ..., segment] from ``starts`` [B]; zeros follow where x is shorter than that."""
    if x.shape[-1] < segment:
        x = F.pad(x, (0, segment - x.shape[-1]))
    index = starts.view(-1, *[1] * (x.dim() - 1)) + torch.arange(segment, device=x.device)
    return x.gather(-1, index.expand(*x.shape[:-1], segment))
