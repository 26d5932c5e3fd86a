"""The voice of a conversion: what happens to a window of a song around its networks.

Everything here is numpy. The networks come from modules.inference.networks (torch) or modules.onnx.networks
(onnxruntime); both give one clip at a time, float32, without a batch axis.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, Protocol, TypeVar

import numpy as np

from diffusion.schedule import check_k_step
from modules.audio.loudness import adjust_envelope
from modules.audio.resample import SPEECH_RATE, resample, shifted_rate
from modules.audio.volume import volume
from modules.data.units import stretch_units
from modules.errors import UserError
from modules.f0 import F0Predictor
from modules.f0.rests import silence_rests
from modules.inference.options import InferenceOptions, ModelOptions
from modules.inference.windows import WindowInput, fit

DIFFUSION_SEED, ENHANCER_SEED = 1, 2  # added to the seed, so that their noise is not that of the generator

Speaker = int | np.ndarray  # an id, or the weights of all speakers at each frame, float32 [T, n_speakers]


class Encoder(Protocol):
    """A speech encoder."""

    def encode(self, audio: np.ndarray) -> np.ndarray:
        """Units [F, dim], 50 a second, of audio [n] at 16 kHz."""


class Network(Protocol):
    """A network that makes the audio of a voice.

    Attributes:
        sample_rate: Hz, of input windows and output.
        hop_length: samples a frame.
        speakers: name -> id.
        n_speakers: rows of the speaker embedding.
        unit_mode: how units are stretched to the frames of f0, see stretch_units.
    """

    sample_rate: int
    hop_length: int
    speakers: dict[str, int]
    n_speakers: int
    unit_mode: str


class Generator(Network, Protocol):
    """Units and f0 to audio: the synthesiser.

    Attributes:
        takes_volume: whether it needs the volume of each frame.
        hums_in_rests: whether it sings an f0 that is given for unvoiced frames, see modules.f0.rests.
    """

    takes_volume: bool
    hums_in_rests: bool

    def check_f0_decoder(self) -> None:
        """Refuse to predict f0 where a part for it is missing. A model that cannot keeps the f0 it is given."""

    def infer(
        self,
        units: np.ndarray,
        f0: np.ndarray,
        uv: np.ndarray,
        speaker: Speaker,
        volume: np.ndarray | None,
        *,
        noise_scale: float,
        predict_f0: bool,
        seed: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Audio [T * hop_length] and the f0 [T] in Hz that it was made with.

        Args:
            units: [T, dim].
            f0: [T] Hz.
            uv: [T] 1 voiced, 0 not.
            volume: RMS [T], for a network that takes it.
            noise_scale: of the prior's standard deviation.
            predict_f0: replace f0 by what the model itself would sing.
        """


class MelModel(Network, Protocol):
    """Units, f0 and volume to mel by diffusion, with the vocoder that makes audio of the mel.

    They are one, because the vocoder goes on drawing from the random numbers of the mel, and so that a mel does not
    leave the device.

    Attributes:
        timesteps, k_step_max: length of the diffusion chain, and how many steps of it were trained.
    """

    timesteps: int
    k_step_max: int

    def infer(
        self,
        units: np.ndarray,
        f0: np.ndarray,
        volume: np.ndarray,
        speaker: Speaker,
        *,
        seed: int,
        source: np.ndarray | None = None,
        k_step: int = 1,
    ) -> np.ndarray:
        """Audio [T * hop_length].

        Args:
            units: [T, dim].
            f0: [T] Hz.
            volume: RMS [T].
            source: audio [T * hop_length] to refine; without it the mel is made from noise.
            k_step: how far the mel of ``source`` is noised.
        """

    def unknown_speaker(self, name: str) -> UserError:
        """What to tell the user where a speaker of the generator is none of this model."""


