"""Diffusion with graphs: the noise schedule and the samplers are those of diffusion/, run on numpy's arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from diffusion.samplers import sample
from diffusion.schedule import NoiseSchedule, check_k_step
from modules.errors import UserError
from modules.inference.options import InferenceOptions
from modules.onnx.arrays import frame_rms
from modules.onnx.manifest import EXPORT, Manifest
from modules.onnx.session import Session
from modules.progress import bar_on_terminal

SHOWN = partial(bar_on_terminal, description="diffusion")  # how far the sampler is
NOISE = 1  # added to the seed, so that the noise here is not that of the generator
SHORTEST = 2048  # samples; shorter audio is filled up with silence


def drawing(seed: int) -> np.random.Generator:
    """The random numbers of one engine in one window."""
    return np.random.Generator(np.random.PCG64(seed))


@dataclass(frozen=True)
class GraphVocoder:
    """Audio to mel and mel to audio.

    Attributes:
        sample_rate, hop_length: Hz and samples.
    """

    mel: Session
    vocoder: Session
    sample_rate: int
    hop_length: int

    @classmethod
    def load(cls, folder: Path, manifest: Manifest, flag: str, device: str | None) -> GraphVocoder:
        """Raises UserError where a part is missing, or works at another rate or hop than the model."""
        mel = Session(manifest.file(folder, "mel", flag), {"audio"}, device)
        vocoder = Session(manifest.file(folder, "vocoder", flag), {"mel", "f0"}, device)
        facts = manifest.facts.get("vocoder", {})
        rate, hop = facts.get("sampling_rate"), facts.get("hop_length")
        if (rate, hop) != (manifest.sampling_rate, manifest.hop_length):
            raise UserError(
                f"the vocoder works at {rate} Hz with a hop of {hop}, the model at {manifest.sampling_rate} Hz with "
                f"{manifest.hop_length}",
                vocoder.path,
                "export the vocoder that fits the model",
            )
        return cls(mel, vocoder, manifest.sampling_rate, manifest.hop_length)

    def extract(self, audio: np.ndarray) -> np.ndarray:
        """Log mel [n // hop_length, M] of audio [n]."""
        padded = np.pad(audio, (0, max(0, SHORTEST - len(audio))))
        return self.mel(audio=padded[None])[0, : len(audio) // self.hop_length]

    def synthesise(self, mel: np.ndarray, f0: np.ndarray, seed: int) -> np.ndarray:
        """Audio [T * hop_length] of log mel [T, M] and f0 [T] Hz."""
        inputs = {"mel": mel[None].astype(np.float32), "f0": f0[None].astype(np.float32)}
        if "seed" in self.vocoder.optional:
            inputs["seed"] = np.array([seed % 2**63], dtype=np.int64)
        return self.vocoder(**inputs).reshape(-1)


@dataclass(frozen=True)
class GraphDiffusion:
    """A diffusion model and its vocoder.

    Attributes:
        facts: timesteps, k_step_max, spec_min, spec_max, speedup, method, speakers, n_speakers.
    """

    condition: Session
    denoiser: Session
    vocoder: GraphVocoder
    facts: Mapping[str, Any]

    @classmethod
    def load(cls, folder: Path, manifest: Manifest, flag: str, device: str | None) -> GraphDiffusion:
        """Raises UserError where a part is missing or does not fit the others."""
        denoiser = Session(manifest.file(folder, "diffusion-denoiser", flag), {"x", "step", "condition"}, device)
        facts = manifest.facts.get("diffusion-denoiser", {})
        missing = {"timesteps", "k_step_max", "spec_min", "spec_max", "speedup", "method", "n_speakers"} - set(facts)
        if missing:
            raise UserError(f"parts.json does not tell {', '.join(sorted(missing))}", folder, EXPORT)
        names = {"units", "f0", "volume"} | ({"sid"} if facts["n_speakers"] > 1 else set())
        condition = Session(manifest.file(folder, "diffusion-condition", flag), names, device)
        if condition.width("units", 2) != manifest.ssl_dim:
            raise UserError(
                f"the diffusion model takes units of {condition.width('units', 2)} channels, the voice model of "
                f"{manifest.ssl_dim}",
                condition.path,
                "export the two models of one voice, made with the same encoder",
            )
        return cls(condition, denoiser, GraphVocoder.load(folder, manifest, flag, device), facts)

    def sing(
        self,
        units: np.ndarray,
        f0: np.ndarray,
        loudness: np.ndarray,
        speaker: int | np.ndarray,
        seed: int,
        source: np.ndarray | None = None,
        k_step: int = 1,
    ) -> np.ndarray:
        """Audio [T * hop].

        Args:
            units: [T, dim].
            f0: [T] Hz.
            loudness: [T] RMS.
            speaker: an id of the diffusion model, or weights [T, n_speakers].
            source: audio [T * hop] to refine; without it the mel is made from noise.
            k_step: how far ``source`` is noised.
        """
        inputs = {"units": units[None], "f0": f0[None], "volume": loudness[None]}
        if self.facts["n_speakers"] > 1:
            inputs["sid"] = self._mix(speaker, len(f0))
        condition = self.condition(**{name: value.astype(np.float32) for name, value in inputs.items()})
        mel = None if source is None else self.vocoder.extract(source)
        return self.vocoder.synthesise(self.denoise(condition, drawing(seed), mel, k_step), f0, seed)

    def denoise(
        self, condition: np.ndarray, random: np.random.Generator, mel: np.ndarray | None, k_step: int
    ) -> np.ndarray:
        """Log mel [T, M] under a condition [1, n_hidden, T]; from a log mel [T, M], or from noise."""
        facts = self.facts
        low, high = facts["spec_min"], facts["spec_max"]
        noise = random.standard_normal((1, 1, self.denoiser.width("x", 2), condition.shape[2]), dtype=np.float32)
        schedule = NoiseSchedule(facts["timesteps"], None if mel is None else k_step)
        x = noise
        if mel is not None:
            level = schedule.at(schedule.steps - 1)
            x = level.alpha * ((mel.T[None, None] - low) / (high - low) * 2 - 1) + level.sigma * noise

        def predict_noise(x: Any, step: float) -> Any:
            return self.denoiser(x=x, step=np.array([step], dtype=np.float32), condition=condition)

        start = cast(Any, x)  # the samplers are typed for torch's tensors
        done: Any = sample(facts["method"], predict_noise, start, schedule, facts["speedup"], random, SHOWN)
        return (done[0, 0].T + 1) / 2 * (high - low) + low

    def _mix(self, speaker: int | np.ndarray, n_frames: int) -> np.ndarray:
        if not isinstance(speaker, int):
            return speaker
        mix = np.zeros((n_frames, self.facts["n_speakers"]), dtype=np.float32)
        mix[:, speaker] = 1
        return mix


class GraphShallowDiffusion:
    """Noises the mel of the generator's audio by some steps and denoises it again.

    Args:
        speakers: of the generator, name -> id; the diffusion model knows them by its own ids.
    """

    def __init__(self, engine: GraphDiffusion, speakers: Mapping[str, int]) -> None:
        self.engine = engine
        own = engine.facts.get("speakers") or {}
        self._names = {speaker_id: name for name, speaker_id in speakers.items()}
        # Without names the ids are all there is to go by.
        self._ids = {i: own[name] for i, name in self._names.items() if name in own} if own else None

    def check(self, options: InferenceOptions) -> None:
        """Refuse more steps than the model was trained on."""
        check_k_step(options.k_step, self.engine.facts["k_step_max"], self.engine.facts["timesteps"], shallow=True)

    def refine(
        self,
        audio: np.ndarray,
        units: np.ndarray,
        f0: np.ndarray,
        speaker: int | np.ndarray,
        options: InferenceOptions,
    ) -> np.ndarray:
        """A better version of audio [T * hop]; units [T, dim], f0 [T] Hz, speaker by the generator's ids."""
        loudness = frame_rms(audio, self.engine.vocoder.hop_length)
        who, seed = self._translate(speaker), options.seed + NOISE
        return self.engine.sing(units, f0, loudness, who, seed, audio, options.k_step)

    def _translate(self, speaker: int | np.ndarray) -> int | np.ndarray:
        if isinstance(speaker, int):
            return self._id(speaker)
        weights = np.zeros((len(speaker), self.engine.facts["n_speakers"]), dtype=np.float32)
        for index in np.flatnonzero(speaker.any(axis=0)):
            weights[:, self._id(int(index))] += speaker[:, index]
        return weights

    def _id(self, speaker_id: int) -> int:
        if self._ids is None:
            return speaker_id
        if speaker_id not in self._ids:
            raise UserError(
                f"the diffusion model was not trained on {self._names.get(speaker_id, f'speaker {speaker_id}')}; "
                f"it knows {', '.join(self.engine.facts['speakers'])}",
                self.engine.denoiser.path,
                "export the diffusion model of this voice, or name the speaker alike in both configs",
            )
        return self._ids[speaker_id]
