"""Songs converted with the exported graphs: without torch, as torch does it, with plain words where it cannot."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile

import inference_main
import onnx_export
from modules.audio.io import load_audio
from modules.errors import UserError
from modules.f0 import get_predictor
from modules.f0.base import F0Settings
from modules.inference.options import InferenceOptions, ModelOptions
from modules.inference.speaker_mix import SpeakerMix
from modules.inference.svc import Svc
from modules.onnx.crepe import CrepeGraph
from modules.onnx.export.graph import export
from modules.onnx.export.pitch import pitch_graph
from modules.onnx.manifest import Manifest
from modules.onnx.networks import OnnxNetworks
from modules.onnx.session import Session, providers
from tests.conftest import ROOT
from tests.onnx_tools import draw_as_the_graph_does, model_of, snr_db
from tests.standin_voice import small_config, write_encoder, write_model

SONG = ROOT / "demo/held_out/taro/scarborough_fair.flac"
ALLOWED = {"numpy", "soundfile", "_soundfile", "_soundfile_data", "soxr", "onnxruntime"}
ALLOWED |= {"_cffi_backend", "cffi", "typing_extensions"}  # what soundfile needs
WITHOUT_TORCH = f"""
import importlib.machinery
import sys
allowed = {ALLOWED!r}
class Block:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if top not in allowed and spec is not None and "site-packages" in str(spec.origin):
            raise ModuleNotFoundError("blocked: " + name, name=name)