class Vocoder(Protocol):
    """Audio to mel and mel to audio at ``sample_rate`` Hz."""

    sample_rate: int

    def resample(self, audio: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
        """Audio [n] at another rate, of about n * to_rate / from_rate samples."""

    def extract(self, audio: np.ndarray) -> np.ndarray:
        """Log mel [T, M] of audio [n]."""

    def synthesise(self, mel: np.ndarray, f0: np.ndarray, seed: int) -> np.ndarray:
        """Audio [T * hop] of log mel [T, M] and f0 [T] in Hz."""


class UnitBlender(Protocol):
    """Moves units towards a speaker's own sounds: k-means centres or a feature index."""

    def blend(self, units: np.ndarray, speaker: int, ratio: float) -> np.ndarray:
        """float32 [F, dim] -> [F, dim]; ratio 0 leaves the units, 1 takes the speaker's alone."""


class Networks(Protocol):
    """Loads the networks of one model and checks that they fit together. Each method raises UserError.

    Attributes:
        device: where f0 predictors run.
        watches_range: whether songs can be looked through for notes outside the range of the f0 predictor.
    """

    device: str
    watches_range: bool

    def load_generator(self) -> tuple[Encoder, Generator]:
        """The generator and the encoder that it was trained with."""

    def load_diffusion(self) -> tuple[Encoder, MelModel]:
        """The diffusion model and the encoder that it was trained with."""

    def load_shallow_diffusion(self, generator: Generator) -> MelModel:
        """The diffusion model that refines this generator's audio."""

    def load_enhancer(self, network: Network) -> Vocoder:
        """The vocoder that refines this network's audio."""

    def load_blender(self, speakers: Mapping[str, int], retrieval: bool) -> UnitBlender:
        """K-means centres or, with ``retrieval``, the feature index of the speakers of a network."""

    def get_predictor(self, name: str, **settings: object) -> F0Predictor:
        """An f0 predictor; ``settings`` are those of F0Settings."""


def load_voice(networks: Networks, options: ModelOptions) -> Voice | DiffusionVoice:
    """The voice that the options ask for. Raises UserError where a part is missing, broken or does not fit."""
    if options.only_diffusion:
        encoder, mel_model = networks.load_diffusion()
        check_k_step(1, mel_model.k_step_max, mel_model.timesteps, shallow=False)
        refiners = [Enhancer(networks.load_enhancer(mel_model))] if options.enhance else []
        blender = partial(networks.load_blender, mel_model.speakers, options.feature_retrieval)
        return DiffusionVoice(encoder, mel_model, blender, refiners, networks.device)
    encoder, generator = networks.load_generator()
    refiner: Refiner | None = None
    if options.shallow_diffusion:
        refiner = ShallowDiffusion(networks.load_shallow_diffusion(generator), generator.speakers)
    elif options.enhance:
        refiner = Enhancer(networks.load_enhancer(generator))
    blender = partial(networks.load_blender, generator.speakers, options.feature_retrieval)
    return Voice(encoder, generator, blender, [refiner] if refiner else [], networks.device)


N = TypeVar("N", bound=Network)


@dataclass
class BaseVoice(ABC, Generic[N]):
    """A speech encoder, the network that makes audio of its units, and what refines that audio.

    Attributes:
        load_blender: gets the file that units are blended from, when one is first asked for.
        refiners: run over the audio of the network, in order.
        device: where the networks run.
    """

    encoder: Encoder
    network: N
    load_blender: Callable[[], UnitBlender] | None = None
    refiners: Sequence[Refiner] = ()
    device: str = "cpu"
    _blender: UnitBlender | None = field(default=None, init=False, repr=False)

    @property
    def sample_rate(self) -> int:
        return self.network.sample_rate

    @property
    def hop_length(self) -> int:
        return self.network.hop_length

    @property
    def speakers(self) -> dict[str, int]:
        return self.network.speakers

    @property
    def n_speakers(self) -> int:
        return self.network.n_speakers

    def check(self, options: InferenceOptions) -> None:
        """Refuse what this voice cannot do, before anything is computed. Raises UserError."""
        if options.cluster_infer_ratio:
            self._get_blender()
        for refiner in self.refiners:
            refiner.check(options)

    def encode(self, audio: np.ndarray) -> np.ndarray:
        """Units [F, dim] of audio [n] at the voice's rate, 50 frames a second."""
        return self.encoder.encode(resample(audio, self.sample_rate, SPEECH_RATE))

    def render(self, window: WindowInput, options: InferenceOptions) -> np.ndarray:
        """A window of a song in the other voice, float32 [T * hop_length]."""
        units = self.stretch(self.units(window, options), len(window.f0))
        audio, f0 = self._infer(units, window, options)
        if options.second_encoding:
            units = self.stretch(self.encode(audio), len(window.f0))
        return self.post_process(audio, units, f0, window, options)

    def units(self, window: WindowInput, options: InferenceOptions) -> np.ndarray:
        """Units [F, dim] of a window, moved towards the speaker's own as far as is asked for."""
        units = self.encode(window.audio)
        if not options.cluster_infer_ratio:
            return units
        return blend_units(self._get_blender(), units, window.speaker, options.cluster_infer_ratio)

    def stretch(self, units: np.ndarray, n_frames: int) -> np.ndarray:
        """Units [F, dim] at the frames of the network, [n_frames, dim]."""
        return stretch_units(units.T, n_frames, self.network.unit_mode).T

    def post_process(
        self, audio: np.ndarray, units: np.ndarray, f0: np.ndarray, window: WindowInput, options: InferenceOptions
    ) -> np.ndarray:
        """Refine the network's audio [T * hop_length] and give it the loudness envelope that is asked for."""
        for refiner in self.refiners:
            audio = refiner.refine(audio, units, f0, self._given_volume(window), window.speaker, options)
        if options.loudness_envelope_adjustment != 1:
            rate = self.sample_rate
            audio = adjust_envelope(window.audio, rate, audio, rate, options.loudness_envelope_adjustment)
        return audio

    @abstractmethod
    def _infer(
        self, units: np.ndarray, window: WindowInput, options: InferenceOptions
    ) -> tuple[np.ndarray, np.ndarray]:
        """Audio [T * hop_length] and f0 [T] of units [T, dim]."""

    def _given_volume(self, window: WindowInput) -> np.ndarray | None:
        """RMS [T] of the song, for a network that takes it."""
        return self._volume(window)

    def _volume(self, window: WindowInput) -> np.ndarray:
        return fit(volume(window.audio, self.hop_length), len(window.f0))

    def _get_blender(self) -> UnitBlender:
        if self._blender is None:
            assert self.load_blender is not None, "the voice was made without a way to get its blender"
            self._blender = self.load_blender()
        return self._blender


class Voice(BaseVoice[Generator]):
    """A voice with a generator."""

    def check(self, options: InferenceOptions) -> None:
        """Refuse second encoding without shallow diffusion, and parts that are not there. Raises UserError."""
        if options.second_encoding and not any(isinstance(refiner, ShallowDiffusion) for refiner in self.refiners):
            fix = "add --shallow_diffusion, or leave the flag out"
            raise UserError("second encoding is a part of shallow diffusion", "--second_encoding", fix)
        if options.auto_predict_f0:
            self.network.check_f0_decoder()
        super().check(options)

    def _infer(
        self, units: np.ndarray, window: WindowInput, options: InferenceOptions
    ) -> tuple[np.ndarray, np.ndarray]:
        f0, uv = window.f0.astype(np.float32), window.uv.astype(np.float32)
        # A model that predicts f0 goes by the whole contour.
        quiet = self.network.hums_in_rests and not options.auto_predict_f0
        audio, used = self.network.infer(
            units,
            silence_rests(f0, uv) if quiet else f0,
            uv,
            window.speaker,
            self._given_volume(window),
            noise_scale=options.noise_scale,
            predict_f0=options.auto_predict_f0,
            seed=options.seed,
        )
        return audio, f0 if quiet else used

    def _given_volume(self, window: WindowInput) -> np.ndarray | None:
        return self._volume(window) if self.network.takes_volume else None


class DiffusionVoice(BaseVoice[MelModel]):
    """A voice without a generator: units, f0 and volume to mel by diffusion, mel to audio by the vocoder."""

    def check(self, options: InferenceOptions) -> None:
        """Refuse what needs a generator. Raises UserError."""
        for flag, wanted in (
            ("--auto_predict_f0", options.auto_predict_f0),
            ("--second_encoding", options.second_encoding),
        ):
            if wanted:
                raise UserError("diffusion alone has no generator, which this is about", flag, "leave the flag out")
        super().check(options)

    def _infer(
        self, units: np.ndarray, window: WindowInput, options: InferenceOptions
    ) -> tuple[np.ndarray, np.ndarray]:
        f0 = window.f0.astype(np.float32)
        return self.network.infer(units, f0, self._volume(window), window.speaker, seed=options.seed), f0


class Refiner(Protocol):
    """Changes the audio of a window after the network: shallow diffusion, enhancer."""

    def check(self, options: InferenceOptions) -> None:
        """Refuse options that it cannot do. Raises UserError."""

    def refine(
        self,
        audio: np.ndarray,
        units: np.ndarray,
        f0: np.ndarray,
        loudness: np.ndarray | None,
        speaker: Speaker,
        options: InferenceOptions,
    ) -> np.ndarray:
        """A better version of audio [T * hop_length], of the same length.

        Args:
            units: [T, dim].
            f0: [T] Hz.
            loudness: RMS [T] of the song, where the network was given it.
        """


class ShallowDiffusion:
    """Noises the mel of the generator's audio by some steps and denoises it again.

    Args:
        speakers: of the generator, name -> id; the diffusion model knows them by its own ids.
    """

    def __init__(self, mel_model: MelModel, speakers: Mapping[str, int]) -> None:
        self.mel_model = mel_model
        own = mel_model.speakers
        self._names = {speaker_id: name for name, speaker_id in speakers.items()}
        # Without names the ids are all there is to go by.
        self._ids = {i: own[name] for i, name in self._names.items() if name in own} if own else None

    def check(self, options: InferenceOptions) -> None:
        """Refuse more steps than the model was trained on."""
        check_k_step(options.k_step, self.mel_model.k_step_max, self.mel_model.timesteps, shallow=True)

    def refine(
        self,
        audio: np.ndarray,
        units: np.ndarray,
        f0: np.ndarray,
        loudness: np.ndarray | None,
        speaker: Speaker,
        options: InferenceOptions,
    ) -> np.ndarray:
        """See Refiner."""
        return self.mel_model.infer(
            units,
            f0,
            volume(audio, self.mel_model.hop_length) if loudness is None else loudness,
            self._translate(speaker),
            seed=options.seed + DIFFUSION_SEED,
            source=audio,
            k_step=options.k_step,
        )

    def _translate(self, speaker: Speaker) -> Speaker:
        """The generator's id or weights [T, S] as the diffusion model's."""
        if isinstance(speaker, int):
            return self._id(speaker)
        weights = np.zeros((len(speaker), self.mel_model.n_speakers), dtype=np.float32)
        for index in np.flatnonzero(speaker.any(axis=0)):
            weights[:, self._id(int(index))] += speaker[:, index]
        return weights

    def _id(self, speaker_id: int) -> int:
        if self._ids is None:
            return speaker_id
        if speaker_id not in self._ids:
            raise self.mel_model.unknown_speaker(self._names.get(speaker_id, f"speaker {speaker_id}"))
        return self._ids[speaker_id]


class Enhancer:
    """The audio of a network synthesised anew by the stand-alone NSF-HiFiGAN.

    A vocoder knows a range of notes. With an adaptive key the audio is brought down by so many semitones before and up
    again after, by playing it at another rate, so that high notes come into the range (DDSP-SVC's enhancer).

    Args:
        vocoder: made for the rate of the audio.
    """

    def __init__(self, vocoder: Vocoder) -> None:
        self.vocoder = vocoder

    def check(self, options: InferenceOptions) -> None:
        """There is nothing that it refuses."""

    def refine(
        self,
        audio: np.ndarray,
        units: np.ndarray,
        f0: np.ndarray,
        loudness: np.ndarray | None,
        speaker: Speaker,
        options: InferenceOptions,
    ) -> np.ndarray:
        """See Refiner."""
        seed = options.seed + ENHANCER_SEED
        enhanced = self.enhance(audio, f0, options.enhancer_adaptive_key, seed)[: len(audio)]
        return np.pad(enhanced, (0, len(audio) - len(enhanced)))  # another rate does not make whole frames

    def enhance(self, audio: np.ndarray, f0: np.ndarray, adaptive_key: float, seed: int) -> np.ndarray:
        """Audio [about n] of audio [n] at the vocoder's rate and f0 [T] in Hz at its hop.

        Args:
            adaptive_key: semitones by which the range of the vocoder is raised.
        """
        rate = self.vocoder.sample_rate
        adapted_rate = shifted_rate(rate, adaptive_key)
        factor = rate / adapted_rate
        mel = self.vocoder.extract(self.vocoder.resample(audio, rate, adapted_rate))
        at = np.arange(len(mel)) * factor  # frames of the slowed audio on the grid of f0
        adapted_f0 = np.interp(at, np.arange(len(f0)), f0 * np.float32(factor)).astype(np.float32)
        return self.vocoder.resample(self.vocoder.synthesise(mel, adapted_f0, seed), adapted_rate, rate)


def blend_units(blender: UnitBlender, units: np.ndarray, speaker: Speaker, ratio: float) -> np.ndarray:
    """Blend units [F, dim] with those of the speaker, or of each speaker by its share."""
    if isinstance(speaker, int):
        return blender.blend(units, speaker, ratio)
    shares = speaker[np.arange(len(units)) * len(speaker) // len(units)].astype(np.float32)
    blended = np.zeros_like(units)
    for speaker_id in np.flatnonzero(shares.any(axis=0)):
        blended += shares[:, speaker_id, None] * blender.blend(units, int(speaker_id), ratio)
    return blended
