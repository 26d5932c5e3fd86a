"""The speech encoders as graphs: audio [1, 1, n] at 16 kHz to units [1, F, width], of up to 30 s."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.errors import UserError
from modules.onnx.export.graph import Graph, Input
from modules.onnx.export.spectra import power_spectrum, spectrum_kernel
from vencoder.encoder import HOP_LENGTH, SpeechEncoder
from vencoder.hubert import ConvFrontEnd, HubertEncoder, HubertModel
from vencoder.layers import set_precision
from vencoder.wavlm import WavlmModel, bucket_of
from vencoder.whisper import MEL_HOP, MEL_PER_FRAME, N_FFT, POSITIONS, WhisperEncoder, WhisperModel, mel_filters

_SAMPLES = 9000  # to trace with; the graph takes any length


def encoder_graph(encoder: SpeechEncoder, half: bool = False) -> Graph:
    """The graph of an encoder that was loaded in fp32; its layers in float16 with ``half``.

    Raises:
        UserError: nothing is known of how to export this kind.
    """
    module: ExportHubert | ExportWhisper
    if isinstance(encoder, HubertEncoder):
        module = ExportHubert(encoder)
    elif isinstance(encoder, WhisperEncoder):
        module = ExportWhisper(encoder)
    else:
        kind = type(encoder).__name__
        raise UserError(f"{kind} cannot be exported", "--parts", "leave the encoder out, or use it as an ONNX file")
    if half:
        set_precision(module.model, torch.float16)
    example = torch.randn(1, 1, _SAMPLES) / 10
    return Graph(module, {"source": Input(example, {2: "samples"})}, {"embed": {1: "F"}})


class ExportHubert(nn.Module):
    """HubertEncoder.encode for one clip."""

    def __init__(self, encoder: HubertEncoder) -> None:
        super().__init__()
        self.model: HubertModel = encoder.model
        self.front_end = ExportFrontEnd(self.model.front_end)
        if isinstance(self.model, WavlmModel):
            self.model.attention_bias = partial(attention_bias, self.model)  # type: ignore[method-assign]
        self.pad, self.normalize = encoder.pad, encoder.normalize

    def forward(self, source: Tensor) -> Tensor:
        if self.normalize:
            centred = source - source.mean()
            source = centred / torch.sqrt(centred.square().mean() + 1e-5)
        dtype = self.model.feature_projection.weight.dtype
        return self.model(self.front_end(F.pad(source, (self.pad, self.pad)), dtype))


def attention_bias(model: WavlmModel, frames: int) -> Tensor:
    """WavlmModel.attention_bias without windows of a length that is not known beforehand."""
    index = torch.arange(frames)
    buckets = bucket_of(index[None] - index[:, None], model.position_bias.num_embeddings, model.longest)
    return model.position_bias(buckets).permute(2, 0, 1)[None]


class ExportFrontEnd(nn.Module):
    """ConvFrontEnd as the convolutions that it is.

    That one folds the first norm into the first weights, clip by clip, which saves time on a CPU; a graph has a node
    for that norm.
    """

    def __init__(self, front_end: ConvFrontEnd) -> None:
        super().__init__()
        self.norm_each, self.norms, self.scale = front_end.norm_each, front_end.norms, front_end.scale
        self.strides = [stride for _, _, stride in front_end.convs]
        weights = [front_end.first_weight.detach().T[:, None]]
        biases: list[Tensor | None] = [front_end.first_bias]
        for linear, (_, kernel, _) in zip(front_end.linears, front_end.convs[1:], strict=True):
            assert isinstance(linear, nn.Linear)
            weights.append(linear.weight.detach().unflatten(1, (kernel, -1)).transpose(1, 2))
            biases.append(linear.bias)
        self.weights = nn.ParameterList(weight.contiguous() for weight in weights)
        self.biases = [None if bias is None else bias.detach() for bias in biases]

    def forward(self, audio: Tensor, dtype: torch.dtype) -> Tensor:
        """Features [1, F, channels] of audio [1, 1, n]."""
        x = audio
        for index, (weight, bias, stride) in enumerate(zip(self.weights, self.biases, self.strides, strict=True)):
            x = F.conv1d(x, weight, bias, stride)
            if self.norm_each:
                x = self.norms[index](x.transpose(1, 2)).transpose(1, 2)
            elif index == 0:
                norm = cast(nn.LayerNorm, self.norms[0])
                x = F.instance_norm(x, weight=norm.weight, bias=norm.bias, eps=norm.eps)
            x = F.gelu(x)
        x = x.transpose(1, 2)
        return (x if self.scale is None else x * self.scale).to(dtype)


class ExportWhisper(nn.Module):
    """WhisperEncoder.encode for one clip of up to 30 s."""

    kernel: Tensor
    filters: Tensor

    def __init__(self, encoder: WhisperEncoder) -> None:
        super().__init__()
        self.model: WhisperModel = encoder.model
        self.padded, self.silence = encoder.padded, encoder.silence
        self.register_buffer("kernel", spectrum_kernel(torch.hann_window(N_FFT)))
        self.register_buffer("filters", mel_filters(encoder.n_mels).clone())

    def forward(self, source: Tensor) -> Tensor:
        samples = source.shape[2]
        frames = samples // HOP_LENGTH
        seen: Any = POSITIONS  # a number of the graph where the clip decides; to mypy an int
        if not self.padded:
            seen = torch.clamp(torch.as_tensor(frames + self.silence), max=POSITIONS)
        mel_frames = seen * MEL_PER_FRAME
        audio = torch.cat([source[:, :, 1 : N_FFT // 2 + 1].flip(2), source], dim=2)
        audio = F.pad(audio, (0, mel_frames * MEL_HOP + N_FFT - samples))
        power = power_spectrum(audio, self.kernel, MEL_HOP)[:, :, :mel_frames]
        mel = torch.log(torch.clamp(self.filters @ power, min=1e-10)) / math.log(10)
        mel = (torch.maximum(mel, mel.amax(dim=(1, 2), keepdim=True) - 8.0) + 4.0) / 4.0
        return self.model(mel)[:, :frames]
