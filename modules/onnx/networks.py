"""The networks of a conversion as graphs: loaded from an exported folder, called with arrays.

The noise schedule and the samplers of the diffusion are those of diffusion/, run on numpy's arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from diffusion.samplers import sample
from diffusion.schedule import NoiseSchedule
from modules.audio.resample import resample
from modules.errors import UserError
from modules.f0.base import F0Predictor
from modules.f0.rests import HUMMING_DECODERS
from modules.onnx.manifest import DiffusionFacts, Manifest, VocoderFacts
from modules.onnx.pitch import OnnxPredictors
from modules.onnx.retrieval import CentreBlender, RetrievalBlender
from modules.onnx.session import Session
from modules.progress import bar_on_terminal

SHORTEST_SPEECH = 400  # samples that an encoder needs for one frame
SHORTEST_MEL = 2048  # samples; shorter audio is filled up with silence

Speaker = int | np.ndarray  # an id, or the weights of all speakers at each frame, float32 [T, n_speakers]


def drawing(seed: int) -> np.random.Generator:
    """The random numbers of one network in one window."""
    return np.random.Generator(np.random.PCG64(seed))


def as_mix(speaker: Speaker, n_frames: int, n_speakers: int) -> np.ndarray:
    """The weights of all speakers, float32 [T, n_speakers]."""
    if not isinstance(speaker, int):
        return speaker.astype(np.float32)
    mix = np.zeros((n_frames, n_speakers), dtype=np.float32)
    mix[:, speaker] = 1
    return mix


@dataclass(frozen=True)
class OnnxEncoder:
    """A speech encoder: audio at 16 kHz [1, 1, n] to units [1, F, dim]."""

    session: Session

    def encode(self, audio: np.ndarray) -> np.ndarray:
        """Units [F, dim] of audio [n] at 16 kHz."""
        padded = np.pad(audio, (0, max(0, SHORTEST_SPEECH - len(audio))))
        return self.session(source=padded[None, None])[0]


class OnnxGenerator:
    """A synthesiser, see modules.inference.voice.Generator and, for its graph, modules.onnx.export.generator.

    Raises:
        UserError: the graph is missing, or takes other inputs than parts.json says.
    """

    def __init__(self, folder: Path, manifest: Manifest, device: str | None) -> None:
        self.session = Session(manifest.file(folder, "generator", "--onnx"), generator_inputs(manifest), device)
        self.folder, self.manifest, self.device = folder, manifest, device
        self.sample_rate, self.hop_length = manifest.sampling_rate, manifest.hop_length
        self.speakers, self.n_speakers = dict(manifest.speakers), manifest.n_speakers
        self.unit_mode, self.takes_volume = manifest.unit_interpolate_mode, manifest.vol_embedding
        self.hums_in_rests = manifest.vocoder_name in HUMMING_DECODERS
        self._f0_decoder: Session | None = None

    def check_f0_decoder(self) -> None:
        """Raises UserError where the part auto-f0 is missing."""
        self._get_f0_decoder()

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
        """Audio [T * hop_length] and the f0 [T] in Hz that it was made with."""
        n_frames = len(f0)
        one_speaker = self.n_speakers == 1
        inputs = {
            "c": np.ascontiguousarray(units)[None],
            "f0": f0[None],
            "mel2ph": np.arange(1, n_frames + 1, dtype=np.int64)[None],  # the units have the frames of f0 already
            "uv": uv[None],
            "sid": np.zeros(1, dtype=np.int64) if one_speaker else as_mix(speaker, n_frames, self.n_speakers),
        }
        if volume is not None:
            inputs["vol"] = volume[None]
        if predict_f0:
            inputs["f0"] = self._get_f0_decoder()(**inputs)
        shape = (1, self.manifest.inter_channels, n_frames)
        inputs["noise"] = drawing(seed).standard_normal(shape, dtype=np.float32) * np.float32(noise_scale)
        if "seed" in self.session.optional:
            inputs["seed"] = np.array([seed], dtype=np.int64)
        return self.session(**inputs).reshape(-1), inputs["f0"][0]

    def _get_f0_decoder(self) -> Session:
        if self._f0_decoder is None:
            path = self.manifest.file(self.folder, "auto-f0", "--auto_predict_f0")
            self._f0_decoder = Session(path, generator_inputs(self.manifest) - {"noise"}, self.device)
        return self._f0_decoder


def generator_inputs(manifest: Manifest) -> set[str]:
    """The names that a generator's graph takes."""
    return {"c", "f0", "mel2ph", "uv", "noise", "sid"} | ({"vol"} if manifest.vol_embedding else set())


