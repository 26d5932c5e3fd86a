"""Diffusion in a conversion: it refines what the generator sang (shallow diffusion), or sings alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffusion.unit2mel import Unit2Mel, load_unit2mel
from modules.audio.volume import volume
from modules.config import Config, DiffusionConfig, load_diffusion_config
from modules.errors import UserError
from modules.inference.engines import Refiner, UnitsBlender, seeded
from modules.inference.hearing import Hearing
from modules.inference.options import InferenceOptions, ModelOptions
from modules.inference.windows import WindowInput, fit
from modules.progress import bar_on_terminal
from vdecoder.mel_vocoder import MelVocoder
from vencoder.encoder import SpeechEncoder

SHOWN = partial(bar_on_terminal, description="diffusion")  # how far the sampler is
NOISE = 1  # added to the seed, so that the noise here is not that of the generator

Encode = Callable[[np.ndarray, int], Tensor]  # audio [n] and frames T -> units [1, dim, T]


@dataclass(frozen=True)
class DiffusionEngine:
    """A diffusion model with its config and its vocoder, on one device."""

    config: DiffusionConfig
    model: Unit2Mel
    vocoder: MelVocoder

    def sing(
        self,
        units: Tensor,
        f0: Tensor,
        loudness: Tensor,
        speaker: Tensor,
        generator: torch.Generator,
        source: Tensor | None = None,
        k_step: int = 1,
    ) -> Tensor:
        """Audio [1, T * hop].

        Args:
            units: [1, dim, T].
            f0: [1, T] Hz.
            loudness: [1, T] RMS.
            speaker: int64 [1], or weights float [T, n_spk].
            source: audio [1, T * hop] to refine; without it the mel is made from noise.
            k_step: how far ``source`` is noised.
        """
        mel = None if source is None else self.vocoder.extract(source, self.config.data.sampling_rate)
        mel = self.model.infer(
            units.transpose(1, 2),
            f0.unsqueeze(-1),
            loudness.unsqueeze(-1),
            speaker,
            source_mel=mel,
            k_step=k_step,
            speedup=self.config.infer.speedup,
            method=self.config.infer.method,
            generator=generator,
            track=SHOWN,
        )
        return self.vocoder.synthesise(mel, f0, generator)[:, 0].float()


class ShallowDiffusion:
    """Noises the mel of the generator's audio by some steps and denoises it again.

    Args:
        speakers: of the generator, name -> id; the diffusion model knows them by its own ids.
        encode: for second encoding: the units of the generator's audio.
    """

    def __init__(self, engine: DiffusionEngine, speakers: Mapping[str, int], encode: Encode) -> None:
        self.engine, self.encode = engine, encode
        own = engine.config.spk
        self._names = {speaker_id: name for name, speaker_id in speakers.items()}
        # Without names the ids are all there is to go by.
        self._ids = {i: own[name] for i, name in self._names.items() if name in own} if own else None

    def check(self, options: InferenceOptions) -> None:
        """Refuse more steps than the model was trained on."""
        self.engine.model.check_k_step(options.k_step, shallow=True)

    def refine(self, audio: Tensor, units: Tensor, f0: Tensor, speaker: Tensor, options: InferenceOptions) -> Tensor:
        """See Refiner."""
        n_frames = f0.shape[1]
        if options.second_encoding:
            units = self.encode(audio[0].cpu().numpy(), n_frames)
        loudness = volume(audio, self.engine.config.data.block_size)
        generator = seeded(options.seed + NOISE, audio.device)
        return self.engine.sing(units, f0, loudness, self._translate(speaker), generator, audio, options.k_step)

    def _translate(self, speaker: Tensor) -> Tensor:
        """The generator's ids or weights [T, S] as the diffusion model's."""
        if self._ids is None:
            return speaker
        if not speaker.is_floating_point():
            return torch.tensor([self._id(int(speaker))], device=speaker.device)
        weights = speaker.new_zeros(speaker.shape[0], self.engine.config.model.n_spk)
        for index in torch.nonzero(speaker.any(dim=0)).flatten().tolist():
            weights[:, self._id(index)] += speaker[:, index]
        return weights

    def _id(self, speaker_id: int) -> int:
        assert self._ids is not None
        if speaker_id not in self._ids:
            raise UserError(
                f"the diffusion model was not trained on {self._names.get(speaker_id, f'speaker {speaker_id}')}; "
                f"it knows {', '.join(self.engine.config.spk)}",
                "--diffusion_config_path, key spk",
                "use the diffusion model of this voice, or name the speaker alike in both configs",
            )
        return self._ids[speaker_id]


@dataclass
class DiffusionVoice(Hearing):
    """A voice without a generator: units, pitch and loudness to mel by diffusion, mel to audio by the vocoder."""

    engine: DiffusionEngine
    encoder: SpeechEncoder
    device: torch.device
    options: ModelOptions = field(default_factory=ModelOptions)
    refiners: Sequence[Refiner] = ()
    _blender: UnitsBlender | None = None

    @property
    def sample_rate(self) -> int:
        return self.engine.config.data.sampling_rate

    @property
    def hop_length(self) -> int:
        return self.engine.config.data.block_size

    @property
    def speakers(self) -> dict[str, int]:
        return dict(self.engine.config.spk)

    @property
    def n_speakers(self) -> int:
        return self.engine.config.model.n_spk

    @property
    def interpolate_mode(self) -> str:
        return self.engine.config.data.unit_interpolate_mode

    def check(self, options: InferenceOptions) -> None:
        """Refuse what needs a generator. Raises UserError."""
        for flag, wanted in (
            ("--auto_predict_f0", options.auto_predict_f0),
            ("--second_encoding", options.second_encoding),
        ):
            if wanted:
                raise UserError("diffusion alone has no generator, which this is about", flag, "leave the flag out")
        super().check(options)

    def render(self, window: WindowInput, options: InferenceOptions) -> np.ndarray:
        """Sing a window; float32 [T * hop_length]."""
        with torch.inference_mode():
            n_frames = len(window.f0)
            units = self._units(window, n_frames, options)
            f0 = self._tensor(window.f0)[None]
            loudness = self._tensor(fit(volume(window.audio, self.hop_length), n_frames))[None]
            speaker = self._speaker(window)
            audio = self.engine.sing(units, f0, loudness, speaker, seeded(options.seed, self.device))
            return self.finish(audio, units, f0, speaker, window, options)


def load_engine(
    options: ModelOptions, device: torch.device, pretrain_dir: Path, vocoder_dtype: torch.dtype
) -> DiffusionEngine:
    """Load config, model and vocoder.

    Raises:
        UserError: a file is missing or broken, or they do not belong together.
    """
    for path, flag in ((options.diffusion_config_path, "-dc"), (options.diffusion_model_path, "-dm")):
        if not path.is_file():
            raise UserError(
                "there is no such diffusion file", path, f"train with train_diff.py, or give it with {flag}"
            )
    config = load_diffusion_config(options.diffusion_config_path)
    model = load_unit2mel(options.diffusion_model_path, config, device, options.precision)
    vocoder = load_vocoder(Path(config.vocoder.ckpt), config.vocoder.type, device, pretrain_dir, vocoder_dtype)
    refuse_other_frames(vocoder, config.data.sampling_rate, config.data.block_size, options.diffusion_config_path)
    return DiffusionEngine(config, model, vocoder)


def load_vocoder(path: Path, kind: str, device: torch.device, pretrain_dir: Path, dtype: torch.dtype) -> MelVocoder:
    """The vocoder at ``path``; where that is under pretrain/, which may lie elsewhere, it is looked for there."""
    elsewhere = pretrain_dir.joinpath(*path.parts[1:])
    if not path.is_file() and path.parts[0] == "pretrain" and elsewhere.is_file():
        path = elsewhere
    vocoder = MelVocoder.load(path, kind, device)
    vocoder.generator.set_precision(dtype)
    return vocoder


def refuse_other_frames(vocoder: MelVocoder, sample_rate: int, hop_length: int, config_path: Path) -> None:
    """Refuse a vocoder that works at another rate or hop than the model's config says."""
    rate, hop = vocoder.config.sampling_rate, vocoder.config.hop_size
    if (rate, hop) != (sample_rate, hop_length):
        raise UserError(
            f"the vocoder works at {rate} Hz with a hop of {hop}, the model at {sample_rate} Hz with {hop_length}",
            config_path,
            "use a vocoder that fits the model",
        )


def refuse_another_front(engine: DiffusionEngine, config: Config, options: ModelOptions) -> None:
    """Refuse a diffusion model that takes other units or frames than the generator it is to refine."""
    ours, theirs = engine.config.data, config
    pairs = {
        "data.encoder": (ours.encoder, theirs.model.speech_encoder),
        "data.encoder_out_channels": (ours.encoder_out_channels, theirs.model.ssl_dim),
        "data.sampling_rate": (ours.sampling_rate, theirs.data.sampling_rate),
        "data.block_size": (ours.block_size, theirs.data.hop_length),
    }
    for key, (own, other) in pairs.items():
        if own != other:
            raise UserError(
                f"the diffusion model has {own}, the voice model {other}",
                f"{options.diffusion_config_path}, key {key}",
                "use the two models of one voice, made with the same encoder",
            )