sys.meta_path.insert(0, Block())
import inference_main
sys.exit(inference_main.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with all parts that are small, and three seconds of a song."""
    root = tmp_path_factory.mktemp("runner")
    config = small_config(vol_embedding=True)
    config.data.unit_interpolate_mode = "left"
    write_model(root / "checkpoints/alice", config, name="model.pth")
    write_encoder(root / "pretrain")
    flags = ["--root", str(root / "checkpoints"), "--pretrain", str(root / "pretrain")]
    assert onnx_export.main(["-n", "alice", *flags, "--parts", "encoder", "auto-f0", "fcpe"]) == 0
    audio, rate = load_audio(SONG, 44100)
    soundfile.write(root / "song.wav", audio[rate : 4 * rate], rate, subtype="PCM_24")
    return root


@pytest.fixture
def folder(root: Path, tmp_path: Path) -> Path:
    """A copy of the exported folder that a test may damage."""
    return Path(shutil.copytree(root / "checkpoints/alice", tmp_path / "alice"))


def options(folder: Path, **changes: object) -> ModelOptions:
    return replace(ModelOptions(onnx=folder, device="cpu"), **changes)  # type: ignore[arg-type]


def torch_svc(root: Path) -> Svc:
    folder = root / "checkpoints/alice"
    given = ModelOptions(folder / "model.pth", folder / "config.json", device="cpu", precision="fp32")
    return Svc.load(given, root / "pretrain")


def test_a_song_is_converted_without_torch(root: Path, tmp_path: Path) -> None:
    """With numpy, soundfile, soxr and onnxruntime; every other package is out of reach."""
    flags = ["--onnx", str(root / "checkpoints/alice"), "-n", str(root / "song.wav"), "-s", "bob", "-f0p", "fcpe"]
    command = [sys.executable, "-c", WITHOUT_TORCH, *flags, "-t", "3", "--out_dir", str(tmp_path), "-lea", "0.5"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    audio, rate = soundfile.read(tmp_path / "song_3key_bob_sovits_fcpe.flac")
    assert (len(audio), rate) == (3 * 44100, 44100)
    assert np.isfinite(audio).all() and np.sqrt(np.mean(audio**2)) > 1e-3
    blocked = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "-n", "x"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "blocked" in blocked.stderr  # the net really holds: without --onnx there is no way


@pytest.mark.parametrize("auto", [False, True])
def test_a_whole_song_equals_torch_with_the_same_noise(root: Path, monkeypatch: pytest.MonkeyPatch, auto: bool) -> None:
    given = InferenceOptions(clip=1.2, linear_gradient=0.3, noise_scale=0.6, trans=2.0, auto_predict_f0=auto)
    reference = torch_svc(root)
    draw_as_the_graph_does(monkeypatch, model_of(reference))
    graphs = Svc.load(options(root / "checkpoints/alice"))
    song, _ = load_audio(root / "song.wav")
    mix = SpeakerMix.from_map({0: [[0, 1, 1, 0]], 1: [[0, 1, 0, 1]]}, graphs.speakers, 2)
    for speaker in ("alice", mix):
        expected, _ = reference.convert(song, speaker, given)
        audio, _ = graphs.convert(song, speaker, given)
        assert snr_db(audio, expected) > 60
    again, _ = graphs.convert(song, mix, given)
    assert np.array_equal(again, audio)
    other, _ = graphs.convert(song, mix, replace(given, seed=7))
    assert snr_db(other, audio) < 40


@pytest.mark.parametrize(("decoder", "hums"), [("nsf-hifigan", False), ("nsf-istft", True), (None, False)])
def test_the_folder_tells_whether_its_decoder_hums_in_rests(folder: Path, decoder: str | None, hums: bool) -> None:
    """As torch learns it from the config; folders of before it was written do as they did."""
    values = json.loads((folder / "parts.json").read_text(encoding="utf-8"))
    assert values["vocoder_name"] == "nsf-hifigan"
    if decoder is None:
        del values["vocoder_name"]
    else:
        values["vocoder_name"] = decoder
    (folder / "parts.json").write_text(json.dumps(values), encoding="utf-8")
    assert OnnxNetworks(folder, "cpu").load_generator()[1].hums_in_rests == hums


def test_fcpe_finds_the_pitch_that_torch_finds(root: Path) -> None:
    """They resample to 16 kHz by different filters."""
    graphs = Svc.load(options(root / "checkpoints/alice"))
    song, _ = load_audio(root / "song.wav")
    contour = graphs.pitch.predictor(InferenceOptions(f0_predictor="fcpe"))(song)
    expected = get_predictor("fcpe")(song)
    voiced = (contour.uv > 0) & (expected.uv > 0)
    assert voiced.mean() > 0.5 and (contour.uv != expected.uv).mean() < 0.02
    assert np.abs(1200 * np.log2(contour.f0 / expected.f0))[voiced].max() < 10


def test_crepe_finds_the_pitch_that_torch_finds(root: Path, tmp_path: Path) -> None:
    predictor = get_predictor("crepe", sample_rate=16000, hop_length=320)
    export(pitch_graph(predictor), tmp_path / "crepe.onnx")
    graph = CrepeGraph(
        F0Settings(sample_rate=16000, hop_length=320), Session(tmp_path / "crepe.onnx", {"frames"}, "cpu"), 0.05
    )
    song, _ = load_audio(root / "song.wav", 16000)
    part = np.concatenate([np.zeros(3200, np.float32), song[:12000]])
    expected, track = predictor.raw_track(part), graph.raw_track(part)  # type: ignore[attr-defined]
    assert np.array_equal(track > 0, expected > 0) and 0.2 < (track > 0).mean() < 1
    assert np.abs(track - expected).max() < 0.05


def rename_input(path: Path, old: str, new: str) -> None:
    model = onnx.load(path)
    for value in model.graph.input:
        value.name = new if value.name == old else value.name
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
    onnx.save(model, path)


def edit(folder: Path, **changes: object) -> None:
    path = folder / "parts.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def widen(folder: Path) -> None:
    """An encoder of another width."""
    value = onnx.helper.make_tensor_value_info
    weight = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [256, 1, 400], np.zeros(256 * 400))
    conv = onnx.helper.make_node("Conv", ["source", "w"], ["features"], strides=[320])
    turn = onnx.helper.make_node("Transpose", ["features"], ["embed"], perm=[0, 2, 1])
    graph = onnx.helper.make_graph(
        [conv, turn],
        "other",
        [value("source", onnx.TensorProto.FLOAT, [1, 1, "n"])],
        [value("embed", onnx.TensorProto.FLOAT, [1, "F", 256])],
        [weight],
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), folder / "whisper-ppg-tiny.onnx")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "folder": (shutil.rmtree, "there is no such folder"),
    "no model": (lambda folder: (folder / "parts.json").unlink(), "there is no parts.json"),
    "broken json": (lambda folder: (folder / "parts.json").write_text("{"), "parts.json is damaged"),
    "other json": (lambda folder: edit(folder, surprise=1), "parts.json is damaged"),
    "other version": (lambda folder: edit(folder, format=99), "another version"),
    "part": (lambda folder: (folder / "alice_SoVits.onnx").unlink(), "the part generator is missing"),
    "not exported": (lambda folder: edit(folder, parts={"generator": "alice_SoVits.onnx"}), "needs the part encoder"),
    "no graph": (lambda folder: (folder / "alice_SoVits.onnx").write_bytes(b"no"), "onnxruntime cannot load"),
    "width": (widen, "gives units of 256 channels, the generator takes 384"),
    "input": (lambda folder: rename_input(folder / "alice_SoVits.onnx", "mel2ph", "frames"), "expected are"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_wrong_with_a_folder_is_said(damage: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    do, message = DAMAGES[damage]
    do(folder)
    code = inference_main.main(["--onnx", str(folder), "-n", "song.wav", "-d", "cpu"])
    error = capsys.readouterr().err
    assert code == 2 and message in error and "Traceback" not in error
    assert str(folder) in error


def test_a_device_that_is_not_there_is_refused(root: Path) -> None:
    folder = root / "checkpoints/alice"
    with pytest.raises(UserError) as caught:
        Svc.load(options(folder, device="abacus"))
    assert caught.value.where == "--device"


def test_options_that_need_a_part_are_refused_before_anything_is_computed(folder: Path) -> None:
    edit(folder, parts={"generator": "alice_SoVits.onnx", "encoder": "whisper-ppg-tiny.onnx"})
    svc = Svc.load(options(folder))
    for given, part in (
        (InferenceOptions(auto_predict_f0=True), "auto-f0"),
        (InferenceOptions(cluster_infer_ratio=0.5), "cluster"),
        (InferenceOptions(f0_predictor="rmvpe"), "rmvpe"),
    ):
        with pytest.raises(UserError, match=part):
            svc.convert(np.sin(np.arange(44100, dtype=np.float32) * 0.05) * 0.1, "alice", given)


def test_providers_are_those_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: everything)
    assert providers() == everything[1:]
    assert providers("cpu") == ["CPUExecutionProvider"]
    assert providers("cuda:1") == [("CUDAExecutionProvider", {"device_id": "1"}), "CPUExecutionProvider"]
    for wrong in ("cuda:x", "dml", "tpu"):
        with pytest.raises(UserError):
            providers(wrong)


def test_parts_of_an_earlier_export_are_kept(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints/alice"
    shutil.copytree(root / "checkpoints/alice", folder)
    assert onnx_export.main(["-n", "alice", "--root", str(tmp_path / "checkpoints")]) == 0
    parts = Manifest.load(folder).parts
    assert set(parts) == {"generator", "encoder", "fcpe"}  # the model's own f0 part may be of another model


def test_a_model_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert onnx_export.main(["-n", "nobody", "--root", str(tmp_path)]) == 2
    assert str(tmp_path / "nobody") in capsys.readouterr().err
