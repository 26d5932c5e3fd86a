"""Diffusion, enhancer, k-means and retrieval of an exported folder: without torch, and as torch has them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

import inference_main
import onnx_export
from cluster import kmeans, retrieval
from diffusion import gaussian
from diffusion.samplers import SAMPLERS
from diffusion.unit2mel import Unit2Mel, build_unit2mel, load_unit2mel
from modules.audio.io import load_audio
from modules.config import load_diffusion_config
from modules.data.units import stretch_units
from modules.errors import UserError
from modules.inference.options import InferenceOptions, ModelOptions
from modules.inference.svc import Svc
from modules.inference.voice import DiffusionVoice, Enhancer, ShallowDiffusion, Voice, blend_units
from modules.inference.windows import WindowInput
from modules.onnx.export.decoders import normal, start_phases
from modules.onnx.manifest import Manifest
from modules.onnx.networks import OnnxMelModel, OnnxVocoder, drawing
from modules.onnx.retrieval import Cells, CentreBlender, RetrievalBlender
from pretrain.convert import convert
from tests.conftest import ROOT
from tests.onnx_tools import draw_as_the_graph_does, model_of, snr_db
from tests.standin_voice import WIDTH, small_config, write_encoder, write_model
from tests.test_mel_vocoder import write_vocoder
from tests.test_onnx_runner import SONG, WITHOUT_TORCH
from tests.tiny_diffusion import tiny_diffusion_config
from vdecoder import mel_vocoder

NAMES = {"alice": 1, "bob": 0}  # of the diffusion model: not the generator's ids


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with everything that refines it, and a second and a half of a song."""
    root = tmp_path_factory.mktemp("refined")
    folder = root / "checkpoints/alice"
    write_model(folder, small_config(), name="model.pth")
    write_encoder(root / "pretrain")
    write_vocoder(root / "pretrain/nsf_hifigan")
    write_diffusion(folder)
    write_timbre(folder)
    flags = ["--root", str(root / "checkpoints"), "--pretrain", str(root / "pretrain")]
    parts = ["encoder", "diffusion", "cluster", "retrieval", "fcpe"]  # diffusion brings its vocoder along
    assert onnx_export.main(["-n", "alice", *flags, "--parts", *parts]) == 0
    audio, rate = load_audio(SONG, 44100)
    soundfile.write(root / "song.wav", audio[rate : 5 * rate // 2], rate, subtype="PCM_24")
    return root


def write_diffusion(folder: Path) -> None:
    config = tiny_diffusion_config()
    config.data.encoder, config.data.encoder_out_channels = "whisper-ppg-tiny", WIDTH
    config.data.unit_interpolate_mode = "left"
    config.infer.method = "dpm-solver++"
    config.spk = dict(NAMES)
    config.save(folder / "diffusion.yaml")
    torch.manual_seed(2)
    model = build_unit2mel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    torch.save({"model": model.state_dict(), "global_step": 1}, folder / "diffusion.pt")


def write_timbre(folder: Path) -> None:
    rng = np.random.default_rng(4)
    frames = {name: rng.standard_normal((900, WIDTH)).astype(np.float32) for name in ("alice", "bob")}
    kmeans.save(kmeans.Centres({name: values[:50] for name, values in frames.items()}), folder / "kmeans_10000.pt")
    indexes = {index: retrieval.build(values) for index, values in enumerate(frames.values())}
    retrieval.save(indexes, folder / "feature_and_index")


@pytest.fixture(scope="module")
def folder(root: Path) -> Path:
    return root / "checkpoints/alice"


def options(folder: Path, **changes: object) -> ModelOptions:
    return replace(ModelOptions(onnx=folder, device="cpu"), **changes)  # type: ignore[arg-type]


def torch_svc(root: Path, **changes: object) -> Svc:
    """The torch path with the same files."""
    folder = root / "checkpoints/alice"
    given = ModelOptions(
        folder / "model.pth",
        folder / "config.json",
        device="cpu",
        precision="fp32",
        diffusion_model_path=folder / "diffusion.pt",
        diffusion_config_path=folder / "diffusion.yaml",
    )
    return Svc.load(replace(given, **changes), root / "pretrain")  # type: ignore[arg-type]


def draw_alike(patch: pytest.MonkeyPatch, svc: Svc, seed: int) -> None:
    """Let torch's mel noise and its vocoder draw what the graphs and the runner draw from ``seed``."""

    class GraphNoise:
        def __init__(self, device: torch.device, generator: torch.Generator | None) -> None:
            pass

        def uniform(self, shape: tuple[int, ...]) -> Tensor:
            return start_phases(torch.tensor([seed]))

        def normal(self, shape: tuple[int, ...], time: int | None = None) -> Tensor:
            drawn = normal(torch.arange(shape[1]), torch.tensor([seed]))
            return (drawn[:, None] * weight / weight.norm())[None]

    def mel_noise(x: Tensor, generator: torch.Generator | None) -> Tensor:
        return torch.from_numpy(drawing(seed).standard_normal(tuple(x.shape), dtype=np.float32))

    assert isinstance(svc.voice, Voice)
    refiner = svc.voice.refiners[0]
    assert isinstance(refiner, Enhancer | ShallowDiffusion)
    vocoder = refiner.vocoder.vocoder if isinstance(refiner, Enhancer) else refiner.mel_model.vocoder  # type: ignore[attr-defined]
    weight = vocoder.generator.m_source.l_linear.weight.detach()[0]
    patch.setattr(mel_vocoder, "Noise", GraphNoise)
    patch.setattr(gaussian, "_noise_like_transposed", mel_noise)


@pytest.mark.parametrize("second_encoding", [False, True])
def test_shallow_diffusion_equals_torch_with_the_same_noise(
    root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, second_encoding: bool
) -> None:
    given = InferenceOptions(k_step=20, second_encoding=second_encoding)
    reference = torch_svc(root, shallow_diffusion=True)
    draw_as_the_graph_does(monkeypatch, model_of(reference))
    draw_alike(monkeypatch, reference, given.seed + 1)
    graphs = Svc.load(options(folder, shallow_diffusion=True))
    song, _ = load_audio(root / "song.wav")
    plain, _ = Svc.load(options(folder)).convert(song, "alice", InferenceOptions())
    audio, _ = graphs.convert(song, "alice", given)
    expected, _ = reference.convert(song, "alice", given)
    assert snr_db(audio, expected) > 60
    assert snr_db(audio, plain) < 20  # it did something
    with pytest.raises(UserError, match="has 50 steps"):
        graphs.check(InferenceOptions(k_step=51))


@pytest.mark.parametrize("key", [0.0, 4.0])
def test_the_enhancer_equals_torch_with_the_same_noise(
    root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, key: float
) -> None:
    """With an adaptive key the two resample by different filters, which tells in the top bands of the mel."""
    given = InferenceOptions(enhancer_adaptive_key=key)
    reference = torch_svc(root, enhance=True)
    draw_as_the_graph_does(monkeypatch, model_of(reference))
    draw_alike(monkeypatch, reference, given.seed + 2)
    graphs = Svc.load(options(folder, enhance=True))
    song, _ = load_audio(root / "song.wav")
    audio, _ = graphs.convert(song, "bob", given)
    expected, _ = reference.convert(song, "bob", given)
    assert audio.shape == expected.shape == song.shape
    assert snr_db(audio, expected) > (60 if key == 0 else 20)


@pytest.mark.parametrize("method", [*SAMPLERS, None])
def test_every_sampler_gives_the_mel_of_torch(
    folder: Path, monkeypatch: pytest.MonkeyPatch, method: str | None
) -> None:
    config = load_diffusion_config(folder / "diffusion.yaml")
    model = build_unit2mel(config).eval()
    model.load_state_dict(torch.load(folder / "diffusion.pt")["model"])
    engine = OnnxMelModel(folder, Manifest.load(folder), "--shallow_diffusion", "cpu")
    engine.facts = replace(engine.facts, method=method)
    rng = np.random.default_rng(1)
    mel = rng.uniform(-10, 0, (70, 128)).astype(np.float32)
    condition = condition_of(model, rng)
    first = drawing(3)
    monkeypatch.setattr(
        gaussian,
        "_noise_like_transposed",
        lambda x, generator: torch.from_numpy(first.standard_normal(tuple(x.shape), dtype=np.float32)),
    )
    monkeypatch.setattr(
        torch, "randn", lambda shape, **_: torch.from_numpy(first.standard_normal(tuple(shape), dtype=np.float32))
    )
    with torch.inference_mode():
        expected = model.decoder.sample(
            torch.from_numpy(condition), torch.from_numpy(mel)[None], 30, 10, method, track=iter
        )
    assert snr_db(engine.denoise(condition, drawing(3), mel, 30), expected[0]) > 60


def condition_of(model: Unit2Mel, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((1, model.unit_embed.out_features, 70)).astype(np.float32)


def test_diffusion_alone_sings(root: Path, folder: Path) -> None:
    song, _ = load_audio(root / "song.wav")
    svc = Svc.load(options(folder, only_diffusion=True))
    assert svc.speakers == NAMES
    audio, _ = svc.convert(song, "alice", InferenceOptions())
    other, _ = svc.convert(song, "bob", InferenceOptions())
    again, _ = svc.convert(song, "alice", InferenceOptions())
    assert np.array_equal(audio, again) and snr_db(other, audio) < 40
    assert np.isfinite(audio).all() and np.sqrt(np.mean(audio**2)) > 1e-3
    moved, _ = svc.convert(song, "bob", InferenceOptions(cluster_infer_ratio=1.0))
    centres = kmeans.load(folder / "kmeans_10000.pt").by_speaker["bob"]
    voice = svc.voice
    assert isinstance(voice, DiffusionVoice)
    window = WindowInput(song[:22050], np.zeros(43), np.zeros(43), NAMES["bob"])
    units = voice.units(window, InferenceOptions(cluster_infer_ratio=1.0))
    assert all((centres == frame).all(axis=1).any() for frame in units)  # bob's by name, whatever his number
    assert snr_db(moved, other) < 60
    with pytest.raises(UserError, match="has no generator"):
        svc.check(InferenceOptions(auto_predict_f0=True))


def test_converted_files_export_to_the_same_graphs(root: Path, folder: Path, tmp_path: Path) -> None:
    """What pretrain convert makes of a model, a diffusion model and centres serves in their place."""
    copy = tmp_path / "checkpoints/alice"
    copy.mkdir(parents=True)
    shutil.copy(folder / "config.json", copy)
    for name in ("model.pth", "diffusion.pt", "kmeans_10000.pt"):
        convert(folder / name, (copy / name).with_suffix(".safetensors"))
    flags = ["--root", str(copy.parent), "--pretrain", str(root / "pretrain")]
    assert onnx_export.main(["-n", "alice", *flags, "--parts", "cluster"]) == 0
    for name in ("alice_SoVits.onnx", "kmeans.npz"):
        assert (copy / name).read_bytes() == (folder / name).read_bytes(), name
    config = load_diffusion_config(folder / "diffusion.yaml")
    models = [
        load_unit2mel(path, config).state_dict() for path in (folder / "diffusion.pt", copy / "diffusion.safetensors")
    ]
    assert all(torch.equal(value, models[1][key]) for key, value in models[0].items())


def test_centres_and_index_move_units_as_torch_and_faiss_do(folder: Path) -> None:
    rng = np.random.default_rng(8)
    units = rng.standard_normal((140, WIDTH)).astype(np.float32)
    centres = kmeans.load(folder / "kmeans_10000.pt")
    indexes = retrieval.load(folder / "feature_and_index.pkl")
    units[7] = indexes[1].search(units[:1], 1)[1][0, 0]  # a frame that is in the index
    by_centres = CentreBlender(folder / "kmeans.npz", {"alice": 0, "bob": 1})
    by_index = RetrievalBlender(folder / "retrieval.npz")
    assert len(by_index.speakers[1].centroids) > by_index.speakers[1].nprobe or by_index.speakers[1].nprobe == 1
    np.testing.assert_allclose(by_centres.blend(units, 1, 0.5), centres.blend(units, "bob", 0.5), atol=1e-6)
    np.testing.assert_allclose(by_index.blend(units, 1, 0.7), indexes[1].blend(units, 0.7), atol=1e-4)
    np.testing.assert_allclose(by_index.blend(units, 1, 1.0)[7], units[7], atol=1e-6)
    mixed = np.stack([np.linspace(0, 1, 280), 1 - np.linspace(0, 1, 280)], axis=1)
    shares = mixed[::2]
    expected = shares[:, :1] * by_centres.blend(units, 0, 1.0) + shares[:, 1:] * by_centres.blend(units, 1, 1.0)
    np.testing.assert_allclose(blend_units(by_centres, units, mixed, 1.0), expected, atol=1e-5)


def test_a_search_looks_into_its_cells_and_no_others() -> None:
    vectors = np.array([[0, 0], [0.1, 0], [10, 0], [10.2, 0]], dtype=np.float32)
    cells = Cells(np.array([[0, 0], [10, 0]], dtype=np.float32), vectors, np.array([0, 2, 4]), 1)
    distances, found = cells.search(np.array([[9.9, 0]], dtype=np.float32), 3)
    assert np.isinf(distances[0]).sum() == 1
    assert sorted(found[0, :, 0].tolist()) == pytest.approx([0, 10, 10.2])
    distances, _ = replace(cells, nprobe=2).search(np.array([[9.9, 0]], dtype=np.float32), 3)
    assert np.sort(distances[0]) == pytest.approx([0.01, 0.09, 96.04], abs=1e-4)


WAYS = {
    "shallow": ["-shd", "-ks", "10"],
    "alone": ["-od"],
    "enhancer": ["-eh"],
    "kmeans": ["-cr", "0.5"],
    "retrieval": ["-fr", "-cr", "0.5"],
}


def test_all_of_it_runs_without_torch(root: Path, folder: Path, tmp_path: Path) -> None:
    script = WITHOUT_TORCH.replace("sys.exit(inference_main.main(sys.argv[1:]))", "")
    script += f"""
for name, flags in {WAYS!r}.items():
    code = inference_main.main([*sys.argv[1:-1], *flags, "--out_dir", sys.argv[-1] + "/" + name])
    assert code == 0, name
"""
    flags = ["--onnx", str(folder), "-n", str(root / "song.wav"), "-s", "alice", "-f0p", "fcpe"]
    result = subprocess.run(
        [sys.executable, "-c", script, *flags, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    results = {name: soundfile.read(next((tmp_path / name).glob("*.flac")))[0] for name in WAYS}
    for name, audio in results.items():
        assert len(audio) == 3 * 44100 // 2 and np.isfinite(audio).all(), name
        assert np.sqrt(np.mean(audio**2)) > 1e-3, name
    assert len({audio.tobytes() for audio in results.values()}) == len(WAYS)


MISSING = {
    "shallow": (["-shd"], "diffusion-denoiser"),
    "alone": (["-od"], "diffusion-denoiser"),
    "enhancer": (["-eh"], "mel"),
    "kmeans": (["-cr", "0.5"], "cluster"),
    "retrieval": (["-fr", "-cr", "0.5"], "retrieval"),
}


@pytest.mark.parametrize("way", MISSING)
def test_a_part_that_was_not_exported_is_named(
    way: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags, part = MISSING[way]
    copy = Path(shutil.copytree(folder, tmp_path / "alice"))
    edit(copy, keep=("generator", "encoder"))
    assert inference_main.main(["--onnx", str(copy), "-n", "song.wav", "-s", "alice", "-d", "cpu", *flags]) == 2
    error = capsys.readouterr().err
    assert f"needs the part {part}" in error and "onnx_export.py" in error


def edit(folder: Path, keep: tuple[str, ...]) -> None:
    path = folder / "parts.json"
    values = json.loads(path.read_text())
    values["parts"] = {name: values["parts"][name] for name in keep}
    path.write_text(json.dumps(values))


def test_parts_of_another_model_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "alice"))
    path = copy / "parts.json"
    values = json.loads(path.read_text())
    values["facts"]["vocoder"]["hop_length"] = 256
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match="hop of 256"):
        OnnxVocoder(copy, Manifest.load(copy), "--enhance", "cpu")
    np.savez(copy / "kmeans.npz", alice=np.zeros((3, 8), np.float32))
    with pytest.raises(UserError, match="8 channels"):
        CentreBlender(copy / "kmeans.npz", {"alice": 0}).blend(np.zeros((2, WIDTH), np.float32), 0, 0.5)
    with pytest.raises(UserError, match="no speaker bob"):
        CentreBlender(copy / "kmeans.npz", {"bob": 0}).blend(np.zeros((2, WIDTH), np.float32), 0, 0.5)
    (copy / "retrieval.npz").write_bytes(b"no")
    with pytest.raises(UserError, match="broken"):
        RetrievalBlender(copy / "retrieval.npz")


def test_an_archive_of_objects_is_refused(tmp_path: Path) -> None:
    """Objects in an .npz are pickles."""
    np.savez(tmp_path / "kmeans.npz", alice=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match="broken"):
        CentreBlender(tmp_path / "kmeans.npz", {"alice": 0})


def test_units_are_stretched_by_the_mode_of_the_model() -> None:
    units = np.arange(4, dtype=np.float32)[:, None]
    assert stretch_units(units.T, 8, "left")[0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert 0 < stretch_units(units.T, 8, "linear")[0, 2] < 1
