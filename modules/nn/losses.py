"""Losses of generator and discriminators: LSGAN (Mao et al., 2017), feature matching (MelGAN) and KL (VITS)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FeatureMaps = Sequence[Sequence[Tensor]]  # one list a discriminator


def feature_loss(real: FeatureMaps, generated: FeatureMaps) -> Tensor:
    """Twice the summed mean distance of the feature maps; no gradient goes to the real ones."""
    distances = [
        (real_map.detach().float() - generated_map.float()).abs().mean()
        for real_maps, generated_maps in zip(real, generated, strict=True)
        for real_map, generated_map in zip(real_maps, generated_maps, strict=True)
    ]
    return 2 * torch.stack(distances).sum()


def discriminator_loss(real: Sequence[Tensor], generated: Sequence[Tensor]) -> Tensor:
    """LSGAN loss of the discriminators: real audio shall score 1, generated audio 0."""
    real_parts = [((1 - score.float()) ** 2).mean() for score in real]
    generated_parts = [(score.float() ** 2).mean() for score in generated]
    return torch.stack(real_parts + generated_parts).sum()


def generator_loss(generated: Sequence[Tensor]) -> Tensor:
    """LSGAN loss of the generator: its audio shall score 1."""
    return torch.stack([((1 - score.float()) ** 2).mean() for score in generated]).sum()


def kl_loss(z_p: Tensor, logs_q: Tensor, m_p: Tensor, logs_p: Tensor, mask: Tensor) -> Tensor:
    """KL divergence from the prior to the posterior, per frame.

    Args:
        z_p: the posterior's sample brought to the prior by the flow, [B, C, T].
        logs_q: log standard deviation of the posterior, [B, C, T].
        m_p, logs_p: mean and log standard deviation of the prior, [B, C, T].
        mask: [B, 1, T], 1 where there is a frame.

    Returns:
        The sum over channels and frames divided by the number of frames (not of channels).
    """
    z_p, logs_q, m_p, logs_p, mask = (x.float() for x in (z_p, logs_q, m_p, logs_p, mask))
    divergence = logs_p - logs_q - 0.5 + 0.5 * (z_p - m_p) ** 2 * torch.exp(-2 * logs_p)
    return (divergence * mask).sum() / mask.sum()
