"""How well the generator does on clips it was not trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models import SynthesizerTrn
from modules.audio.resample import SPEECH_RATE, resample
from modules.audio.spectrogram import mel_spectrogram, spec_to_mel
from modules.config import Config, DataSection
from modules.data.dataset import Batch, Clip, collate
from modules.errors import UserError
from modules.evaluation.ge2e import WEIGHT, Ge2eEncoder
from modules.evaluation.melody import compare_melodies
from modules.f0 import F0Contour, get_predictor
from modules.training.distributed import Ranks
from pretrain import find

MAX_CLIPS = 32  # enough for a steady mean; more would keep the training waiting
SAMPLES = 3  # clips whose audio and mel are shown
MEASURED = 8  # clips whose melody and voice are measured; by far the cheaper part, and it tells less
REFERENCE_PREDICTOR = "pm"  # finds f0 on the CPU in a hundredth of the clip's length
HIGHER_IS_BETTER = {"val/mel_distance": False, "val/f0_cents": False, "val/speaker_similarity": True}


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


class Evaluation(NamedTuple):
    """What the generator makes of the held-out clips.

    Attributes:
        distance: mean L1 distance of log-mels over all clips.
        figures: by the name they have in the log: that distance; the median f0 error in cents and, where the weights
            of the speaker encoder are there, the similarity of the voice, both means over the first MEASURED clips.
        samples: the first clips, to look at.
    """

    distance: float
    figures: dict[str, float]
    samples: list[Sample]


@dataclass
class HeldOutMetrics:
    """Measures melody and voice of what the generator makes of a clip; remembers those of the recordings.

    Args:
        data: rate and hop of the clips.
        encoder: of speakers; None leaves the voice out.
    """

    data: DataSection
    encoder: Ge2eEncoder | None = None
    _recorded: dict[int, tuple[F0Contour, np.ndarray | None]] = field(default_factory=dict)

    @classmethod
    def load(cls, data: DataSection, pretrain_dir: Path = Path("pretrain")) -> HeldOutMetrics:
        """With the speaker encoder where its weights are there and whole; nothing is fetched for it."""
        if find(WEIGHT, pretrain_dir) is None:
            return cls(data)
        try:
            return cls(data, Ge2eEncoder.load("cpu", pretrain_dir))
        except UserError as error:
            print(f"the similarity of the voice is not measured: {error}", flush=True)
            return cls(data)

    def compare(self, number: int, sample: Sample) -> tuple[float, float]:
        """Median f0 error in cents and cosine of the speaker vectors of clip ``number``; NaN where there is none."""
        if number not in self._recorded:
            self._recorded[number] = self._analyse(sample.audio.numpy())
        (recorded, voice), (generated, other) = self._recorded[number], self._analyse(sample.generated.numpy())
        cents = compare_melodies(recorded, generated, 0.0).median_cents
        known = voice is not None and other is not None
        return cents, float(np.dot(voice, other)) if known else math.nan  # type: ignore[arg-type]

    def _analyse(self, audio: np.ndarray) -> tuple[F0Contour, np.ndarray | None]:
        rate = self.data.sampling_rate
        predictor = get_predictor(REFERENCE_PREDICTOR, hop_length=self.data.hop_length, sample_rate=rate)
        vector = None if self.encoder is None else self.encoder.embed(resample(audio, rate, SPEECH_RATE))
        return predictor(np.nan_to_num(audio)), vector


def evaluate(
    generator: SynthesizerTrn,
    clips: Sequence[Clip],
    config: Config,
    ranks: Ranks,
    metrics: HeldOutMetrics | None = None,
) -> Evaluation:
    """Run the generator on the held-out ``clips`` and compare with the recordings.

    Deterministic: the clips are whole and always the same, ``infer`` draws from a generator of its own, and the
    random numbers of training are not touched. Each rank takes its share of the clips.
    """
    generator.eval()
    distances: list[float] = []
    compared: list[tuple[float, float]] = []
    samples: list[Sample] = []
    for number in range(ranks.rank, len(clips), ranks.world_size):
        batch = collate([clips[number]]).to(ranks.device)
        sample = _convert(generator, batch, config.data)
        distances.append(float((sample.mel - sample.generated_mel).abs().mean()))
        if metrics is not None and number < MEASURED:
            compared.append(metrics.compare(number, sample))
        if len(samples) < SAMPLES:
            samples.append(sample)
    generator.train()
    columns = [distances, [cents for cents, _ in compared], [likeness for _, likeness in compared]]
    known = [[value for value in column if math.isfinite(value)] for column in columns[1:]]
    sums = [value for column in (distances, *known) for value in (sum(column), len(column))]
    means = [total / count if count else math.nan for total, count in zip(*[iter(ranks.total(sums))] * 2, strict=True)]
    figures = {name: mean for name, mean in zip(HIGHER_IS_BETTER, means, strict=True) if not math.isnan(mean)}
    return Evaluation(means[0], {"val/mel_distance": means[0], **figures}, samples)


class Plateau:
    """Notices when no figure has been better than ever before for a number of evaluations.

    Args:
        patience: that number.
        best_distance: the lowest mel distance of the run before this process.
    """

    def __init__(self, patience: int, best_distance: float = math.inf) -> None:
        self.patience = patience
        self.waiting = 0  # evaluations since something was better than ever
        self._best = {"val/mel_distance": -best_distance}

    def see(self, figures: Mapping[str, float]) -> bool:
        """Take in an evaluation; tells whether ``patience`` of them, or a multiple, have brought nothing."""
        better = False
        for name, value in figures.items():
            score = value if HIGHER_IS_BETTER[name] else -value
            if score > self._best.get(name, -math.inf):
                self._best[name], better = score, True
        self.waiting = 0 if better else self.waiting + 1
        return self.waiting > 0 and self.waiting % self.patience == 0


@torch.inference_mode()
def _convert(generator: SynthesizerTrn, batch: Batch, data: DataSection) -> Sample:
    generated, _ = generator.infer(batch.units, batch.f0, batch.uv, g=batch.speaker, volume=batch.volume)
    generated = generated[:, 0].float()
    mels = mel_of_spec(batch.spec, data), mel_of_audio(generated, data)
    return Sample(*(tensor[0].float().cpu() for tensor in (batch.audio[:, 0], generated, *mels)))
