"""The denoiser: a WaveNet without dilation that sees the mel, the step and the condition.

DiffWave (arXiv 2009.09761) as DiffSinger (arXiv 2105.02446) shaped it for mels. Names of the parameters are
those of Diffusion-SVC's checkpoints.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The condition's part of every layer, [B, 2 n_chans, T] each. It is the same at all steps of a sampler.
Projections = list[Tensor]


class WaveNet(nn.Module):
    """Predicts the noise in x [B, 1, n_mels, T] at a step, given the condition [B, n_hidden, T]."""

    def __init__(self, n_mels: int = 128, n_layers: int = 20, n_chans: int = 512, n_hidden: int = 256) -> None:
        super().__init__()
        self.input_projection = nn.Conv1d(n_mels, n_chans, 1)
        self.mlp = nn.Sequential(nn.Linear(n_chans, 4 * n_chans), nn.Mish(), nn.Linear(4 * n_chans, n_chans))
        self.residual_layers = nn.ModuleList(ResidualLayer(n_chans, n_hidden) for _ in range(n_layers))
        self.skip_projection = nn.Conv1d(n_chans, n_chans, 1)
        self.output_projection = nn.Conv1d(n_chans, n_mels, 1)
        for conv in (self.input_projection, self.skip_projection):
            nn.init.kaiming_normal_(conv.weight)
        nn.init.zeros_(self.output_projection.weight)  # an untrained model predicts no noise, as in DiffWave

    def forward(self, x: Tensor, step: Tensor, condition: Tensor) -> Tensor:
        """Noise [B, 1, n_mels, T] at ``step`` [B]."""
        return self.denoise(x, step, self.project(condition))

    def project(self, condition: Tensor) -> Projections:
        """What the condition [B, n_hidden, T] adds in each layer: computed once, used at every step."""
        condition = condition.to(self.input_projection.weight.dtype)
        layers = cast(list[ResidualLayer], list(self.residual_layers))
        return [layer.conditioner_projection(condition) for layer in layers]

    def denoise(self, x: Tensor, step: Tensor, projections: Projections) -> Tensor:
        """As forward, with the condition already projected; computes in the weights' dtype, returns x's."""
        weight = self.input_projection.weight
        hidden = F.relu(self.input_projection(x.squeeze(1).to(weight.dtype)))
        embedding = self.mlp(step_embedding(step, weight.shape[0]).to(weight.dtype))
        skips = torch.zeros_like(hidden)
        for layer, projection in zip(self.residual_layers, projections, strict=True):
            hidden, skip = layer(hidden, embedding, projection)
            skips = skips + skip
        skips = skips / math.sqrt(len(self.residual_layers))
        noise = self.output_projection(F.relu(self.skip_projection(skips)))
        return noise.unsqueeze(1).to(x.dtype)


class ResidualLayer(nn.Module):
    """A gated convolution over [B, n_chans, T] with a residual and a skip output."""

    def __init__(self, n_chans: int, n_hidden: int) -> None:
        super().__init__()
        self.dilated_conv = nn.Conv1d(n_chans, 2 * n_chans, 3, padding=1)
        self.diffusion_projection = nn.Linear(n_chans, n_chans)
        self.conditioner_projection = nn.Conv1d(n_hidden, 2 * n_chans, 1)
        self.output_projection = nn.Conv1d(n_chans, 2 * n_chans, 1)
        nn.init.kaiming_normal_(self.dilated_conv.weight)
        nn.init.kaiming_normal_(self.conditioner_projection.weight)
        nn.init.kaiming_normal_(self.output_projection.weight)

    def forward(self, hidden: Tensor, embedding: Tensor, projection: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden of the next layer and skip, both [B, n_chans, T]."""
        stepped = hidden + self.diffusion_projection(embedding).unsqueeze(-1)
        gate, signal = (self.dilated_conv(stepped) + projection).chunk(2, dim=1)
        residual, skip = self.output_projection(torch.sigmoid(gate) * torch.tanh(signal)).chunk(2, dim=1)
        return (hidden + residual) / math.sqrt(2), skip


def step_embedding(step: Tensor, width: int) -> Tensor:
    """Sines and cosines [B, width] of ``step`` [B], which may be fractional (arXiv 1706.03762, section 3.5)."""
    half = width // 2
    rates = torch.exp(torch.arange(half, device=step.device) * (-math.log(10000) / (half - 1)))
    angles = step.to(torch.float32).unsqueeze(-1) * rates
    return torch.cat((angles.sin(), angles.cos()), dim=-1)