class OnnxVocoder:
    """A stand-alone vocoder, see modules.inference.voice.Vocoder.

    Args:
        flag: what asks for it.

    Raises:
        UserError: a part is missing, or works at another rate or hop than the model.
    """

    def __init__(self, folder: Path, manifest: Manifest, flag: str, device: str | None) -> None:
        self.mel = Session(manifest.file(folder, "mel", flag), {"audio"}, device)
        self.vocoder = Session(manifest.file(folder, "vocoder", flag), {"mel", "f0"}, device)
        facts = manifest.facts_of("vocoder", VocoderFacts, folder)
        self.sample_rate, self.hop_length = facts.sampling_rate, facts.hop_length
        if (self.sample_rate, self.hop_length) != (manifest.sampling_rate, manifest.hop_length):
            raise UserError(
                f"the vocoder works at {self.sample_rate} Hz with a hop of {self.hop_length}, the model at "
                f"{manifest.sampling_rate} Hz with {manifest.hop_length}",
                self.vocoder.path,
                "export the vocoder that fits the model",
            )

    def resample(self, audio: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
        """Audio [round(n * to_rate / from_rate)] of audio [n]."""
        return resample(audio, from_rate, to_rate)

    def extract(self, audio: np.ndarray) -> np.ndarray:
        """Log mel [n // hop_length, M] of audio [n]."""
        padded = np.pad(audio, (0, max(0, SHORTEST_MEL - len(audio))))
        return self.mel(audio=padded[None])[0, : len(audio) // self.hop_length]

    def synthesise(self, mel: np.ndarray, f0: np.ndarray, seed: int) -> np.ndarray:
        """Audio [T * hop_length] of log mel [T, M] and f0 [T] in Hz."""
        inputs = {"mel": mel[None].astype(np.float32), "f0": f0[None].astype(np.float32)}
        if "seed" in self.vocoder.optional:
            inputs["seed"] = np.array([seed % 2**63], dtype=np.int64)
        return self.vocoder(**inputs).reshape(-1)


class OnnxMelModel:
    """A diffusion model and its vocoder, see modules.inference.voice.MelModel.

    Args:
        flag: what asks for it.

    Raises:
        UserError: a part is missing or does not fit the others.
    """

    def __init__(self, folder: Path, manifest: Manifest, flag: str, device: str | None) -> None:
        self.denoiser = Session(manifest.file(folder, "diffusion-denoiser", flag), {"x", "step", "condition"}, device)
        facts = self.facts = manifest.facts_of("diffusion-denoiser", DiffusionFacts, folder)
        names = {"units", "f0", "volume"} | ({"sid"} if facts.n_speakers > 1 else set())
        self.condition = Session(manifest.file(folder, "diffusion-condition", flag), names, device)
        width = self.condition.width("units", 2)
        if width != manifest.ssl_dim:
            raise UserError(
                f"the diffusion model takes units of {width} channels, the voice model of {manifest.ssl_dim}",
                self.condition.path,
                "export the two models of one voice, made with the same encoder",
            )
        self.vocoder = OnnxVocoder(folder, manifest, flag, device)
        self.sample_rate, self.hop_length = self.vocoder.sample_rate, self.vocoder.hop_length
        self.speakers, self.n_speakers = dict(facts.speakers), facts.n_speakers
        self.unit_mode = facts.unit_interpolate_mode or manifest.unit_interpolate_mode
        self.timesteps, self.k_step_max = facts.timesteps, facts.k_step_max

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
        """Audio [T * hop_length]."""
        inputs = {"units": np.ascontiguousarray(units)[None], "f0": f0[None], "volume": volume[None]}
        if self.n_speakers > 1:
            inputs["sid"] = as_mix(speaker, len(f0), self.n_speakers)
        mel = None if source is None else self.vocoder.extract(source)
        return self.vocoder.synthesise(self.denoise(self.condition(**inputs), drawing(seed), mel, k_step), f0, seed)

    def denoise(
        self, condition: np.ndarray, random: np.random.Generator, mel: np.ndarray | None, k_step: int
    ) -> np.ndarray:
        """Log mel [T, M] under a condition [1, n_hidden, T]; from a log mel [T, M], or from noise."""
        facts = self.facts
        low, high = facts.spec_min, facts.spec_max
        noise = random.standard_normal((1, 1, self.denoiser.width("x", 2), condition.shape[2]), dtype=np.float32)
        schedule = NoiseSchedule(facts.timesteps, None if mel is None else k_step)
        x = noise
        if mel is not None:
            level = schedule.at(schedule.steps - 1)
            x = level.alpha * ((mel.T[None, None] - low) / (high - low) * 2 - 1) + level.sigma * noise

        def predict_noise(x: Any, step: float) -> Any:
            return self.denoiser(x=x, step=np.array([step], dtype=np.float32), condition=condition)

        start = cast(Any, x)  # the samplers are typed for torch's tensors
        track = partial(bar_on_terminal, description="diffusion")
        done: Any = sample(facts.method, predict_noise, start, schedule, facts.speedup, random, track)
        return (done[0, 0].T + 1) / 2 * (high - low) + low

    def unknown_speaker(self, name: str) -> UserError:
        """See modules.inference.voice.MelModel."""
        return UserError(
            f"the diffusion model was not trained on {name}; it knows {', '.join(self.speakers)}",
            self.denoiser.path,
            "export the diffusion model of this voice, or name the speaker alike in both configs",
        )


class OnnxNetworks:
    """Loads the parts of an exported folder, see modules.inference.voice.Networks.

    Args:
        device: see session.providers.

    Attributes:
        device: where what is no graph runs.
    """

    device = "cpu"

    def __init__(self, folder: Path, device: str | None = None) -> None:
        self.folder, self.graph_device = folder, device
        self.manifest = Manifest.load(folder)
        self.predictors = OnnxPredictors(folder, self.manifest, device)
        self.watches_range = self.predictors.watches_range

    def load_generator(self) -> tuple[OnnxEncoder, OnnxGenerator]:
        """The generator and its encoder."""
        encoder = self._load_encoder()
        generator = OnnxGenerator(self.folder, self.manifest, self.graph_device)
        self._check_width(encoder, generator.session.width("c", 2), "the generator")
        return encoder, generator

    def load_diffusion(self) -> tuple[OnnxEncoder, OnnxMelModel]:
        """The diffusion model and its encoder."""
        encoder = self._load_encoder()
        mel_model = OnnxMelModel(self.folder, self.manifest, "--only_diffusion", self.graph_device)
        self._check_width(encoder, mel_model.condition.width("units", 2), "the diffusion model")
        return encoder, mel_model

    def load_shallow_diffusion(self, generator: object) -> OnnxMelModel:
        """The diffusion model; the parts of a folder belong to one generator."""
        return OnnxMelModel(self.folder, self.manifest, "--shallow_diffusion", self.graph_device)

    def load_enhancer(self, network: object) -> OnnxVocoder:
        """The vocoder; it has the rate and hop of the folder's model."""
        return OnnxVocoder(self.folder, self.manifest, "--enhance", self.graph_device)

    def load_blender(self, speakers: Mapping[str, int], retrieval: bool) -> CentreBlender | RetrievalBlender:
        """K-means centres or, with ``retrieval``, the feature index."""
        if retrieval:
            return RetrievalBlender(self.manifest.file(self.folder, "retrieval", "--feature_retrieval"))
        return CentreBlender(self.manifest.file(self.folder, "cluster", "--cluster_infer_ratio"), speakers)

    def get_predictor(self, name: str, **settings: object) -> F0Predictor:
        """An f0 predictor; raises UserError where its graph or its package is missing."""
        return self.predictors.get(name, **settings)

    def _load_encoder(self) -> OnnxEncoder:
        return OnnxEncoder(Session(self.manifest.file(self.folder, "encoder", "--onnx"), {"source"}, self.graph_device))

    def _check_width(self, encoder: OnnxEncoder, taken: int, who: str) -> None:
        given = encoder.encode(np.zeros(SHORTEST_SPEECH, dtype=np.float32)).shape[-1]
        if taken != given:
            raise UserError(
                f"the encoder gives units of {given} channels, {who} takes {taken}",
                encoder.session.path,
                f"use the encoder that the model was trained with: {self.manifest.speech_encoder}",
            )
