"""Voices made of graphs: songs are converted with onnxruntime, numpy, soxr and soundfile alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from diffusion.schedule import check_k_step
from modules.errors import UserError
from modules.inference.options import InferenceOptions, ModelOptions
from modules.inference.svc import Svc
from modules.inference.windows import WindowInput, fit
from modules.onnx.arrays import frame_rms, unit_frames
from modules.onnx.diffusion import GraphDiffusion, GraphShallowDiffusion, GraphVocoder
from modules.onnx.enhancer import GraphEnhancer
from modules.onnx.hearing import SHORTEST, GraphHearing, Refiner, stretch
from modules.onnx.manifest import Manifest
from modules.onnx.pitch import GraphPitchFinder
from modules.onnx.session import Session


@dataclass
class GraphVoice(GraphHearing):
    """A generator and its encoder.

    Attributes:
        generator: see modules.onnx.export_generator.
    """

    generator: Session = field(kw_only=True)
    _f0_decoder: Session | None = field(default=None, repr=False)

    @property
    def speakers(self) -> dict[str, int]:
        """Name -> id."""
        return dict(self.manifest.speakers)

    @property
    def n_speakers(self) -> int:
        """Rows of the speaker embedding."""
        return self.manifest.n_speakers

    def check(self, options: InferenceOptions) -> None:
        """Refuse second encoding without shallow diffusion, and parts that are not there. Raises UserError."""
        if options.second_encoding and not self.options.shallow_diffusion:
            fix = "add --shallow_diffusion, or leave the flag out"
            raise UserError("second encoding is a part of shallow diffusion", "--second_encoding", fix)
        if options.auto_predict_f0:
            self._load_f0_decoder()
        super().check(options)

    def render(self, window: WindowInput, options: InferenceOptions) -> np.ndarray:
        """Sing a window in the other voice, float32 [T * hop_length]."""
        n_frames, mode = len(window.f0), self.manifest.unit_interpolate_mode
        units = self.blended(window, options)
        inputs = self._inputs(units, window, n_frames)
        if options.auto_predict_f0:
            inputs["f0"] = self._load_f0_decoder()(**inputs)
        random = np.random.Generator(np.random.PCG64(options.seed))
        shape = (1, self.manifest.inter_channels, n_frames)
        inputs["noise"] = random.standard_normal(shape, dtype=np.float32) * np.float32(options.noise_scale)
        if "seed" in self.generator.optional:
            inputs["seed"] = np.array([options.seed], dtype=np.int64)
        audio = self.generator(**inputs).reshape(-1)
        if self.refiners:
            units = stretch(self.encode(audio) if options.second_encoding else units, n_frames, mode)
        return self.finish(audio, units, inputs["f0"][0], window, options)

    def _inputs(self, units: np.ndarray, window: WindowInput, n_frames: int) -> dict[str, np.ndarray]:
        mode = self.manifest.unit_interpolate_mode
        if mode == "linear":
            units, frames = stretch(units, n_frames, mode), np.arange(n_frames)
        else:
            frames = unit_frames(len(units), n_frames, mode)
        inputs = {
            "c": units[None],
            "f0": window.f0[None].astype(np.float32),
            "mel2ph": frames[None] + 1,
            "uv": window.uv[None].astype(np.float32),
            "sid": self._sid(window.speaker, n_frames),
        }
        if self.manifest.vol_embedding:
            inputs["vol"] = fit(frame_rms(window.audio, self.hop_length), n_frames)[None]
        return inputs

    def _sid(self, speaker: int | np.ndarray, n_frames: int) -> np.ndarray:
        if self.n_speakers == 1:
            return np.zeros(1, dtype=np.int64)
        if not isinstance(speaker, int):
            return speaker.astype(np.float32)
        mix = np.zeros((n_frames, self.n_speakers), dtype=np.float32)
        mix[:, speaker] = 1
        return mix

    def _load_f0_decoder(self) -> Session:
        if self._f0_decoder is None:
            path = self.manifest.file(self.folder, "auto-f0", "--auto_predict_f0")
            names = generator_inputs(self.manifest) - {"noise"}
            self._f0_decoder = Session(path, names, self.options.device)
        return self._f0_decoder


@dataclass
class GraphDiffusionVoice(GraphHearing):
    """A voice without a generator: units, pitch and loudness to mel by diffusion, mel to audio by the vocoder."""

    engine: GraphDiffusion = field(kw_only=True)

    @property
    def speakers(self) -> dict[str, int]:
        """Name -> id of the diffusion model."""
        return dict(self.engine.facts.get("speakers") or {})

    @property
    def n_speakers(self) -> int:
        """Rows of its speaker embedding."""
        return int(self.engine.facts["n_speakers"])

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
        """Sing a window, float32 [T * hop_length]."""
        n_frames = len(window.f0)
        mode = self.engine.facts.get("unit_interpolate_mode", self.manifest.unit_interpolate_mode)
        units = stretch(self.blended(window, options), n_frames, mode)
        loudness = fit(frame_rms(window.audio, self.hop_length), n_frames)
        audio = self.engine.sing(units, window.f0, loudness, window.speaker, options.seed)
        return self.finish(audio, units, window.f0, window, options)


def generator_inputs(manifest: Manifest) -> set[str]:
    """The names that a generator's graph takes."""
    return {"c", "f0", "mel2ph", "uv", "noise", "sid"} | ({"vol"} if manifest.vol_embedding else set())


