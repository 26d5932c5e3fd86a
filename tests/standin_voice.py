"""Voices for tests of the conversion: one that sings what it hears, and a small real model with its files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import compress_model
import models
from modules import checkpoint
from modules.config import Config
from modules.inference.options import InferenceOptions
from modules.inference.pitch import PitchFinder
from modules.inference.svc import Svc
from modules.inference.windows import WindowInput
from pretrain import BASE_DISCRIMINATOR, BASE_GENERATOR, BASE_POSTERIOR
from tests.tiny_voice import tiny_config
from vencoder.whisper import sinusoids

RATE, HOP = 44100, 512
WIDTH = 384  # of whisper-ppg-tiny


class Identity:
    """Gives back what it hears, and remembers what that was."""

    sample_rate = RATE
    hop_length = HOP
    speakers = {"alice": 0, "bob": 1}
    n_speakers = 3

    def __init__(self) -> None:
        self.heard: list[WindowInput] = []

    def check(self, options: InferenceOptions) -> None:
        pass

    def render(self, window: WindowInput, options: InferenceOptions) -> np.ndarray:
        self.heard.append(window)
        assert len(window.f0) == len(window.uv)
        return window.audio[: len(window.f0) * HOP].copy()


class Harmonics(Identity):
    """Sings five partials of the f0 it is given, beginning every window at phase 0 as the excitation does."""

    def render(self, window: WindowInput, options: InferenceOptions) -> np.ndarray:
        self.heard.append(window)
        phase = 2 * np.pi * np.cumsum(np.repeat(window.f0, HOP)) / RATE
        return (0.1 * sum(np.sin(partial * phase) for partial in range(1, 6))).astype(np.float32)


def identity_svc() -> tuple[Svc, Identity]:
    """An Svc whose model is the identity."""
    voice = Identity()
    return Svc(voice, PitchFinder(RATE, HOP)), voice


class StandInEncoder:
    """Gives units of any width at once."""

    def __init__(self, width: int) -> None:
        self.width = width

    def encode(self, audio: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(3)
        return torch.randn(1, self.width, max(1, len(audio) // 320), generator=generator)


def small_config(**model: Any) -> Config:
    """A config of about half a million parameters for the units of whisper-ppg-tiny."""
    return tiny_config(model={"ssl_dim": WIDTH, "speech_encoder": "whisper-ppg-tiny", **model})


def small_model(config: Config, seed: int = 0) -> models.SynthesizerTrn:
    """The model of a config with random weights, none zero, so that every input matters."""
    torch.manual_seed(seed)
    model = models.build(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        model.emb_g.weight.mul_(5)
    return model


def write_model(folder: Path, config: Config | None = None, name: str = "G_1.pth", **extra: Any) -> Path:
    """A checkpoint as training leaves it, and config.json beside it; returns the checkpoint."""
    config = config or small_config()
    folder.mkdir(parents=True, exist_ok=True)
    state = small_model(config).state_dict()
    torch.save({"model": state, "iteration": 1, "optimizer": None, "learning_rate": 1e-4, **extra}, folder / name)
    config.save(folder / "config.json")
    return folder / name


def write_base(
    folder: Path, config: Config, speakers: Mapping[str, int], *, posterior: bool = True, discriminator: bool = True
) -> Path:
    """A base model of random weights as compress_model.py writes it, for ``speakers``; returns the folder."""
    config.spk, config.model.n_speakers = dict(speakers), max(speakers.values()) + 1
    config.save(folder / "config.json")
    source = folder / "G_5.pth"
    checkpoint.save({"model": small_model(config, seed=9).state_dict(), "iteration": 1}, source)
    flags = ["-i", str(source), "-o", str(folder / BASE_GENERATOR), "--half"]
    if posterior:
        flags += ["--posterior", str(folder / BASE_POSTERIOR)]
    assert compress_model.main(flags) == 0
    source.unlink()
    if discriminator:
        torch.manual_seed(10)
        width = config.model.discriminator_width
        network = models.MultiPeriodDiscriminator(config.model.use_spectral_norm, width=width)
        state = {key: value.half() for key, value in network.state_dict().items()}
        checkpoint.save_safetensors(state, folder / BASE_DISCRIMINATOR, {})
    (folder / "config.json").unlink()
    return folder


def write_encoder(pretrain: Path, width: int = WIDTH, name: str = "tiny.pt") -> Path:
    """A Whisper encoder with one layer of random weights: real in layout, quick to run."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) / max(1, int(np.prod(shape[1:]))) ** 0.5

    block = "encoder.blocks.0"
    state = {
        "encoder.conv1.weight": normal(width, 80, 3),
        "encoder.conv2.weight": normal(width, width, 3),
        "encoder.positional_embedding": sinusoids(1500, width),
        f"{block}.attn.key.weight": normal(width, width),
        f"{block}.mlp.0.weight": normal(4 * width, width),
        f"{block}.mlp.0.bias": torch.zeros(4 * width),
        f"{block}.mlp.2.weight": normal(width, 4 * width),
    }
    for part in ("query", "value", "out"):
        state[f"{block}.attn.{part}.weight"] = normal(width, width)
        state[f"{block}.attn.{part}.bias"] = torch.zeros(width)
    for norm in (f"{block}.attn_ln", f"{block}.mlp_ln", "encoder.ln_post"):
        state[f"{norm}.weight"] = torch.ones(width)
    for key in ("encoder.conv1", "encoder.conv2", f"{block}.mlp.2", f"{block}.attn_ln", f"{block}.mlp_ln"):
        state[f"{key}.bias"] = torch.zeros(width)
    state["encoder.ln_post.bias"] = torch.zeros(width)
    dims = {"n_mels": 80, "n_audio_ctx": 1500, "n_audio_state": width, "n_audio_head": width // 64, "n_audio_layer": 1}
    pretrain.mkdir(parents=True, exist_ok=True)
    torch.save({"dims": dims, "model_state_dict": state}, pretrain / name)
    return pretrain


def sine(seconds: float, frequency: float = 440.0, rate: int = RATE, level: float = 0.4) -> np.ndarray:
    """float32 tone."""
    t = np.arange(round(seconds * rate)) / rate
    return (level * np.sin(2 * np.pi * frequency * t)).astype(np.float32)
