"""Shallow diffusion as graphs: what a sampler calls, and the mel and its vocoder around it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion.denoiser import WaveNet
from diffusion.unit2mel import Unit2Mel
from modules.audio.spectrogram import mel_basis
from modules.onnx.export.decoders import make_exportable
from modules.onnx.export.graph import Graph, Input
from modules.onnx.export.spectra import power_spectrum, reflect, spectrum_kernel
from vdecoder.mel_vocoder import MelExtractor, MelVocoder

_T = 33  # frames to trace with; the graphs take any number


class ExportCondition(nn.Module):
    """Unit2Mel.condition for one clip."""

    def __init__(self, model: Unit2Mel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, units: Tensor, f0: Tensor, volume: Tensor, sid: Tensor | None, aug_shift: Tensor | None
    ) -> Tensor:
        """Condition [1, n_hidden, T].

        Args:
            units: [1, T, dim].
            f0, volume: [1, T], Hz and RMS.
            sid: the mix of the speakers [T, S], where there are several.
            aug_shift: semitones [1], where the model knows the shift of its mels.
        """
        shift = None if aug_shift is None else aug_shift.view(1, 1, 1)
        speaker: Tensor = torch.zeros(1, dtype=torch.int64) if sid is None else sid
        return self.model.condition(units, f0[..., None], volume[..., None], speaker, shift).transpose(1, 2)


class ExportDenoiser(nn.Module):
    """The noise in x [1, 1, M, T] at a step [1], which may lie between two, under a condition [1, n_hidden, T]."""

    def __init__(self, denoiser: WaveNet) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: Tensor, step: Tensor, condition: Tensor) -> Tensor:
        return self.denoiser(x, step, condition)


class ExportMel(nn.Module):
    """MelExtractor without shifts: audio [1, n] to log mel [1, T, M]; n is over half the window."""

    kernel: Tensor
    filters: Tensor

    def __init__(self, extractor: MelExtractor) -> None:
        super().__init__()
        config = self.config = extractor.config
        self.scale = extractor.scale
        window = torch.hann_window(config.win_size)
        missing = config.n_fft - config.win_size
        self.register_buffer("kernel", spectrum_kernel(F.pad(window, (missing // 2, missing - missing // 2))))
        basis = mel_basis(
            config.n_fft, config.num_mels, config.sampling_rate, config.fmin, config.fmax, torch.device("cpu")
        )
        self.register_buffer("filters", basis.clone())

    def forward(self, audio: Tensor) -> Tensor:
        win, hop = self.config.win_size, self.config.hop_size
        padded = reflect(audio[:, None], (win - hop) // 2, (win - hop + 1) // 2)
        magnitude = torch.sqrt(power_spectrum(padded, self.kernel, hop) + 1e-9)
        return (torch.log(torch.clamp(self.filters @ magnitude, min=1e-5)) * self.scale).transpose(1, 2)


class ExportVocoder(nn.Module):
    """MelVocoder.synthesise without its random draws."""

    def __init__(self, vocoder: MelVocoder) -> None:
        super().__init__()
        self.generator = vocoder.generator
        self.scale = vocoder.to_mel.scale
        make_exportable(self.generator)

    def forward(self, mel: Tensor, f0: Tensor, seed: Tensor) -> Tensor:
        """Audio [1, 1, T * hop] of log mel [1, T, M], f0 [1, T] Hz and a seed, int64 [1]."""
        return self.generator(mel.transpose(1, 2) / self.scale, f0, None, seed)


def condition_graph(model: Unit2Mel) -> Graph:
    """units, f0, volume, sid to condition."""
    table = model.spk_embed
    speakers = 1 if table is None else table.num_embeddings
    inputs: dict[str, Input | None] = {
        "units": Input(torch.randn(1, _T, model.unit_embed.in_features), {1: "T"}),
        "f0": Input(torch.linspace(80, 700, _T)[None], {1: "T"}),
        "volume": Input(torch.rand(1, _T), {1: "T"}),
        "sid": None if table is None else Input(torch.full((_T, speakers), 1 / speakers), {0: "T"}),
        "aug_shift": None if model.aug_shift_embed is None else Input(torch.zeros(1), default=True),
    }
    return Graph(ExportCondition(model), inputs, {"condition": {2: "T"}})


def denoiser_graph(model: Unit2Mel) -> Graph:
    """x, step, condition to noise."""
    denoiser = model.decoder.denoise_fn
    mels, hidden = denoiser.input_projection.in_channels, model.unit_embed.out_features
    inputs = {
        "x": Input(torch.randn(1, 1, mels, _T), {3: "T"}),
        "step": Input(torch.tensor([7.5])),
        "condition": Input(torch.randn(1, hidden, _T), {2: "T"}),
    }
    return Graph(ExportDenoiser(denoiser), inputs, {"noise": {3: "T"}})


def mel_graph(extractor: MelExtractor) -> Graph:
    """audio to mel."""
    example = torch.randn(1, extractor.config.hop_size * _T) / 10
    return Graph(ExportMel(extractor), {"audio": Input(example, {1: "samples"})}, {"mel": {1: "T"}})


def vocoder_graph(vocoder: MelVocoder) -> Graph:
    """mel and f0 to audio."""
    inputs = {
        "mel": Input(torch.randn(1, _T, vocoder.config.num_mels), {1: "T"}),
        "f0": Input(torch.linspace(80, 700, _T)[None], {1: "T"}),
        "seed": Input(torch.tensor([52468]), default=True),
    }
    return Graph(ExportVocoder(vocoder), inputs, {"audio": {2: "samples"}})
