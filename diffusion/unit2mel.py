"""Unit2Mel: speech units, pitch, volume and speaker in, the mel of a vocoder out."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from diffusion.denoiser import WaveNet
from diffusion.gaussian import GaussianDiffusion
from diffusion.schedule import Track, check_k_step
from modules import checkpoint
from modules.config import DiffusionConfig
from modules.devices import DTYPES, fastest_dtype
from modules.nn.size import check_size

N_MELS = 128  # bins of the NSF-HiFiGAN mel
SHIFT_SCALE = 5.0  # semitones; the largest key shift of the augmentation


class Unit2Mel(nn.Module):
    """The conditions' embeddings and the diffusion decoder.

    Args:
        input_channel: width of the speech units.
        n_spk: speakers; one speaker has no embedding.
        use_pitch_aug: whether the model knows the key shift of its training mels.
        out_dims: mel bins.
        n_layers, n_chans, n_hidden: sizes of the denoiser and of the condition.
        timesteps: length of the diffusion chain.
        k_step_max: steps that are trained; 0 or ``timesteps`` trains all, less makes a shallow-only model.
    """

    def __init__(
        self,
        input_channel: int,
        n_spk: int = 1,
        use_pitch_aug: bool = False,
        out_dims: int = N_MELS,
        n_layers: int = 20,
        n_chans: int = 512,
        n_hidden: int = 256,
        timesteps: int = 1000,
        k_step_max: int = 0,
    ) -> None:
        super().__init__()
        self.timesteps = timesteps
        self.k_step_max = k_step_max if 0 < k_step_max < timesteps else timesteps
        self.unit_embed = nn.Linear(input_channel, n_hidden)
        self.f0_embed = nn.Linear(1, n_hidden)
        self.volume_embed = nn.Linear(1, n_hidden)
        self.aug_shift_embed = nn.Linear(1, n_hidden, bias=False) if use_pitch_aug else None
        self.spk_embed = nn.Embedding(n_spk, n_hidden) if n_spk > 1 else None
        denoiser = WaveNet(out_dims, n_layers, n_chans, n_hidden)
        self.decoder = GaussianDiffusion(denoiser, timesteps, self.k_step_max)

    @property
    def shallow_only(self) -> bool:
        """Whether the model was trained on the last steps only, so that it needs a mel to start from."""
        return self.k_step_max < self.timesteps

    def condition(
        self, units: Tensor, f0: Tensor, volume: Tensor, speaker: Tensor, aug_shift: Tensor | None = None
    ) -> Tensor:
        """The sum of all embeddings, [B, T, n_hidden].

        Args:
            units: [B, T, input_channel].
            f0: Hz, [B, T, 1].
            volume: RMS, [B, T, 1].
            speaker: ids, int64 [B] or [B, 1], or weights for each frame, float [T, n_spk] or [B, T, n_spk].
            aug_shift: semitones, [B, 1, 1]; none where the pitch was not shifted.
        """
        total = self.unit_embed(units) + self.f0_embed(torch.log1p(f0 / 700)) + self.volume_embed(volume)
        if self.spk_embed is not None:
            total = total + self._speaker_embedding(speaker)
        if self.aug_shift_embed is not None and aug_shift is not None:
            total = total + self.aug_shift_embed(aug_shift / SHIFT_SCALE)
        return total

    def _speaker_embedding(self, speaker: Tensor) -> Tensor:
        """[B, 1, n_hidden] for ids, [B or 1, T or 1, n_hidden] for weights."""
        assert self.spk_embed is not None
        table = self.spk_embed.weight
        if speaker.is_floating_point():
            mixed = speaker.to(table) @ table
            return mixed if mixed.dim() == 3 else mixed.unsqueeze(0)
        return self.spk_embed(speaker.to(table.device).view(-1, 1))

    def forward(
        self,
        units: Tensor,
        f0: Tensor,
        volume: Tensor,
        speaker: Tensor,
        mel: Tensor,
        aug_shift: Tensor | None = None,
        step: Tensor | None = None,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The training loss for log mel [B, T, M]; the rest as in ``condition`` and GaussianDiffusion.loss."""
        condition = self.condition(units, f0, volume, speaker, aug_shift).transpose(1, 2)
        return self.decoder.loss(mel, condition, step, noise, generator)

    def check_k_step(self, k_step: int, shallow: bool) -> None:
        """Refuse what the model was not trained for.

        Raises:
            UserError: diffusion alone is asked of a shallow-only model, or more steps than it was trained on.
        """
        check_k_step(k_step, self.k_step_max, self.timesteps, shallow)

    @torch.inference_mode()
    def infer(
        self,
        units: Tensor,
        f0: Tensor,
        volume: Tensor,
        speaker: Tensor,
        source_mel: Tensor | None = None,
        k_step: int = 100,
        speedup: int = 10,
        method: str | None = "dpm-solver++",
        aug_shift: Tensor | None = None,
        generator: torch.Generator | None = None,
        track: Track = iter,
    ) -> Tensor:
        """Log mel [B, T, M].

        Args:
            source_mel: log mel [B, T, M] that is noised to ``k_step`` steps and denoised again (shallow diffusion);
                without it the mel is made from noise, over all steps.
            speedup: steps passed over at once; 1 takes every step by ancestral sampling.
            method: a name of diffusion.samplers.SAMPLERS.
            generator: where the noise comes from. A generator with the same seed gives the same mel.
            track: goes through the steps; a progress bar fits here.

        Raises:
            UserError: see check_k_step.
        """
        self.check_k_step(k_step, shallow=source_mel is not None)
        condition = self.condition(units, f0, volume, speaker, aug_shift).transpose(1, 2)
        return self.decoder.sample(condition, source_mel, k_step, speedup, method, generator, track)

    def set_precision(self, dtype: torch.dtype) -> Unit2Mel:
        """Let the denoiser compute in ``dtype``; the conditions and the chain stay in float32."""
        self.decoder.denoise_fn.to(dtype)
        return self


def build_unit2mel(config: DiffusionConfig) -> Unit2Mel:
    """The untrained model that diffusion.yaml describes. Raises UserError where no machine could train it."""
    sizes = config.model
    make = partial(
        Unit2Mel,
        config.data.encoder_out_channels,
        n_spk=sizes.n_spk,
        use_pitch_aug=sizes.use_pitch_aug,
        n_layers=sizes.n_layers,
        n_chans=sizes.n_chans,
        n_hidden=sizes.n_hidden,
        timesteps=sizes.timesteps,
        k_step_max=sizes.k_step_max,
    )
    check_size(sizes, make)
    return make()


def load_unit2mel(
    path: str | Path, config: DiffusionConfig, device: str | torch.device = "cpu", precision: str = "auto"
) -> Unit2Mel:
    """A trained model, ready to sample.

    Args:
        precision: of the denoiser: fp32, bf16, fp16, or auto: the 16-bit type that the device multiplies natively,
            where it has one. In bfloat16 the mel stays within 0.01 of fp32 in normalised units (docs/diffusion.md).

    Raises:
        UserError: the file is missing or broken, or is not of this config.
    """
    model = build_unit2mel(config)
    checkpoint.load_into(model, checkpoint.model_state(checkpoint.load(path), path), path)
    model.to(device).eval().requires_grad_(False)
    dtype = fastest_dtype(torch.device(device), wide_range=True) if precision == "auto" else DTYPES[precision]
    return model.set_precision(dtype)
