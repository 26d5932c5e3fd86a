"""A dataset and a config so small that training runs in seconds: a few voice-like clips with their features."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from modules.audio.spectrogram import spec_to_mel, spectrogram
from modules.audio.volume import volume
from modules.config import Config
from modules.data import features
from modules.data.features import FeaturePaths
from tests.parity import signals

SAMPLE_RATE, HOP, N_FFT = 44100, 512, 2048
UNIT_CHANNELS = 16
SPEAKERS = {"alice": 0, "bob": 1}


def tiny_config(train: Mapping[str, Any] | None = None, model: Mapping[str, Any] | None = None) -> Config:
    """A config whose networks have about 0.5 million parameters; ``train`` and ``model`` change it."""
    tiny_model = {
        "inter_channels": 16,
        "hidden_channels": 16,
        "filter_channels": 32,
        "n_layers": 1,
        "p_dropout": 0.1,
        "upsample_initial_channel": 32,
        "resblock_kernel_sizes": [3],
        "resblock_dilation_sizes": [[1, 3, 5]],
        "gin_channels": 16,
        "n_flow_layer": 2,
        "n_layers_trans_flow": 1,
        "ssl_dim": UNIT_CHANNELS,
        "n_speakers": len(SPEAKERS),
        "discriminator_width": 0.0625,
    }
    tiny_train = {
        "log_interval": 2,
        "eval_interval": 4,
        "batch_size": 2,
        "segment_size": 8 * HOP,
        "learning_rate": 1e-3,
        "max_speclen": 60,
    }
    return Config.model_validate(
        {
            "train": {**tiny_train, **(train or {})},
            "data": {"unit_interpolate_mode": "nearest"},
            "model": {**tiny_model, **(model or {})},
            "spk": SPEAKERS,
        }
    )


def write_clip(wav: Path, seconds: float, seed: int) -> None:
    """A wav of int16 and its features; the units are a pooled mel, so that there is something to learn."""
    wav.parent.mkdir(parents=True, exist_ok=True)
    audio = _sing(seconds, seed)
    soundfile.write(wav, audio, SAMPLE_RATE, subtype="PCM_16")
    write_features(wav, audio)


@functools.lru_cache
def _sing(seconds: float, seed: int) -> np.ndarray:
    base = 160 + 25 * seed
    return signals.voice_like(SAMPLE_RATE, seconds, [base, base * 1.2, base * 1.1, -1, base * 0.9, base], seed=seed)


def write_features(wav: Path, audio: np.ndarray) -> None:
    """The features of ``audio`` under the names of ``wav``."""
    paths = FeaturePaths.of(wav)
    spec = spectrogram(torch.from_numpy(audio)[None], N_FFT, HOP, N_FFT)
    mel = spec_to_mel(spec, n_fft=N_FFT, n_mels=UNIT_CHANNELS, sample_rate=SAMPLE_RATE, fmin=0, fmax=None)
    frames = spec.shape[-1]
    loudness = volume(audio, HOP)
    voiced = (loudness > 0.05).astype(np.float32)
    f0 = signals.f0_curve(frames, seed=len(audio) % 7)
    features.save_units(paths.units, torch.nn.functional.interpolate(mel, size=frames * 50 * HOP // SAMPLE_RATE) / 5)
    features.save_f0(paths.f0, f0, voiced)
    features.save_spec(paths.spec, spec[0])
    features.save_volume(paths.volume, loudness)


def make_dataset(root: Path, config: Config, seconds: tuple[float, ...] = (0.9, 0.7, 0.8)) -> Path:
    """Clips for training, one more of each speaker for validation, lists and config.json; returns the config's path."""
    training, validation = [], []
    for speaker, speaker_id in SPEAKERS.items():
        for number, length in enumerate((*seconds, 0.6)):
            wav = root / "dataset/44k" / speaker / f"{number}.wav"
            write_clip(wav, length, seed=4 * speaker_id + number)
            (validation if number == len(seconds) else training).append(wav)
    config.data.training_files, config.data.validation_files = (
        str(write_list(root / f"filelists/{name}.txt", wavs))
        for name, wavs in (("train", training), ("val", validation))
    )
    path = root / "configs/config.json"
    config.save(path)
    return path


def write_list(path: Path, wavs: list[Path]) -> Path:
    """A file list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{wav.as_posix()}\n" for wav in wavs), encoding="utf-8")
    return path
