"""A voice made of graphs: songs are converted with onnxruntime, numpy, soxr and soundfile alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from modules.audio.loudness import adjust_envelope
from modules.audio.resample import resample
from modules.errors import UserError
from modules.inference.options import InferenceOptions, ModelOptions
from modules.inference.svc import Svc
from modules.inference.windows import WindowInput, fit
from modules.onnx.arrays import frame_rms, interpolate, unit_frames
from modules.onnx.manifest import Manifest
from modules.onnx.pitch import GraphPitchFinder
from modules.onnx.session import Session

ENCODER_RATE = 16000  # Hz
SHORTEST = 400  # samples that an encoder needs for one frame


@dataclass
class GraphVoice:
    """The graphs of a folder.

    Attributes:
        encoder: audio at 16 kHz [1, 1, n] to units [1, F, dim].
        generator: see modules.onnx.export_generator.
        f0_decoder: the model's own pitch, loaded when first asked for.
    """

    folder: Path
    manifest: Manifest
    encoder: Session
    generator: Session
    device: str | None = None
    _f0_decoder: Session | None = field(default=None, repr=False)

    @property
    def sample_rate(self) -> int:
        """Hz, of input windows and output."""
        return self.manifest.sampling_rate

    @property
    def hop_length(self) -> int:
        """Samples a frame."""
        return self.manifest.hop_length

    @property
    def speakers(self) -> dict[str, int]:
        """Name -> id."""
        return dict(self.manifest.speakers)

    @property
    def n_speakers(self) -> int:
        """Rows of the speaker embedding."""
        return self.manifest.n_speakers

    def check(self, options: InferenceOptions) -> None:
        """Refuse what needs torch or a part that is not there. Raises UserError."""
        if options.cluster_infer_ratio:
            raise _needs_torch("k-means centres and retrieval", "--cluster_infer_ratio")
        if options.second_encoding:
            raise _needs_torch("diffusion", "--second_encoding")
        if options.auto_predict_f0:
            self._load_f0_decoder()

    def render(self, window: WindowInput, options: InferenceOptions) -> np.ndarray:
        """Sing a window in the other voice, float32 [T * hop_length]."""
        n_frames = len(window.f0)
        inputs = self._inputs(window, n_frames)
        if options.auto_predict_f0:
            inputs["f0"] = self._load_f0_decoder()(**inputs)
        random = np.random.Generator(np.random.PCG64(options.seed))
        shape = (1, self.manifest.inter_channels, n_frames)
        inputs["noise"] = random.standard_normal(shape, dtype=np.float32) * np.float32(options.noise_scale)
        if "seed" in self.generator.optional:
            inputs["seed"] = np.array([options.seed], dtype=np.int64)
        out = self.generator(**inputs).reshape(-1)
        if options.loudness_envelope_adjustment != 1:
            rate = self.sample_rate
            out = adjust_envelope(window.audio, rate, out, rate, options.loudness_envelope_adjustment)
        return out

    def encode(self, audio: np.ndarray) -> np.ndarray:
        """Units [F, dim] of audio [n] at the model's rate, 50 frames a second."""
        wave = resample(audio, self.sample_rate, ENCODER_RATE)
        wave = np.pad(wave, (0, max(0, SHORTEST - len(wave))))
        return self.encoder(source=wave[None, None])[0]

    def _inputs(self, window: WindowInput, n_frames: int) -> dict[str, np.ndarray]:
        units = self.encode(window.audio)
        mode = self.manifest.unit_interpolate_mode
        if mode == "linear":
            units, frames = interpolate(units, n_frames), np.arange(n_frames)
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
            self._f0_decoder = Session(path, generator_inputs(self.manifest) - {"noise"}, self.device)
        return self._f0_decoder


def generator_inputs(manifest: Manifest) -> set[str]:
    """The names that a generator's graph takes."""
    return {"c", "f0", "mel2ph", "uv", "noise", "sid"} | ({"vol"} if manifest.vol_embedding else set())


def load_onnx(options: ModelOptions, folder: Path) -> Svc:
    """A converter that runs the graphs of a folder.

    Raises:
        UserError: the folder or a part is missing or broken, parts do not fit together, or an option needs torch.
    """
    for wanted, flag in (
        (options.shallow_diffusion, "--shallow_diffusion"),
        (options.only_diffusion, "--only_diffusion"),
        (options.enhance, "--enhance"),
        (options.feature_retrieval, "--feature_retrieval"),
    ):
        if wanted:
            raise _needs_torch("this", flag)
    manifest = Manifest.load(folder)
    encoder = Session(manifest.file(folder, "encoder", "--onnx"), {"source"}, options.device)
    generator = Session(
        manifest.file(folder, "generator", "--onnx"), generator_inputs(manifest), options.device
    )
    taken = generator.width("c", 2)
    given = encoder(source=np.zeros((1, 1, SHORTEST), dtype=np.float32)).shape[-1]
    if taken != given:
        raise UserError(
            f"the encoder gives units of {given} channels, the generator takes {taken}",
            encoder.path,
            f"use the encoder that the model was trained with: {manifest.speech_encoder}",
        )
    voice = GraphVoice(folder, manifest, encoder, generator, options.device)
    return Svc(voice, GraphPitchFinder.of(folder, manifest, options.device))


def _needs_torch(what: str, flag: str) -> UserError:
    return UserError(f"{what} cannot run on ONNX graphs", flag, "leave the flag out, or convert without --onnx")
