"""Pitch as the networks see it: mel-spaced bins, and log-f0 around a song's own mean."""

from __future__ import annotations

import math

import torch
from torch import Tensor

F0_BINS = 256  # bin 0 is never used
F0_MIN, F0_MAX = 50.0, 1100.0  # Hz, at bins 1 and 255


def f0_to_coarse(f0: Tensor) -> Tensor:
    """Mel-spaced bin of each f0 (Hz, any shape), int64 in 1..255.

    0 Hz and all below 50 Hz is bin 1; all above 1100 Hz is bin 255 and stays a high note.
    """
    mel = 1127 * torch.log(1 + f0.float() / 700)
    lowest, highest = (1127 * math.log(1 + hz / 700) for hz in (F0_MIN, F0_MAX))
    slope = (F0_BINS - 2) / (highest - lowest)
    bins = torch.where(mel > 0, mel * slope - (lowest * slope - 1), mel)
    return bins.round().long().clamp(1, F0_BINS - 1)


def f0_to_log(f0: Tensor) -> Tensor:
    """Mel-scaled log f0 that the f0 decoder predicts: 2595 log10(1 + f0 / 700) / 500."""
    return 2595 * torch.log10(1 + f0.float() / 700) / 500


def log_to_f0(lf0: Tensor) -> Tensor:
    """Hz out of f0_to_log's scale."""
    return 700 * (torch.pow(10, lf0.float() * 500 / 2595) - 1)


def normalize_f0(lf0: Tensor, mask: Tensor | None, uv: Tensor, scale: Tensor | None = None) -> Tensor:
    """Log f0 around its mean over the voiced frames.

    Args:
        lf0: [B, 1, T].
        mask: [B, 1, T], 1 where there is a frame.
        uv: [B, T], 1 where voiced. Without a voiced frame the mean is 0.
        scale: [B, 1], by which the deviation from the mean is scaled (at random in training).

    Returns:
        [B, 1, T].
    """
    voiced = uv.sum(dim=1, keepdim=True)
    voiced = torch.where(voiced == 0, torch.full_like(voiced, 9999.0), voiced)
    mean = (lf0[:, 0] * uv).sum(dim=1, keepdim=True) / voiced
    deviation = lf0 - mean[:, None]
    if scale is not None:
        deviation = deviation * scale[:, None]
    return deviation if mask is None else deviation * mask
