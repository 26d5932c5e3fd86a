"""The whole conversion against the published runs of so-vits-svc 4.1.

They are a guide and not an equality: the original centres each piece in zeros (A4), here it lies where it belongs, so
pieces are compared after moving them by exactly that offset. The original hears the song for its units through another
resampling filter than in training; here both are the one of training. With its filter put in for the test, units, f0
and audio agree; i_in22k_pad0.3 shows how close the result is without.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from modules.inference import voice
from modules.inference.options import InferenceOptions, ModelOptions
from modules.inference.svc import Svc
from tests.parity import fill, golden

GOLDENS = Path(__file__).parent / "parity" / "goldens"
FLAGS = {
    "trans": "tran",
    "slice_db": "slice_db",
    "auto_predict_f0": "auto_predict_f0",
    "noise_scale": "noice_scale",
    "pad_seconds": "pad_seconds",
    "clip": "clip_seconds",
    "linear_gradient": "lg_num",
    "linear_gradient_retain": "lgr_num",
    "f0_predictor": "f0_predictor",
    "f0_filter_threshold": "cr_threshold",
    "loudness_envelope_adjustment": "loudness_envelope_adjustment",
}
# Samples of the song that one piece alone makes, and by how much the original moves them: the centring of A4.
STRETCHES = {
    "i_base": [(0, 194922, 215), (194922, 323694, 164)],
    "i_lea0.3": [(0, 194922, 215), (194922, 323694, 164)],
    "i_tran3_auto": [(0, 194922, 215), (194922, 323694, 164)],
    "i_clip2_lg0.5": [(0, 66150, 102), (88200, 154350, 119), (194922, 261000, 102)],
    "i_in22k_pad0.3": [(0, 308700, 156)],
}
EDGE = 1000  # samples around joints and fades


class Network(NamedTuple):
    """What went into the generator."""

    units: np.ndarray
    f0: np.ndarray
    uv: np.ndarray


@pytest.fixture(scope="module")
def svc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Svc]:
    """The golden's small model with the full-size HubertSoft."""
    folder = tmp_path_factory.mktemp("golden")
    hubert = json.loads((GOLDENS / "manifests/hubert_soft.json").read_text(encoding="utf-8"))
    torch.save(filled(hubert), folder / "hubert-soft-0d54a1f4.pt")
    generator = json.loads((GOLDENS / "manifests/i_G.json").read_text(encoding="utf-8"))
    torch.save({"model": filled(generator)}, folder / "G_1.pth")
    meta, _ = golden.load(GOLDENS / "i_base.npz")
    (folder / "config.json").write_text(json.dumps(meta["config"]["config_json"]), encoding="utf-8")
    model = ModelOptions(folder / "G_1.pth", folder / "config.json", device="cpu", precision="fp32")
    yield Svc.load(model, folder)
    (folder / "hubert-soft-0d54a1f4.pt").unlink()  # 378 MB


def filled(manifest: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value) for key, value in fill.fill_state_dict(manifest).items()}


def convert(
    svc: Svc, case: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, Any], dict[str, np.ndarray], np.ndarray, list[Network]]:
    """Run a case; gives its meta, its arrays, our audio, and what went into the generator."""
    meta, arrays = golden.load(GOLDENS / f"{case}.npz")
    signal = meta["inputs"]["wav"]
    soundfile.write(folder / "in.wav", golden.make_input(signal), signal["args"]["sr"], subtype="PCM_16")
    fed: list[Network] = []
    model = svc.voice.network.model  # type: ignore[union-attr]
    infer = model.infer

    def listen(units: torch.Tensor, f0: torch.Tensor, uv: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        fed.append(Network(units.numpy(), f0.numpy(), uv.numpy()))
        return infer(units, f0, uv, *args, **kwargs)

    monkeypatch.setattr(model, "infer", listen)
    options = InferenceOptions(**{ours: meta["call"][theirs] for ours, theirs in FLAGS.items()})
    svc.convert_file(folder / "in.wav", folder / "out.wav", meta["call"]["spk"], options)
    return meta, arrays, soundfile.read(folder / "out.wav")[0], fed


def original_filter(audio: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    return torchaudio.functional.resample(torch.from_numpy(np.ascontiguousarray(audio)), from_rate, to_rate).numpy()


def likeness(arrays: dict[str, np.ndarray], got: np.ndarray, start: int, stop: int, offset: int) -> float:
    """Correlation of the golden's samples from ``start`` to ``stop`` with ours ``offset`` earlier."""
    key = next(key for key in arrays if key.startswith("out_audio@"))
    step = int(key.rsplit("@", 1)[1])
    at = np.arange(0, len(got), step)
    at = at[(at >= start + EDGE) & (at < stop - EDGE)]
    return float(np.corrcoef(arrays[key][at // step], got[at - offset])[0, 1])


@pytest.mark.parametrize("case", STRETCHES)
def test_conversion_equals_the_original_but_for_its_faults(
    svc: Svc, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if case != "i_in22k_pad0.3":
        monkeypatch.setattr(voice, "resample", original_filter)
    meta, arrays, got, fed = convert(svc, case, tmp_path, monkeypatch)
    assert [len(got)] == meta["outputs"]["audio"]["shape"]
    assert [network.f0.shape[1] for network in fed] == [frames for _, frames in meta["chunk_audio_len_and_frames"]]
    golden.compare(meta, arrays, "f0_0", fed[0].f0)
    golden.compare(meta, arrays, "uv_0", fed[0].uv)
    if case != "i_in22k_pad0.3":
        golden.compare(meta, arrays, "units0", fed[0].units)
    for start, stop, offset in STRETCHES[case]:
        assert likeness(arrays, got, start, stop, offset) > 0.999
        assert abs(likeness(arrays, got, start, stop, 0)) < 0.5  # the offset matters: it is not just a steady tone
    assert not got[323694 + EDGE :].any() or case == "i_in22k_pad0.3"