def load_onnx(options: ModelOptions, folder: Path) -> Svc:
    """A converter that runs the graphs of a folder.

    Raises:
        UserError: the folder or a part is missing or broken, or parts do not fit together.
    """
    manifest = Manifest.load(folder)
    encoder = Session(manifest.file(folder, "encoder", "--onnx"), {"source"}, options.device)
    load = _load_diffusion_voice if options.only_diffusion else _load_voice
    voice = load(options, folder, manifest, encoder)
    return Svc(voice, GraphPitchFinder.of(folder, manifest, options.device))


def _load_voice(options: ModelOptions, folder: Path, manifest: Manifest, encoder: Session) -> GraphVoice:
    path = manifest.file(folder, "generator", "--onnx")
    generator = Session(path, generator_inputs(manifest), options.device)
    _refuse_other_width(encoder, generator.width("c", 2), "the generator", manifest)
    refiners: tuple[Refiner, ...] = ()
    if options.shallow_diffusion:
        engine = GraphDiffusion.load(folder, manifest, "--shallow_diffusion", options.device)
        refiners = (GraphShallowDiffusion(engine, manifest.speakers),)
    elif options.enhance:
        refiners = (_load_enhancer(options, folder, manifest),)
    return GraphVoice(folder, manifest, encoder, options, refiners, generator=generator)


def _load_diffusion_voice(
    options: ModelOptions, folder: Path, manifest: Manifest, encoder: Session
) -> GraphDiffusionVoice:
    engine = GraphDiffusion.load(folder, manifest, "--only_diffusion", options.device)
    check_k_step(1, engine.facts["k_step_max"], engine.facts["timesteps"], shallow=False)
    _refuse_other_width(encoder, engine.condition.width("units", 2), "the diffusion model", manifest)
    refiners = (_load_enhancer(options, folder, manifest),) if options.enhance else ()
    return GraphDiffusionVoice(folder, manifest, encoder, options, refiners, engine=engine)


def _load_enhancer(options: ModelOptions, folder: Path, manifest: Manifest) -> GraphEnhancer:
    return GraphEnhancer(GraphVocoder.load(folder, manifest, "--enhance", options.device))


def _refuse_other_width(encoder: Session, taken: int, who: str, manifest: Manifest) -> None:
    given = encoder(source=np.zeros((1, 1, SHORTEST), dtype=np.float32)).shape[-1]
    if taken != given:
        raise UserError(
            f"the encoder gives units of {given} channels, {who} takes {taken}",
            encoder.path,
            f"use the encoder that the model was trained with: {manifest.speech_encoder}",
        )
