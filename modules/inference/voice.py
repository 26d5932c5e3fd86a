"""The networks of a conversion: loaded once, then one window of audio after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import models
from modules import checkpoint
from modules.audio.volume import volume
from modules.config import Config, load_config, parse_config
from modules.devices import forget_convolution_lengths, pick_device
from modules.errors import UserError
from modules.inference.diffusion import (
    DiffusionVoice,
    ShallowDiffusion,
    load_engine,
    load_vocoder,
    refuse_another_front,
    refuse_other_frames,
)
from modules.inference.engines import Refiner, UnitsBlender
from modules.inference.enhancer import DEFAULT_VOCODER, Enhancer
from modules.inference.hearing import Hearing
from modules.inference.options import InferenceOptions, ModelOptions
from modules.inference.windows import WindowInput, fit
from vencoder import get_encoder
from vencoder.encoder import SpeechEncoder


@dataclass
class Voice(Hearing):
    """A loaded model and its speech encoder.

    Attributes:
        config: the model's config.
        model: prepared for inference on ``device``.
        encoder: the speech encoder that the model was trained with.
        options: what was asked for when loading; names the files that are loaded when first needed.
        refiners: run over the generator's audio, in order.
    """

    config: Config
    model: models.SynthesizerTrn
    encoder: SpeechEncoder
    device: torch.device
    options: ModelOptions = field(default_factory=ModelOptions)
    refiners: Sequence[Refiner] = ()
    _blender: UnitsBlender | None = None

    @property
    def sample_rate(self) -> int:
        return self.config.data.sampling_rate

    @property
    def hop_length(self) -> int:
        return self.config.data.hop_length

    @property
    def speakers(self) -> dict[str, int]:
        return dict(self.config.spk)

    @property
    def n_speakers(self) -> int:
        return self.config.model.n_speakers

    @property
    def interpolate_mode(self) -> str:
        return self.config.data.unit_interpolate_mode

    def check(self, options: InferenceOptions) -> None:
        """Refuse second encoding without shallow diffusion, and what the refiners cannot do. Raises UserError."""
        if options.second_encoding and not self.options.shallow_diffusion:
            fix = "add --shallow_diffusion, or leave the flag out"
            raise UserError("second encoding is a part of shallow diffusion", "--second_encoding", fix)
        super().check(options)

    def render(self, window: WindowInput, options: InferenceOptions) -> np.ndarray:
        """Sing a window in the other voice.

        Returns:
            float32 [T * hop_length].
        """
        with torch.inference_mode():
            n_frames = len(window.f0)
            units = self._units(window, n_frames, options)
            f0, uv = (self._tensor(values)[None] for values in (window.f0, window.uv))
            loudness = None
            if self.config.model.vol_embedding:
                loudness = self._tensor(fit(volume(window.audio, self.hop_length), n_frames))[None]
            speaker = self._speaker(window)
            audio, f0 = self.model.infer(
                units,
                f0,
                uv,
                speaker,
                volume=loudness,
                noise_scale=options.noise_scale,
                predict_f0=options.auto_predict_f0,
                seed=options.seed,
            )
            return self.finish(audio[0].float(), units, f0, speaker, window, options)


def load_voice(options: ModelOptions, pretrain_dir: Path = Path("pretrain")) -> Voice | DiffusionVoice:
    """Load config, model, speech encoder, and what refines the result.

    Raises:
        UserError: a file is missing or broken, or config and model do not belong together.
    """
    forget_convolution_lengths()
    if options.only_diffusion:
        return _load_diffusion_voice(options, pretrain_dir)
    config, weights = _read(options)
    device = pick_device(options.device)
    model = models.SynthesizerTrn(
        config.spec_channels, config.segment_frames, with_posterior=False, **config.model.model_dump()
    )
    checkpoint.load_into(model, weights, options.model_path, ignore=("enc_q.",))
    del weights
    model = models.prepare_for_inference(model, device, options.precision)
    encoder = _load_encoder(config.model.speech_encoder, device, options, pretrain_dir)
    if encoder.width != config.model.ssl_dim:
        raise UserError(
            f"{config.model.speech_encoder} gives {encoder.width} channels, the model takes {config.model.ssl_dim}",
            f"{options.config_path}, keys model.speech_encoder, model.ssl_dim",
            "write the encoder that the model was trained with into the config",
        )
    voice = Voice(config, model, encoder, device, options)
    if options.shallow_diffusion:
        engine = load_engine(options, device, pretrain_dir, _vocoder_precision(options, device))
        refuse_another_front(engine, config, options)
        encode = lambda audio, n_frames: voice.stretch(voice.encode(audio), n_frames)  # noqa: E731
        voice.refiners = (ShallowDiffusion(engine, config.spk, encode),)
    elif options.enhance:
        voice.refiners = (_load_enhancer(voice, pretrain_dir),)
    return voice


def _load_diffusion_voice(options: ModelOptions, pretrain_dir: Path) -> DiffusionVoice:
    device = pick_device(options.device)
    engine = load_engine(options, device, pretrain_dir, _vocoder_precision(options, device))
    engine.model.check_k_step(1, shallow=False)
    data = engine.config.data
    encoder = _load_encoder(data.encoder, device, options, pretrain_dir)
    if encoder.width != data.encoder_out_channels:
        raise UserError(
            f"{data.encoder} gives {encoder.width} channels, the model takes {data.encoder_out_channels}",
            f"{options.diffusion_config_path}, keys data.encoder, data.encoder_out_channels",
            "write the encoder that the model was trained with into the config",
        )
    voice = DiffusionVoice(engine, encoder, device, options)
    if options.enhance:
        voice.refiners = (_load_enhancer(voice, pretrain_dir),)
    return voice


def _load_encoder(name: str, device: torch.device, options: ModelOptions, pretrain_dir: Path) -> SpeechEncoder:
    return get_encoder(
        name,
        device=str(device),
        pretrain_dir=pretrain_dir,
        precision="fp32" if options.precision == "fp32" else "auto",
    )


def _load_enhancer(voice: Hearing, pretrain_dir: Path) -> Enhancer:
    dtype = _vocoder_precision(voice.options, voice.device)
    vocoder = load_vocoder(DEFAULT_VOCODER, "nsf-hifigan", voice.device, pretrain_dir, dtype)
    refuse_other_frames(vocoder, voice.sample_rate, voice.hop_length, DEFAULT_VOCODER)
    return Enhancer(vocoder)


def _vocoder_precision(options: ModelOptions, device: torch.device) -> torch.dtype:
    """The vocoder is a decoder like the model's own, and bears the same."""
    return models.best_precision(device) if options.precision == "auto" else models.PRECISIONS[options.precision]


def _read(options: ModelOptions) -> tuple[Config, dict[str, Tensor]]:
    """The config, from its file or from a .safetensors model that carries it, and the weights."""
    if not options.model_path.is_file():
        raise UserError("there is no such model", options.model_path, "give the path of a G_<step>.pth with -m")
    is_safetensors = options.model_path.suffix == ".safetensors"
    embedded = checkpoint.safetensors_metadata(options.model_path).get("config") if is_safetensors else None
    if embedded is not None and options.config_path == ModelOptions().config_path:
        config = parse_config(embedded, options.model_path)
    else:
        config = load_config(options.config_path)
    return config, checkpoint.model_state(checkpoint.load(options.model_path), options.model_path)
