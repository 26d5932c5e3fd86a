"""A diffusion model, a vocoder and clips so small that training runs in seconds."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import soundfile
import torch

from modules.config import DiffusionConfig
from modules.data.features import FeaturePaths
from modules.data.preprocess_features import make_mels, save_mels
from tests.test_mel_vocoder import write_vocoder
from tests.tiny_voice import HOP, SPEAKERS, UNIT_CHANNELS, write_clip, write_list
from vdecoder.mel_vocoder import MelExtractor


def tiny_diffusion_config(
    train: Mapping[str, Any] | None = None, model: Mapping[str, Any] | None = None
) -> DiffusionConfig:
    """A config whose model has a few thousand parameters; ``train`` and ``model`` change it."""
    sizes = {"n_layers": 2, "n_chans": 16, "n_hidden": 8, "timesteps": 50, "n_spk": len(SPEAKERS)}
    steps = {"batch_size": 2, "interval_log": 2, "interval_val": 4, "interval_force_save": 8, "lr": 1e-3}
    return DiffusionConfig.model_validate(
        {
            "data": {"duration": 0.5, "encoder_out_channels": UNIT_CHANNELS, "unit_interpolate_mode": "nearest"},
            "model": {**sizes, **(model or {})},
            "device": "cpu",
            "infer": {"speedup": 10, "method": "unipc"},
            "train": {**steps, "num_workers": 0, **(train or {})},
            "spk": SPEAKERS,
        }
    )


def write_diffusion_clip(wav: Path, seconds: float, seed: int, extractor: MelExtractor) -> None:
    """A wav with all features that diffusion needs."""
    write_clip(wav, seconds, seed)
    write_mels(wav, extractor, random.Random(seed))


def write_mels(wav: Path, extractor: MelExtractor, rng: random.Random) -> None:
    """The mel features of a wav."""
    audio, _ = soundfile.read(wav, dtype="float32")
    save_mels(FeaturePaths.of(wav), make_mels(audio, extractor, HOP, rng, torch.device("cpu")))


def make_diffusion_dataset(root: Path, config: DiffusionConfig, seconds: tuple[float, ...] = (0.9, 0.7, 0.8)) -> Path:
    """Clips, one more of each speaker for validation, lists, vocoder and diffusion.yaml; returns the config's path."""
    config.vocoder.ckpt = str(write_vocoder(root / "pretrain/nsf_hifigan"))
    config.env.expdir = str(root / "logs/44k/diffusion")
    extractor = MelExtractor.load(config.vocoder.ckpt)
    lists: dict[str, list[Path]] = {"train": [], "val": []}
    for speaker, speaker_id in SPEAKERS.items():
        for number, length in enumerate((*seconds, 0.65)):
            wav = root / "dataset/44k" / speaker / f"{number}.wav"
            write_diffusion_clip(wav, length, 4 * speaker_id + number, extractor)
            lists["val" if number == len(seconds) else "train"].append(wav)
    config.data.training_files, config.data.validation_files = (
        str(write_list(root / f"filelists/{name}.txt", wavs)) for name, wavs in lists.items()
    )
    path = root / "configs/diffusion.yaml"
    config.save(path)
    return path
