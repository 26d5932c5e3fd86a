"""The generator as one graph: what so-vits-svc 4.1 exports, by its names."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import SynthesizerTrn
from modules.nn.pitch import f0_to_log, log_to_f0, normalize_f0
from modules.nn.wavenet import sample
from modules.onnx.export.decoders import make_exportable
from modules.onnx.export.graph import Graph, Input


class ExportGenerator(nn.Module):
    """SynthesizerTrn.infer for one row, without its random draws.

    Args:
        model: prepared for inference in fp32. Its source is replaced.
    """

    def __init__(self, model: SynthesizerTrn) -> None:
        super().__init__()
        self.model = model
        make_exportable(model.dec)

    def forward(
        self,
        c: Tensor,
        f0: Tensor,
        mel2ph: Tensor,
        uv: Tensor,
        noise: Tensor,
        sid: Tensor,
        vol: Tensor | None,
        seed: Tensor,
    ) -> Tensor:
        """Audio [1, 1, T * hop_length].

        Args:
            c: units [1, F, ssl_dim].
            f0: [1, T] Hz.
            mel2ph: int64 [1, T], the frame of c for each frame of f0, counted from 1; 0 is no frame, zeros.
            uv: [1, T], 1 where voiced.
            noise: [1, inter, T], normal numbers times the noise scale.
            sid: speaker, int64 [1], or the mix [T, S].
            vol: RMS [1, T], for models with volume embedding.
            seed: int64 [1], of the excitation.
        """
        model = self.model
        speaker = model.speaker_condition(sid)
        x = model.embed(gather_units(c, mel2ph), uv, vol, None)
        m_p, logs_p = model.enc_p(x, f0, None)
        z = model.flow(sample(m_p, logs_p, noise), None, speaker, reverse=True)
        return model.dec(z, f0, speaker, seed)


class ExportF0Decoder(nn.Module):
    """The part of SynthesizerTrn.infer that predicts f0 (-a)."""

    def __init__(self, model: SynthesizerTrn) -> None:
        super().__init__()
        self.model = model

    def forward(self, c: Tensor, f0: Tensor, mel2ph: Tensor, uv: Tensor, sid: Tensor, vol: Tensor | None) -> Tensor:
        """f0 [1, T] in Hz; arguments as ExportGenerator."""
        model = self.model
        x = model.embed(gather_units(c, mel2ph), uv, vol, None)
        norm_lf0 = normalize_f0(f0_to_log(f0)[:, None], None, uv)
        assert model.f0_decoder is not None
        return log_to_f0(model.f0_decoder(x, norm_lf0, None, model.speaker_condition(sid)))[:, 0]


def gather_units(c: Tensor, mel2ph: Tensor) -> Tensor:
    """Units [1, F, dim] at the frames that mel2ph [1, T] names from 1 on, [1, dim, T]."""
    frames = F.pad(c, (0, 0, 1, 0))
    return torch.index_select(frames, 1, mel2ph[0]).transpose(1, 2)


def generator_graph(model: SynthesizerTrn) -> Graph:
    """The graph of onnx_export.py."""
    inter = model.enc_p.proj.out_channels // 2
    inputs = _inputs(model)
    inputs["noise"] = Input(torch.randn(1, inter, _T), {2: "T"})
    names = ["c", "f0", "mel2ph", "uv", "noise", "sid", "vol"]
    ordered: dict[str, Input | None] = {name: inputs.get(name) for name in names}
    ordered["seed"] = Input(torch.tensor([52468]), default=True)
    return Graph(ExportGenerator(model), ordered, {"audio": {2: "samples"}})


def f0_decoder_graph(model: SynthesizerTrn) -> Graph:
    """The graph that predicts f0, for models that can."""
    inputs = _inputs(model)
    ordered: dict[str, Input | None] = {name: inputs.get(name) for name in ("c", "f0", "mel2ph", "uv", "sid", "vol")}
    return Graph(ExportF0Decoder(model), ordered, {"predicted_f0": {1: "T"}})


_F, _T = 19, 33  # lengths to trace with; the graph takes any


def _inputs(model: SynthesizerTrn) -> dict[str, Input]:
    speakers = model.n_speakers
    mixed = speakers > 1
    inputs = {
        "c": Input(torch.randn(1, _F, model.ssl_dim), {1: "F"}),
        "f0": Input(torch.linspace(80, 700, _T)[None], {1: "T"}),
        "mel2ph": Input((torch.arange(_T) * _F // _T + 1)[None], {1: "T"}),
        "uv": Input((torch.arange(_T) % 7 > 1).float()[None], {1: "T"}),
        "sid": Input(torch.full((_T, speakers), 1 / speakers), {0: "T"}) if mixed else Input(torch.tensor([0])),
    }
    if model.emb_vol is not None:
        inputs["vol"] = Input(torch.rand(1, _T), {1: "T"})
    return inputs
