"""Small synthesisers with the parity pack's deterministic weights, for several test files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models import SynthesizerTrn
from tests.parity import fill, golden, signals

GOLDENS = Path(__file__).parent / "parity" / "goldens"

# What a config of the decoder nsf-istft has where one of NSF-HiFiGAN has other values.
ISTFT_SIZES: dict[str, Any] = {
    "vocoder_name": "nsf-istft",
    "resblock_kernel_sizes": [7, 5],
    "resblock_dilation_sizes": [[1, 3], [1]],
    "upsample_rates": [2, 256],
    "upsample_initial_channel": 32,
    "upsample_kernel_sizes": [4, 1024],
}


def read_manifest(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def filled(module: nn.Module, entries: list[list[Any]]) -> nn.Module:
    """``module`` with the values of a manifest, also where its own sizes differ from the manifest's.

    What the manifest does not know stays as it was initialised.
    """
    kinds = {entry[0]: entry for entry in entries}
    own = [[key, list(value.shape), *kinds[key][2:]] for key, value in module.state_dict().items() if key in kinds]
    values = fill.fill_state_dict([entry for entry in own if entry[3] != "buffer"])
    module.load_state_dict({key: torch.from_numpy(value) for key, value in values.items()}, strict=False)
    return module.eval()


def small_synthesiser(variant: str = "default", **changes: Any) -> SynthesizerTrn:
    """The synthesiser of the b cases, in eval mode; ``changes`` go over its config."""
    manifest = read_manifest(GOLDENS / f"manifests/b_{variant}.json")
    options = {"with_posterior": True, **manifest["config_model"], **changes}
    torch.manual_seed(0)
    model = SynthesizerTrn(manifest["spec_channels"], manifest["segment_frames"], **options)
    filled(model, manifest["entries"])
    return model


def song(frames: int = 40, ssl_dim: int = 48, rows: int = 1) -> dict[str, Tensor]:
    """Units, f0, uv and speakers to infer from; rows differ."""
    f0 = torch.stack([torch.from_numpy(signals.f0_curve(frames, seed=row)) for row in range(rows)])
    return {
        "c": torch.from_numpy(fill.fill("song/units", (rows, ssl_dim, frames))),
        "f0": f0,
        "uv": torch.ones(rows, frames),
        "g": torch.arange(rows) % 3,
    }


def snr_db(reference: Tensor, other: Tensor) -> float:
    """Power of ``reference`` over that of the difference, in dB."""
    return float(10 * torch.log10(reference.square().sum() / (reference - other).square().sum()))


def golden_inputs(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    meta, arrays = golden.load(path)
    return meta, arrays, {key: torch.from_numpy(value) for key, value in golden.inputs(meta, arrays).items()}
