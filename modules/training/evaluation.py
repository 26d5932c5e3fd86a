"""How well the generator sings clips it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from models import SynthesizerTrn
from modules.audio.spectrogram import mel_spectrogram, spec_to_mel
from modules.config import Config, DataSection
from modules.data.dataset import Batch, Clip, collate
from modules.training.distributed import Ranks

MAX_CLIPS = 32  # enough for a steady mean; more would keep the training waiting
SAMPLES = 3  # clips whose audio and mel are shown


class Sample(NamedTuple):
    """A held-out clip and what the generator makes of it, on the CPU."""

    audio: Tensor  # [T * hop]
    generated: Tensor  # [T * hop]
    mel: Tensor  # [n_mels, T]
    generated_mel: Tensor  # [n_mels, T]


def choose_clips(count: int) -> list[int]:
    """Indices of at most MAX_CLIPS of ``count`` clips, spread over the whole list; the same ones every time."""
    return sorted({index * count // min(count, MAX_CLIPS) for index in range(min(count, MAX_CLIPS))})


def mel_of_spec(spec: Tensor, data: DataSection) -> Tensor:
    """Log-mel [B, n_mels, T] of a linear spectrogram [B, F, T], with the settings of the config."""
    return spec_to_mel(
        spec,
        n_fft=data.filter_length,
        n_mels=data.n_mel_channels,
        sample_rate=data.sampling_rate,
        fmin=data.mel_fmin,
        fmax=data.mel_fmax,
    )


def mel_of_audio(audio: Tensor, data: DataSection) -> Tensor:
    """Log-mel [B, n_mels, T // hop] of audio [B, T], with the settings of the config."""
    return mel_spectrogram(
        audio,
        n_fft=data.filter_length,
        n_mels=data.n_mel_channels,
        sample_rate=data.sampling_rate,
        hop_length=data.hop_length,
        win_length=data.win_length,
        fmin=data.mel_fmin,
        fmax=data.mel_fmax,
    )


def evaluate(
    generator: SynthesizerTrn, clips: Sequence[Clip], config: Config, ranks: Ranks
) -> tuple[float, list[Sample]]:
    """The mean L1 distance of log-mels over the held-out ``clips``, and the first few of them to look at.

    Deterministic: the clips are whole and always the same, ``infer`` draws from a generator of its own, and the
    random numbers of training are not touched. Each rank takes its share of the clips.
    """
    generator.eval()
    distances: list[float] = []
    samples: list[Sample] = []
    for clip in clips[ranks.rank :: ranks.world_size]:
        batch = collate([clip]).to(ranks.device)
        sample = _sing(generator, batch, config.data)
        distances.append(float((sample.mel - sample.generated_mel).abs().mean()))
        if len(samples) < SAMPLES:
            samples.append(sample)
    generator.train()
    total, count = ranks.total([sum(distances), len(distances)])
    return total / count, samples


@torch.inference_mode()
def _sing(generator: SynthesizerTrn, batch: Batch, data: DataSection) -> Sample:
    generated, _ = generator.infer(batch.units, batch.f0, batch.uv, g=batch.speaker, volume=batch.volume)
    generated = generated[:, 0].float()
    mels = mel_of_spec(batch.spec, data), mel_of_audio(generated, data)
    return Sample(*(tensor[0].float().cpu() for tensor in (batch.audio[:, 0], generated, *mels)))
