"""The networks of a conversion: loaded once, then one window of audio after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import models
from modules import checkpoint
from modules.audio.loudness import adjust_envelope
from modules.audio.resample import resample
from modules.audio.volume import volume
from modules.config import Config, load_config, parse_config
from modules.data.units import stretch_units
from modules.devices import pick_device
from modules.errors import UserError
from modules.inference.engines import Refiner, UnitsBlender, load_blender
from modules.inference.options import InferenceOptions, ModelOptions, refuse_missing_engines
from vencoder import get_encoder
from vencoder.encoder import SpeechEncoder

ENCODER_RATE = 16000  # Hz


@dataclass(frozen=True)
class WindowInput:
    """What the networks get to see of a song at once.

    Attributes:
        audio: float32 [n] at the model's rate; a little longer than the frames where the song's grid ends.
        f0: [T] Hz, transposed.
        uv: [T] 1 voiced, 0 not.
        speaker: the id of the one who sings, or the shares of all, float32 [T, speakers].
    """

    audio: np.ndarray
    f0: np.ndarray
    uv: np.ndarray
    speaker: int | np.ndarray


@dataclass
class Voice:
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
        """Hz, of input windows and output."""
        return self.config.data.sampling_rate

    @property
    def hop_length(self) -> int:
        """Samples a frame."""
        return self.config.data.hop_length

    @property
    def speakers(self) -> dict[str, int]:
        """Name -> id."""
        return dict(self.config.spk)

    @property
    def n_speakers(self) -> int:
        """Rows of the speaker embedding."""
        return self.config.model.n_speakers

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
            if self.config.model.vol_embedding or self.refiners:
                loudness = self._tensor(_fit(volume(window.audio, self.hop_length), n_frames))[None]
            speaker = self._speaker(window)
            audio, f0 = self.model.infer(
                units,
                f0,
                uv,
                speaker,
                volume=loudness if self.config.model.vol_embedding else None,
                noise_scale=options.noise_scale,
                predict_f0=options.auto_predict_f0,
                seed=options.seed,
            )
            audio = audio[0].float()
            for refiner in self.refiners:
                assert loudness is not None
                audio = refiner.refine(audio, units, f0, loudness, speaker, options)
            out = audio[0].cpu().numpy()
        if options.loudness_envelope_adjustment != 1:
            rate = self.sample_rate
            out = adjust_envelope(window.audio, rate, out, rate, options.loudness_envelope_adjustment)
        return out

    def _units(self, window: WindowInput, n_frames: int, options: InferenceOptions) -> Tensor:
        """[1, dim, T] at the frame rate of the model."""
        audio = resample(window.audio, self.sample_rate, ENCODER_RATE)
        units = self.encoder.encode(torch.from_numpy(audio))[0]
        if options.cluster_infer_ratio:
            units = self._blend(units, window, options.cluster_infer_ratio)
        units = stretch_units(units, n_frames, self.config.data.unit_interpolate_mode)
        return units[None].to(self.device)

    def _blend(self, units: Tensor, window: WindowInput, ratio: float) -> Tensor:
        """Blend units [dim, F] with those of the speaker, or of each speaker by its share."""
        if self._blender is None:
            self._blender = load_blender(self.options, self.config.spk)
        values = units.T.float().cpu().numpy()
        names = {speaker_id: name for name, speaker_id in self.config.spk.items()}
        if isinstance(window.speaker, int):
            blended = self._blender.blend(values, names[window.speaker], ratio)
        else:
            shares = window.speaker[np.arange(len(values)) * len(window.speaker) // len(values)]
            blended = np.zeros_like(values)
            for speaker_id in np.flatnonzero(shares.any(axis=0)):
                blended += shares[:, speaker_id, None] * self._blender.blend(values, names[int(speaker_id)], ratio)
        return torch.from_numpy(blended).T

    def _speaker(self, window: WindowInput) -> Tensor:
        if isinstance(window.speaker, int):
            return torch.tensor([window.speaker], device=self.device)
        return self._tensor(window.speaker)

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(self.device)


def _fit(values: np.ndarray, length: int) -> np.ndarray:
    """Cut at the end, or repeat the last value."""
    return np.pad(values[:length], (0, max(0, length - len(values))), mode="edge")


def load_voice(options: ModelOptions, pretrain_dir: Path = Path("pretrain")) -> Voice:
    """Load config, model and speech encoder.

    Raises:
        UserError: a file is missing or broken, config and model do not belong together, or an option asks for an
            engine that is not there.
    """
    refuse_missing_engines(options, InferenceOptions())
    config, weights = _read(options)
    device = pick_device(options.device)
    model = models.SynthesizerTrn(
        config.spec_channels, config.segment_frames, with_posterior=False, **config.model.model_dump()
    )
    checkpoint.load_into(model, weights, options.model_path, ignore=("enc_q.",))
    del weights
    model = models.prepare_for_inference(model, device, options.precision)
    encoder = get_encoder(
        config.model.speech_encoder,
        device=str(device),
        pretrain_dir=pretrain_dir,
        precision="fp32" if options.precision == "fp32" else "auto",
    )
    if encoder.width != config.model.ssl_dim:
        raise UserError(
            f"{config.model.speech_encoder} gives {encoder.width} channels, the model takes {config.model.ssl_dim}",
            f"{options.config_path}, keys model.speech_encoder, model.ssl_dim",
            "write the encoder that the model was trained with into the config",
        )
    return Voice(config, model, encoder, device, options)


def _read(options: ModelOptions) -> tuple[Config, dict[str, Tensor]]:
    """The config, from its file or from a .safetensors model that carries it, and the weights."""
    if not options.model_path.is_file():
        raise UserError("there is no such model", options.model_path, "give the path of a G_<step>.pth with -m")
    embedded = _embedded_config(options.model_path)
    if embedded is not None and options.config_path == ModelOptions().config_path:
        config = parse_config(embedded, options.model_path)
    else:
        config = load_config(options.config_path)
    return config, checkpoint.model_state(checkpoint.load(options.model_path), options.model_path)


def _embedded_config(path: Path) -> str | None:
    if path.suffix != ".safetensors":
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return (file.metadata() or {}).get("config")
    except SafetensorError:
        return None  # reading the weights will say what is wrong


def speaker_id(speaker: str | int, speakers: Mapping[str, int], n_speakers: int) -> int:
    """The id of a speaker given by name or by number.

    Raises:
        UserError: the model has no such speaker; the message lists those it has.
    """
    if isinstance(speaker, str) and speaker in speakers:
        return speakers[speaker]
    known = ", ".join(f"{name} ({number})" for name, number in speakers.items())
    try:
        number = int(speaker)
    except ValueError:
        number = -1
    if not 0 <= number < n_speakers or (speakers and number not in speakers.values()):
        raise UserError(f"the model has no speaker {speaker!r}", "--spk_list", f"use one of: {known}")
    return number
