"""The graphs of onnx_export.py equal torch, at lengths that they were not traced with."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import models
import onnx_export
from diffusion.unit2mel import build_unit2mel
from modules.audio.io import load_audio
from modules.config import Config
from modules.f0 import get_predictor
from modules.onnx.export.decoders import normal, start_phases, uniform
from modules.onnx.export.diffusion import condition_graph, denoiser_graph, mel_graph, vocoder_graph
from modules.onnx.export.encoders import encoder_graph
from modules.onnx.export.exporter import description
from modules.onnx.export.generator import generator_graph
from modules.onnx.export.graph import export, save
from modules.onnx.export.pitch import pitch_graph
from tests import encoder_files as files
from tests.conftest import ROOT
from tests.onnx_tools import draw_as_the_graph_does, relative_error, run, snr_db
from tests.parity import signals
from tests.standin_voice import small_config, write_encoder, write_model
from tests.synthesiser import ISTFT_SIZES, small_synthesiser
from tests.test_mel_vocoder import write_vocoder
from tests.tiny_diffusion import tiny_diffusion_config
from vdecoder.mel_vocoder import MelVocoder
from vencoder import ENCODERS
from vencoder.dphubert import DphubertEncoder
from vencoder.encoder import SpeechEncoder
from vencoder.hubert import HubertEncoder
from vencoder.hubert_soft import HubertSoftEncoder
from vencoder.wavlm import WavlmEncoder
from vencoder.whisper import WhisperEncoder

SONG = ROOT / "demo/held_out/taro/scarborough_fair.flac"
LENGTHS = (33, 57, 5, 200, 1)  # frames; the first is the one that is traced
NOISE_SCALE = 0.4
FEW_LAYERS: dict[str, Any] = {
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3]],
    "upsample_rates": [8, 8, 8],
    "upsample_kernel_sizes": [16, 16, 16],
    "n_flow_layer": 2,
}


def small_generator(variant: str = "default", **changes: Any) -> models.SynthesizerTrn:
    return models.prepare_for_inference(small_synthesiser(variant, **{**FEW_LAYERS, **changes}), "cpu", "fp32")


@pytest.fixture(scope="module")
def sung() -> np.ndarray:
    """A few seconds of a real song at 16 kHz."""
    audio, _ = load_audio(SONG, 16000)
    return audio[16000 : 16000 * 5]


def generator_inputs(model: models.SynthesizerTrn, frames: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(frames)
    source = max(1, frames * 50 * 512 // 44100)
    f0 = torch.from_numpy(signals.f0_curve(frames, seed=frames)).float()[None]
    uv = (torch.arange(frames) % 5 > 0).float()[None]
    mixed = model.n_speakers > 1
    return {
        "c": torch.randn(1, source, model.ssl_dim),
        "f0": f0 * uv,  # 0 where the excitation is noise
        "mel2ph": (torch.arange(frames) * source // frames + 1)[None],
        "uv": uv,
        "noise": torch.randn(1, model.enc_p.proj.out_channels // 2, frames) * NOISE_SCALE,
        "sid": torch.rand(frames, model.n_speakers).softmax(1) if mixed else torch.zeros(1, dtype=torch.int64),
        "vol": torch.rand(1, frames),
    }


@pytest.mark.parametrize(
    ("variant", "changes"),
    [
        ("default", {}),
        ("snake", {}),
        ("tiny", {}),
        ("transflow_share", {}),
        ("vol", {"n_speakers": 1}),
        ("default", ISTFT_SIZES),
    ],
)
def test_generator_equals_inference_with_the_same_noise(
    variant: str, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_generator(variant, **changes)
    path = tmp_path / "generator.onnx"
    export(generator_graph(copy.deepcopy(model)), path)
    for frames in LENGTHS:
        inputs = generator_inputs(model, frames)
        draw_as_the_graph_does(monkeypatch, model, inputs["noise"] / NOISE_SCALE)
        units = inputs["c"][:, inputs["mel2ph"][0] - 1].transpose(1, 2)
        volume = inputs["vol"] if model.emb_vol is not None else None
        audio, _ = model.infer(units, inputs["f0"], inputs["uv"], inputs["sid"], volume=volume, noise_scale=NOISE_SCALE)
        out = run(path, **inputs)
        assert relative_error(out, audio) < 1e-3
        assert snr_db(out, audio) > 60


def test_frame_zero_of_mel2ph_is_no_units(tmp_path: Path) -> None:
    model = small_generator("tiny")
    path = tmp_path / "generator.onnx"
    export(generator_graph(model), path)
    inputs = generator_inputs(model, 20)
    silent = {**inputs, "mel2ph": torch.zeros(1, 20, dtype=torch.int64)}
    zeros = {**silent, "c": torch.zeros_like(inputs["c"])}
    assert np.array_equal(run(path, **silent), run(path, **zeros))
    assert relative_error(run(path, **inputs), run(path, **silent)) > 0.01
    assert relative_error(run(path, **inputs, seed=np.array([7])), run(path, **inputs)) > 1e-5  # another excitation


def test_a_large_model_keeps_its_weights_in_a_second_file(tmp_path: Path) -> None:
    denoiser = denoiser_graph(build_unit2mel(tiny_diffusion_config()))
    proto = export(denoiser, tmp_path / "whole.onnx")
    inputs = {name: given.example for name, given in denoiser.inputs.items() if given is not None}
    expected = run(tmp_path / "whole.onnx", **inputs)
    save(proto, tmp_path / "split.onnx", largest=1000)
    assert (tmp_path / "split.onnx.data").stat().st_size > 1000
    assert np.array_equal(run(tmp_path / "split.onnx", **inputs), expected)


def test_hashed_noise_is_white_and_normal() -> None:
    index, seed = torch.arange(200_000), torch.tensor([52468])
    values = normal(index, seed).double()
    assert abs(values.mean()) < 0.01 and abs(values.std() - 1) < 0.01
    assert abs((values**4).mean() - 3) < 0.1
    spectrum = torch.fft.rfft(values).abs().square() / len(values)
    bands = spectrum[1:100_001].view(100, 1000).mean(1)
    assert bands.min() > 0.8 and bands.max() < 1.2
    others = [uniform(index, torch.tensor([other]), key) for other, key in ((52468, 1), (52469, 0), (1, 0))]
    first = uniform(index, seed, 0)
    for other in others:
        assert abs(torch.corrcoef(torch.stack([first, other]))[0, 1]) < 0.01
    assert start_phases(seed)[0, 0] == 0 and len(set(start_phases(seed)[0].tolist())) == 9


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """checkpoints/alice of the script, the generator and its encoder; 32 speaker channels, 384 unit channels."""
    root = tmp_path_factory.mktemp("onnx")
    write_model(root / "checkpoints/alice", small_config(vol_embedding=True, gin_channels=32), name="model.pth")
    write_encoder(root / "pretrain")
    flags = ["--root", str(root / "checkpoints"), "--pretrain", str(root / "pretrain")]
    assert onnx_export.main(["-n", "alice", *flags, "--parts", "encoder"]) == 0
    return root / "checkpoints/alice"


def test_a_caller_that_knows_nothing_but_the_json_can_sing(exported: Path) -> None:
    """What MoeVoiceStudio does; the width of the units was taken from gin_channels, the length was fixed (B20)."""
    facts = json.loads((exported.parent / "alice.json").read_text())
    assert facts == {
        "Folder": "alice",
        "Name": "alice",
        "Type": "SoVits",
        "Rate": 44100,
        "Hop": 512,
        "Hubert": "whisper-ppg-tiny",
        "SoVits4": True,
        "SoVits3": False,
        "CharaMix": True,
        "Volume": True,
        "HiddenSize": 384,
        "Characters": ["alice", "bob"],
        "Cluster": "",
    }
    session = onnxruntime.InferenceSession(exported.parent / facts["Folder"] / f"{facts['Name']}_SoVits.onnx")
    given = {value.name: (value.type, value.shape) for value in session.get_inputs()}
    assert given == {
        "c": ("tensor(float)", [1, "F", facts["HiddenSize"]]),
        "f0": ("tensor(float)", [1, "T"]),
        "mel2ph": ("tensor(int64)", [1, "T"]),
        "uv": ("tensor(float)", [1, "T"]),
        "noise": ("tensor(float)", [1, 16, "T"]),
        "sid": ("tensor(float)", ["T", 2]),
        "vol": ("tensor(float)", [1, "T"]),
    }
    (output,) = session.get_outputs()
    assert output.name == "audio" and isinstance(output.shape[2], str)
    encoder = onnxruntime.InferenceSession(exported / f"{facts['Hubert']}.onnx")
    for seconds in (0.5, 0.9):
        wav = np.random.default_rng(0).standard_normal((1, 1, int(16000 * seconds)), dtype=np.float32) * 0.1
        (units,) = encoder.run(None, {encoder.get_inputs()[0].name: wav})
        frames = int(seconds * facts["Rate"]) // facts["Hop"]
        feed = {
            "c": units,
            "f0": np.full((1, frames), 220, np.float32),
            "mel2ph": (np.arange(frames)[None] * units.shape[1] // frames + 1),
            "uv": np.ones((1, frames), np.float32),
            "noise": np.random.default_rng(1).standard_normal((1, 16, frames), dtype=np.float32) * 0.4,
            "sid": np.tile(np.float32([0.3, 0.7]), (frames, 1)),
            "vol": np.full((1, frames), 0.1, np.float32),
        }
        (audio,) = session.run(None, feed)
        assert audio.shape == (1, 1, frames * facts["Hop"])
        assert np.isfinite(audio).all() and np.abs(audio).max() > 1e-3


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_json_names_the_encoder_and_its_width(encoder: str) -> None:
    """Everything that was not 768 wide was called layer 9 (B20)."""
    width = ENCODERS[encoder].width
    facts = description("x", Config.model_validate({"model": {"ssl_dim": width, "speech_encoder": encoder}}))
    assert facts["HiddenSize"] == width
    published = {"vec768l12": "vec-768-layer-12", "vec256l9": "vec-256-layer-9", "hubertsoft": "hubert-soft"}
    if encoder in published:
        assert facts["Hubert"] == published[encoder]
    elif not encoder.endswith("-onnx"):
        assert facts["Hubert"] == encoder
    assert ("layer-9" in facts["Hubert"]) == (encoder.removesuffix("-onnx") in ("vec256l9", "vec768l9"))


@pytest.mark.parametrize("width", sorted({spec.width for spec in ENCODERS.values()}))
def test_a_caller_can_sing_with_units_of_every_encoders_width(width: int, tmp_path: Path) -> None:
    """The size of c comes from ssl_dim, not from the speaker channels (B20)."""
    model = small_generator("tiny", ssl_dim=width, n_speakers=1)
    path = tmp_path / "generator.onnx"
    export(generator_graph(model), path)
    hidden = description("x", Config.model_validate({"model": {"ssl_dim": width}}))["HiddenSize"]
    session = onnxruntime.InferenceSession(path)
    shape = next(value.shape for value in session.get_inputs() if value.name == "c")
    assert shape == [1, "F", hidden] and hidden == width
    audio = run(path, **generator_inputs(model, 40))
    assert audio.shape == (1, 1, 40 * 512) and np.isfinite(audio).all() and np.abs(audio).max() > 0
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument):
        run(path, **{**generator_inputs(model, 40), "c": torch.zeros(1, 20, width + 1)})


def test_half_precision_is_smaller_and_near(tmp_path: Path) -> None:
    model = small_generator()
    full, half = tmp_path / "full.onnx", tmp_path / "half.onnx"
    export(generator_graph(copy.deepcopy(model)), full)
    export(generator_graph(models.prepare_for_inference(model, "cpu", "fp16")), half)
    inputs = generator_inputs(model, 60)
    out = run(half, **inputs)
    assert out.dtype == np.float32 and snr_db(out, run(full, **inputs)) > 40
    assert half.stat().st_size < 0.9 * full.stat().st_size
    kinds = {tensor.data_type for tensor in onnx.load(half).graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds


ENCODER_CASES = {
    "contentvec-12": ("f_contentvec", HubertEncoder, {"layer": 12}),
    "contentvec-9": ("f_contentvec", HubertEncoder, {"layer": 9, "project": True}),
    "soft": ("f_contentvec", HubertSoftEncoder, {}),
    "cnhubert": ("f_cnhubertlarge_bias1", HubertEncoder, {}),
    "dphubert": ("f_dphubert", DphubertEncoder, {}),
    "wavlm": ("f_wavlm_normalize", WavlmEncoder, {}),
    "whisper": ("f_whisper_ppg", WhisperEncoder, {}),
    "whisper-padded": ("f_whisper_ppg", WhisperEncoder, {"padded": True}),
}


def small_encoder(name: str, folder: Path) -> SpeechEncoder:
    case, kind, options = ENCODER_CASES[name]
    meta, _, manifest, _ = files.load_case(case)
    if kind is WhisperEncoder:
        return WhisperEncoder.from_file(files.write_whisper(folder / "w.pt", manifest), precision="fp32", **options)
    if kind is DphubertEncoder:
        torch.save({"config": meta["config"]["config"], "state_dict": files.filled(manifest)}, folder / "d.pth")
        return DphubertEncoder.from_file(folder / "d.pth", precision="fp32")
    if kind is WavlmEncoder:
        torch.save({"model": files.filled(manifest), "cfg": meta["config"]["cfg"]}, folder / "w.pt")
        return WavlmEncoder.from_file(folder / "w.pt", precision="fp32")
    path = files.write_fairseq(folder / "h.pt", files.filled(manifest), meta["config"]["cfg_model"])
    if kind is HubertSoftEncoder:  # its own file is full-size: the small model, with its padding
        return HubertSoftEncoder(HubertEncoder.from_file(path).model.float(), precision="fp32")
    return kind.from_file(path, precision="fp32", **options)


@pytest.mark.parametrize("name", ENCODER_CASES)
def test_encoder_equals_torch_on_a_song(name: str, tmp_path: Path, sung: np.ndarray) -> None:
    encoder = small_encoder(name, tmp_path)
    lengths = (9000, 8999, 400, 16000, 50001)
    expected = [encoder.encode(torch.from_numpy(sung[:length]))[0].T for length in lengths]
    export(encoder_graph(encoder), tmp_path / "encoder.onnx")
    for length, units in zip(lengths, expected, strict=True):
        out = run(tmp_path / "encoder.onnx", source=sung[None, None, :length])
        assert relative_error(out[0], units) < 1e-3


def test_fcpe_and_crepe_equal_torch_on_a_song(tmp_path: Path, sung: np.ndarray) -> None:
    """With their trained weights; at 16 kHz, so that no resampler stands between."""
    for name, lengths in (("fcpe", (9000, 9100, 2048, 30000, 50001)), ("crepe", (6000,))):
        predictor = get_predictor(name, sample_rate=16000, hop_length=160)
        path = tmp_path / f"{name}.onnx"
        if name == "crepe":
            frames = np.lib.stride_tricks.sliding_window_view(sung[:6000], 1024)[::160]
            expected = predictor._probabilities(torch.from_numpy(sung[None, :6000]))  # type: ignore[attr-defined]
            export(pitch_graph(predictor), path)
            expected = expected.detach()
            heard = np.isfinite(expected.numpy())
            for count in (3, 1, 2, 17, len(frames)):
                out = run(path, frames=frames[:count].copy())
                assert relative_error(out[heard[:count]], expected[:count][torch.from_numpy(heard[:count])]) < 1e-3
            continue
        expected_tracks = [predictor.raw_track(sung[:length]) for length in lengths]  # type: ignore[attr-defined]
        export(pitch_graph(predictor), path)
        for length, track in zip(lengths, expected_tracks, strict=True):
            out = run(path, audio=sung[None, :length])
            assert np.array_equal(out > 0, track > 0)
            assert relative_error(out, track) < 1e-3
        assert (track > 0).mean() > 0.3
        assert run(path, audio=sung[None], threshold=np.float32([1.0])).max() == 0


def test_rmvpe_equals_torch_on_a_song(tmp_path: Path, sung: np.ndarray) -> None:
    manifest = json.loads((files.GOLDENS / "manifests/rmvpe.json").read_text())
    torch.save({"model": files.filled(manifest)}, tmp_path / "rmvpe.pt")
    predictor = get_predictor("rmvpe", sample_rate=16000, hop_length=160, pretrain_dir=tmp_path)
    lengths = (9000, 2048, 5120, 5119, 20001)
    expected = [predictor.raw_track(sung[:length]) for length in lengths]  # type: ignore[attr-defined]
    export(pitch_graph(predictor), tmp_path / "rmvpe.onnx")
    for length, track in zip(lengths, expected, strict=True):
        out = run(tmp_path / "rmvpe.onnx", audio=sung[None, :length])
        assert np.array_equal(out > 0, track > 0) and track.any()
        assert relative_error(out, track) < 1e-3


def test_diffusion_equals_torch(tmp_path: Path) -> None:
    config = tiny_diffusion_config()
    torch.manual_seed(0)
    model = build_unit2mel(config).eval()
    torch.nn.init.normal_(model.decoder.denoise_fn.output_projection.weight)
    export(condition_graph(model), tmp_path / "condition.onnx")
    export(denoiser_graph(model), tmp_path / "denoiser.onnx")
    for frames in LENGTHS:
        units, f0 = torch.randn(1, frames, 16), torch.linspace(90, 600, frames)[None]
        volume, mix = torch.rand(1, frames), torch.rand(frames, 2).softmax(1)
        x, step = torch.randn(1, 1, 128, frames), torch.tensor([3.25])
        with torch.inference_mode():
            shift = torch.full((1, 1, 1), 2.0)
            condition = model.condition(units, f0[..., None], volume[..., None], mix, shift).transpose(1, 2)
            noise = model.decoder.denoise_fn(x, step, condition)
        inputs = {"units": units, "f0": f0, "volume": volume, "sid": mix, "aug_shift": torch.tensor([2.0])}
        assert relative_error(run(tmp_path / "condition.onnx", **inputs), condition) < 1e-3
        assert relative_error(run(tmp_path / "denoiser.onnx", x=x, step=step, condition=condition), noise) < 1e-3


def test_mel_and_vocoder_equal_torch(tmp_path: Path) -> None:
    vocoder = MelVocoder.load(write_vocoder(tmp_path / "nsf_hifigan"))
    audio, _ = load_audio(SONG, vocoder.config.sampling_rate)
    audio = audio[44100:120000]
    lengths = [hop * vocoder.config.hop_size for hop in (33, 50, 7, 100)] + [30001]
    mels = [vocoder.to_mel(torch.from_numpy(audio[None, :length])) for length in lengths]
    mel, f0 = mels[0], torch.linspace(0, 400, mels[0].shape[1])[None].clamp(min=100) * (torch.arange(33) > 3)
    export(mel_graph(vocoder.to_mel), tmp_path / "mel.onnx")
    for length, expected in zip(lengths, mels, strict=True):
        assert relative_error(run(tmp_path / "mel.onnx", audio=audio[None, :length]), expected) < 1e-3
    graph = vocoder_graph(vocoder)
    export(graph, tmp_path / "vocoder.onnx")
    for frames in (33, 20, 5, 31, 12):
        given = {"mel": mel[:, :frames], "f0": f0[:, :frames], "seed": torch.tensor([3])}
        with torch.inference_mode():
            expected = graph.module(**given)
        assert snr_db(run(tmp_path / "vocoder.onnx", **given), expected) > 60
