"""The f0 predictors that are networks, as graphs.

rmvpe and fcpe: audio [1, n] at 16 kHz, n over 2048, and a voicing threshold [1], to f0 [frames], 10 ms apart.
crepe: stretches of 1024 samples [frames, 1024] at 16 kHz to the probabilities of 360 bins; the path through them is
left to the caller.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.f0.base import F0Predictor
from modules.f0.crepe import CrepePredictor
from modules.f0.fcpe import FcpePredictor
from modules.f0.neural import HOP_LENGTH, MEL_FLOOR, SaliencePredictor, local_average_f0
from modules.f0.rmvpe import MULTIPLE, RmvpePredictor
from modules.onnx.export.graph import Graph, Input
from modules.onnx.export.spectra import power_spectrum, reflect, spectrum_kernel

_SAMPLES = 9000  # to trace with; the graph takes any length


def pitch_graph(predictor: F0Predictor) -> Graph:
    """The graph of a loaded rmvpe, fcpe or crepe."""
    if isinstance(predictor, CrepePredictor):
        return Graph(
            ExportCrepe(predictor.model), {"frames": Input(torch.randn(3, 1024), {0: "N"})}, {"probabilities": {0: "N"}}
        )
    module: nn.Module
    if isinstance(predictor, RmvpePredictor):
        module = ExportRmvpe(predictor)
    else:
        assert isinstance(predictor, FcpePredictor)
        module = ExportFcpe(predictor)
    inputs = {
        "audio": Input(torch.randn(1, _SAMPLES) / 10, {1: "samples"}),
        "threshold": Input(torch.tensor([predictor.threshold]), default=True),
    }
    return Graph(module, inputs, {"f0": {0: "frames"}})


class ExportSalience(nn.Module):
    """What rmvpe and fcpe share."""

    kernel: Tensor
    filters: Tensor

    def __init__(self, predictor: SaliencePredictor, filters: Tensor) -> None:
        super().__init__()
        self.register_buffer("kernel", spectrum_kernel(predictor.hann))
        self.register_buffer("filters", filters.clone())
        self.pad = predictor.pad

    def power(self, audio: Tensor) -> Tensor:
        """[1, bins, frames] of audio [1, n]."""
        return power_spectrum(reflect(audio[:, None], self.pad, self.pad), self.kernel, HOP_LENGTH)

    def log_mel(self, magnitude: Tensor) -> Tensor:
        """[1, mels, frames]."""
        return torch.log(torch.clamp(self.filters @ magnitude, min=MEL_FLOOR))


class ExportRmvpe(ExportSalience):
    """RmvpePredictor.raw_track of audio at 16 kHz."""

    cents: Tensor

    def __init__(self, predictor: RmvpePredictor) -> None:
        super().__init__(predictor, predictor.filters)
        self.network = predictor.network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.register_buffer("cents", predictor.cents.clone())

    def forward(self, audio: Tensor, threshold: Tensor) -> Tensor:
        mel = self.log_mel(torch.sqrt(self.power(audio)))
        frames = mel.shape[2]
        blocks = (frames + MULTIPLE - 1) // MULTIPLE
        salience = self.network(F.pad(mel, (0, blocks * MULTIPLE - frames)))[0, :frames]
        return local_average_f0(salience, self.cents, threshold)


class ExportFcpe(ExportSalience):
    """FcpePredictor.raw_track of audio at 16 kHz."""

    def __init__(self, predictor: FcpePredictor) -> None:
        super().__init__(predictor, predictor.filters)
        self.network = predictor.network

    def forward(self, audio: Tensor, threshold: Tensor) -> Tensor:
        mel = self.log_mel(torch.sqrt(self.power(audio) + 1e-9))
        mel = torch.cat([mel, mel[:, :, -1:]], dim=2)
        salience = self.network(mel.transpose(1, 2))[0]
        return local_average_f0(salience, self.network.cent_table, threshold, repeat_edges=True)


class ExportCrepe(nn.Module):
    """CREPE with the normalisation of its frames."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor) -> Tensor:
        centred = frames - frames.mean(dim=1, keepdim=True)
        deviation = torch.sqrt(centred.square().sum(dim=1, keepdim=True) / (frames.shape[1] - 1))
        return self.model(centred / torch.clamp(deviation, min=1e-10))
