"""What the tests of the ONNX export share: torch's path with the draws of the graphs, and comparisons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

import models
from modules.inference.networks import TorchGenerator
from modules.inference.svc import Svc
from modules.inference.voice import Voice
from modules.nn.noise import RowNoise
from modules.onnx.export.decoders import normal, start_phases
from vdecoder.source import SineSource


def run(path: Path, **inputs: Tensor | np.ndarray) -> np.ndarray:
    """The first output of a graph, for those of the inputs that it takes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    known = {value.name for value in (*session.get_inputs(), *session.get_overridable_initializers())}
    feed = {name: np.asarray(value) for name, value in inputs.items() if name in known}
    return session.run(None, feed)[0]


def relative_error(value: Any, reference: Any) -> float:
    """Largest difference over the largest value."""
    value, reference = (np.asarray(array, dtype=np.float64) for array in (value, reference))
    assert value.shape == reference.shape
    return float(np.abs(value - reference).max() / np.abs(reference).max())


def snr_db(value: Any, reference: Any) -> float:
    """Power of the reference over that of the difference, in dB."""
    value, reference = (np.asarray(array, dtype=np.float64) for array in (value, reference))
    assert value.shape == reference.shape
    return float(10 * np.log10(np.square(reference).sum() / np.square(value - reference).sum()))


def model_of(svc: Svc) -> models.SynthesizerTrn:
    """The synthesiser of a converter that runs on torch."""
    assert isinstance(svc.voice, Voice) and isinstance(svc.voice.network, TorchGenerator)
    return svc.voice.network.model


def draw_as_the_graph_does(
    patch: pytest.MonkeyPatch, model: models.SynthesizerTrn, noise: Tensor | None = None
) -> None:
    """Let SynthesizerTrn.infer of ``model`` draw what its graph hashes, and ``noise`` for the prior.

    Without ``noise`` the prior gets what the runner draws from the seed.
    """
    source = model.dec.m_source
    weight = source.l_linear.weight.detach()[0] if isinstance(source, SineSource) else None

    class GraphNoise(RowNoise):
        def __init__(self, device: torch.device, seed: int, lengths: list[int]) -> None:
            self.seed = seed

        def uniform(self, shape: tuple[int, ...]) -> Tensor:
            return start_phases(torch.tensor([self.seed]))

        def normal(self, shape: tuple[int, ...], time: int | None = None) -> Tensor:
            if time == 2:
                random = np.random.Generator(np.random.PCG64(self.seed))
                return torch.from_numpy(random.standard_normal(shape, dtype=np.float32)) if noise is None else noise
            drawn = normal(torch.arange(shape[1]), torch.tensor([self.seed]))
            if weight is None:
                return drawn[None]
            # nine draws whose weighted sum is the one that the graph draws
            return (drawn[:, None] * weight / weight.norm())[None]

    patch.setattr(models, "RowNoise", GraphNoise)
