"""The stand-alone NSF-HiFiGAN: audio to the mel it was trained on, and that mel with f0 back to audio.

Files are those of openvpi's releases: a checkpoint named ``model`` with a config.json beside it.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor

from modules import checkpoint
from modules.audio.spectrogram import mel_basis
from modules.config import Size, decoder_misfits
from modules.errors import UserError
from modules.nn.noise import Noise
from modules.nn.weight_norm import fold_weight_norm
from modules.text_formats import parse_json, read_text
from pretrain import require
from vdecoder import DecoderSizes
from vdecoder.nsf_hifigan import NSFHiFiGAN
from vdecoder.source import SineSource, frame_phase

Sizes = Annotated[tuple[Size, ...], Field(min_length=1, max_length=16)]
# What a vocoder type multiplies the natural-log mel with: DDSP-SVC's log10 models hold decades.
MEL_SCALES = {"nsf-hifigan": 1.0, "nsf-hifigan-log10": 1 / math.log(10)}
RESAMPLING_WIDTH = 128  # zero crossings of torchaudio's filter; the default of 6 dulls the top octave


@dataclass(frozen=True)
class VocoderConfig:
    """The values of a vocoder's config.json that are used; the released files hold training ones besides.

    Attributes:
        n_fft, win_size, hop_size: samples.
        sampling_rate, fmin, fmax: Hz.
    """

    resblock: str
    upsample_rates: Sizes
    upsample_kernel_sizes: Sizes
    upsample_initial_channel: Size
    resblock_kernel_sizes: Sizes
    resblock_dilation_sizes: Annotated[tuple[Sizes, ...], Field(max_length=16)]
    num_mels: Size
    n_fft: Size
    hop_size: Size
    win_size: Size
    sampling_rate: Annotated[int, Field(ge=1000, le=10**6)]
    fmin: Annotated[float, Field(ge=0)]
    fmax: Annotated[float, Field(gt=0)]

    @classmethod
    def load(cls, model_path: str | Path) -> VocoderConfig:
        """The config.json in the folder of a vocoder checkpoint.

        Raises:
            UserError: there is none, or it lacks a value.
        """
        path = Path(model_path).parent / "config.json"
        if not path.is_file() and path.parent.name == "nsf_hifigan":  # the vocoder of the table of pretrain/
            require("nsf_hifigan", path.parent.parent)
        if not path.is_file():
            fix = "put the vocoder's two files, model and config.json, into that folder"
            raise UserError("there is no vocoder config", path, fix)
        try:
            values = parse_json(read_text(path))
        except ValueError as error:
            raise UserError(f"not valid JSON: {error}", path, "get the vocoder again") from None
        return cls.from_dict(values, path)

    @classmethod
    def from_dict(cls, values: Any, source: object = "config.json") -> VocoderConfig:
        """Keep the known values. Raises UserError naming those that are missing or do not fit together."""
        names = [field.name for field in fields(cls)]
        missing = [name for name in names if not isinstance(values, dict) or name not in values]
        if missing:
            raise UserError(f"the vocoder config lacks {', '.join(missing)}", source, "get the vocoder again")
        try:
            config: VocoderConfig = TypeAdapter(cls).validate_python({name: values[name] for name in names})
        except ValidationError as error:
            first = error.errors()[0]
            what = f"{first['msg']}; found {first['input']!r}"
            raise UserError(what, f"{source}, key {first['loc'][0]}", "get the vocoder again") from None
        for misfit in decoder_misfits(config, config.hop_size, "hop_size"):
            raise UserError(misfit.what, f"{source}, key {misfit.key}", "get the vocoder again")
        if not config.hop_size <= config.win_size <= config.n_fft or config.fmin >= config.fmax:
            raise UserError("its windows or its range of the mel make no sense", source, "get the vocoder again")
        return config


class MelExtractor:
    """Audio to the log mel that a vocoder was trained on.

    Args:
        config: the vocoder's.
        kind: a key of MEL_SCALES.
    """

    def __init__(self, config: VocoderConfig, kind: str = "nsf-hifigan") -> None:
        self.config = config
        self.scale = MEL_SCALES[kind]

    @classmethod
    def load(cls, model_path: str | Path, kind: str = "nsf-hifigan") -> MelExtractor:
        """For the vocoder at ``model_path``, of which only the config.json is read."""
        return cls(VocoderConfig.load(model_path), kind)

    def __call__(self, audio: Tensor, key_shift: float = 0.0, speed: float = 1.0) -> Tensor:
        """Log mel.

        Args:
            audio: [B, N] at the vocoder's sampling rate, in [-1, 1].
            key_shift: semitones by which the mel sounds higher than the audio.
            speed: frames lie this many times farther apart.

        Returns:
            [B, T, num_mels], T about N / (hop_size * speed).
        """
        config = self.config
        factor = 2 ** (key_shift / 12)
        # A longer window at the same bins reads every partial at a higher bin: a shift in key.
        n_fft, win = round(config.n_fft * factor), round(config.win_size * factor)
        hop = round(config.hop_size * speed)
        audio = _pad_for_frames(audio.float(), win, hop)
        window = _window(win, audio.device)
        spectrum = torch.stft(audio, n_fft, hop, win, window, center=False, return_complex=True)
        magnitude = torch.sqrt(spectrum.real.square() + spectrum.imag.square() + 1e-9)
        bins = config.n_fft // 2 + 1
        if key_shift != 0:
            kept = magnitude[:, :bins] * (config.win_size / win)
            magnitude = F.pad(kept, (0, 0, 0, bins - kept.shape[1]))
        basis = mel_basis(config.n_fft, config.num_mels, config.sampling_rate, config.fmin, config.fmax, audio.device)
        mel = torch.log(torch.clamp(basis @ magnitude, min=1e-5)) * self.scale
        return mel.transpose(1, 2)


def _pad_for_frames(audio: Tensor, win: int, hop: int) -> Tensor:
    """Pad [B, N] so that frame i is centred on hop i; too short for a reflection means silence around."""
    left = (win - hop) // 2
    right = max((win - hop + 1) // 2, win - audio.shape[-1] - left)
    mode = "reflect" if right < audio.shape[-1] else "constant"
    return F.pad(audio.unsqueeze(1), (left, right), mode=mode).squeeze(1)


@functools.lru_cache(maxsize=64)
def _window(length: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # a tensor made inside inference_mode could not be used in training later
        return torch.hann_window(length, device=device)


class FrameSource(SineSource):
    """The vocoder's excitation, as its weights were trained with it.

    Start phases are added to every sample's step in the first frame, so overtones begin there at random
    frequencies and keep what phase they end with.
    """

    def cycles(self, f0: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        step = self._cycles_a_sample(f0)
        step[:, 0] = torch.remainder(step[:, 0] + start, 1)
        return step, frame_phase(step, torch.zeros_like(start), self.hop_length)


class MelGenerator(NSFHiFiGAN):
    """Mel [B, num_mels, T] and f0 to audio: the synthesiser's decoder without speakers, with another excitation.

    The published vocoder rounds paddings down and the synthesiser up. That differs at odd rates alone, where
    rounding down gives stages of unequal lengths; so here they are rounded up too.
    """

    def __init__(self, config: VocoderConfig) -> None:
        sizes = DecoderSizes(
            config.num_mels,
            config.resblock,
            config.resblock_kernel_sizes,
            config.resblock_dilation_sizes,
            config.upsample_rates,
            config.upsample_initial_channel,
            config.upsample_kernel_sizes,
            gin_channels=None,
            sampling_rate=config.sampling_rate,
        )
        super().__init__(sizes)

    def make_source(self, sampling_rate: int) -> SineSource:
        return FrameSource(sampling_rate, self.hop_length)


class MelVocoder:
    """A loaded vocoder: ``extract`` and ``synthesise``.

    Args:
        config: the vocoder's.
        generator: with its weights.
        kind: a key of MEL_SCALES.
        device: where it runs.
    """

    def __init__(
        self,
        config: VocoderConfig,
        generator: MelGenerator,
        kind: str = "nsf-hifigan",
        device: str | torch.device = "cpu",
    ) -> None:
        self.config = config
        self.device = torch.device(device)
        self.generator = generator.to(self.device).eval()
        fold_weight_norm(self.generator)
        self.to_mel = MelExtractor(config, kind)

    @classmethod
    def load(cls, path: str | Path, kind: str = "nsf-hifigan", device: str | torch.device = "cpu") -> MelVocoder:
        """Read the checkpoint and the config.json beside it.

        Raises:
            UserError: a file is missing or broken, or the weights are not of this config.
        """
        config = VocoderConfig.load(path)
        state = checkpoint.load(path)
        if not isinstance(state, dict) or not isinstance(state.get("generator"), dict):
            raise UserError("the file holds no vocoder (no 'generator')", path, "get the vocoder again")
        generator = MelGenerator(config)
        checkpoint.load_into(generator, state["generator"], path)
        return cls(config, generator, kind, device)

    @torch.inference_mode()
    def extract(self, audio: Tensor, sample_rate: int, key_shift: float = 0.0) -> Tensor:
        """Log mel [B, T, num_mels] of audio [B, N] at any rate."""
        audio = resample(audio.to(self.device), sample_rate, self.config.sampling_rate)
        return self.to_mel(audio, key_shift)

    @torch.inference_mode()
    def synthesise(self, mel: Tensor, f0: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Audio [B, 1, T * hop_size].

        Args:
            mel: log mel [B, T, num_mels].
            f0: Hz, [B, T] or longer; 0 where unvoiced.
            generator: where the source's noise comes from; the global generator otherwise.
        """
        natural = mel.to(self.device).transpose(1, 2) / self.to_mel.scale
        f0 = f0[:, : mel.shape[1]].to(self.device)
        return self.generator(natural, f0, None, Noise(self.device, generator))


def resample(audio: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """Audio [B, N] at another rate, [B, ceil(N * to_rate / from_rate)]; with a filter that keeps the top octave."""
    if from_rate == to_rate:
        return audio
    from torchaudio.functional import resample as torchaudio_resample

    return torchaudio_resample(audio, from_rate, to_rate, lowpass_filter_width=RESAMPLING_WIDTH)
