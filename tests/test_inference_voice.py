"""The networks of a conversion: loading every kind of model file, and what a window of audio becomes."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import models
from modules import checkpoint
from modules.devices import pick_device
from modules.errors import UserError
from modules.inference import networks
from modules.inference.networks import TorchEncoder, TorchGenerator, TorchNetworks
from modules.inference.options import InferenceOptions, ModelOptions
from modules.inference.pitch import PitchFinder
from modules.inference.svc import Svc
from modules.inference.voice import Voice, load_voice
from modules.inference.windows import WindowInput
from tests.parity import signals
from tests.standin_voice import HOP, RATE, StandInEncoder, small_config, small_model, write_encoder, write_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, its config and its encoder."""
    root = tmp_path_factory.mktemp("voice")
    write_model(root)
    write_encoder(root / "pretrain")
    return root


def options(model: Path, **changes: Any) -> ModelOptions:
    given = {"config_path": model.parent / "config.json", "device": "cpu", "precision": "fp32", **changes}
    return ModelOptions(model_path=model, **given)


def load(model: Path, pretrain: Path, **changes: Any) -> Voice:
    given = options(model, **changes)
    voice = load_voice(TorchNetworks(given, pretrain), given)
    assert isinstance(voice, Voice)
    return voice


def model_of(voice: Voice) -> models.SynthesizerTrn:
    assert isinstance(voice.network, TorchGenerator)
    return voice.network.model


def window(seconds: float = 1.0, speaker: int | np.ndarray = 0) -> WindowInput:
    audio = signals.voice_like(RATE, seconds, [200, 230, 210])
    n_frames = len(audio) // HOP
    return WindowInput(audio, np.linspace(190, 240, n_frames), np.ones(n_frames), speaker)


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def test_one_seed_gives_one_audio_and_leaves_torchs_random_numbers_alone(folder: Path) -> None:
    """(A17)"""
    voice = load(folder / "G_1.pth", folder / "pretrain")
    state = torch.get_rng_state()
    first = voice.render(window(), InferenceOptions())
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(7)
    np.testing.assert_array_equal(voice.render(window(), InferenceOptions()), first)
    assert np.abs(voice.render(window(), InferenceOptions(seed=1)) - first).max() > 1e-3
    assert first.shape == (len(window().f0) * HOP,)
    assert first.dtype == np.float32


def test_the_posterior_encoder_is_not_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """(C9) Not even built."""
    built: list[dict[str, Any]] = []
    original = models.SynthesizerTrn.__init__

    @functools.wraps(original)
    def watch(self: models.SynthesizerTrn, *args: Any, **kwargs: Any) -> None:
        built.append(kwargs)
        original(self, *args, **kwargs)

    monkeypatch.setattr(models.SynthesizerTrn, "__init__", watch)
    voice = load(folder / "G_1.pth", folder / "pretrain")
    assert built[0]["with_posterior"] is False
    assert not any(key.startswith("enc_q") for key in model_of(voice).state_dict())
    assert not any("weight_g" in key for key in model_of(voice).state_dict())


def released(source: Path, half: bool) -> dict[str, Any]:
    state = checkpoint.load(source)["model"]
    state = {key: value.half() if half else value for key, value in state.items() if "enc_q" not in key}
    return {"model": state, "iteration": 0, "optimizer": {"state": {}}, "learning_rate": 1e-4}


@pytest.mark.parametrize("half", [False, True], ids=["release", "half"])
@pytest.mark.parametrize("name", ["G_1_release.pth", "half/half_of_it.pth"])
def test_released_and_half_files_sing_like_the_checkpoint(folder: Path, tmp_path: Path, half: bool, name: str) -> None:
    """(A14, A27) Nothing is decided by the name of a file; half weights do not make a half model."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    torch.save(released(folder / "G_1.pth", half), path)
    want = load(folder / "G_1.pth", folder / "pretrain").render(window(), InferenceOptions())
    voice = load(path, folder / "pretrain", config_path=folder / "config.json")
    got = voice.render(window(), InferenceOptions())
    assert all(
        value.dtype == torch.float32 for value in model_of(voice).state_dict().values() if value.is_floating_point()
    )
    assert similarity(got, want) > (0.98 if half else 0.9999)
    torch.save({"model": small_model(small_config(), seed=5).state_dict()}, tmp_path / "other.pth")
    other = load(tmp_path / "other.pth", folder / "pretrain", config_path=folder / "config.json")
    assert similarity(other.render(window(), InferenceOptions()), want) < 0.9


def test_a_safetensors_file_with_its_config_is_all_it_takes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import save_file

    monkeypatch.chdir(tmp_path)
    state = {k: v.contiguous() for k, v in released(folder / "G_1.pth", False)["model"].items()}
    metadata = {"config": (folder / "config.json").read_text(encoding="utf-8")}
    save_file(state, tmp_path / "voice.safetensors", metadata=metadata)
    default = ModelOptions(model_path=tmp_path / "voice.safetensors", device="cpu", precision="fp32")
    got = load_voice(TorchNetworks(default, folder / "pretrain"), default).render(window(), InferenceOptions())
    want = load(folder / "G_1.pth", folder / "pretrain").render(window(), InferenceOptions())
    np.testing.assert_array_equal(got, want)
    save_file(state, tmp_path / "bare.safetensors")
    bare = ModelOptions(model_path=tmp_path / "bare.safetensors")
    with pytest.raises(UserError, match="no such config"):
        load_voice(TorchNetworks(bare, folder / "pretrain"), bare)


def test_a_config_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    small_config(hidden_channels=32).save(tmp_path / "config.json")
    with pytest.raises(UserError, match="do not fit"):
        load(folder / "G_1.pth", folder / "pretrain", config_path=tmp_path / "config.json")


def test_a_checkpoint_without_any_of_the_models_keys_is_refused(folder: Path, tmp_path: Path) -> None:
    """(A14) The original goes on with random weights."""
    torch.save({"model": {"something": torch.zeros(3)}}, tmp_path / "G_1.pth")
    with pytest.raises(UserError, match="do not fit"):
        load(tmp_path / "G_1.pth", folder / "pretrain", config_path=folder / "config.json")


@pytest.mark.parametrize("lost", ["model", "config", "encoder"])
def test_a_missing_file_is_named(folder: Path, tmp_path: Path, lost: str) -> None:
    model = tmp_path / "G_5.pth" if lost == "model" else folder / "G_1.pth"
    config = tmp_path / "c.json" if lost == "config" else folder / "config.json"
    pretrain = tmp_path if lost == "encoder" else folder / "pretrain"
    with pytest.raises(UserError) as caught:
        load(model, pretrain, config_path=config)
    assert caught.value.where == str({"model": model, "config": config, "encoder": tmp_path / "tiny.pt"}[lost])
    assert caught.value.fix


def test_a_4_0_model_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A config without speech_encoder and unit_interpolate_mode; ssl_dim 256 means vec256l9."""
    config = small_config(ssl_dim=256, gin_channels=256)
    model = write_model(tmp_path, config)
    values = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    for key in ("speech_encoder", "vocoder_name", "vol_embedding", "use_depthwise_conv", "use_automatic_f0_prediction"):
        del values["model"][key]
    del values["data"]["unit_interpolate_mode"]
    (tmp_path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    asked: list[str] = []

    def stand_in(name: str, **kwargs: Any) -> StandInEncoder:
        asked.append(name)
        return StandInEncoder(256)

    monkeypatch.setattr(networks, "get_encoder", stand_in)
    voice = load(model, tmp_path)
    assert asked == ["vec256l9"]
    assert voice.network.unit_mode == "left"
    assert np.abs(voice.render(window(), InferenceOptions())).max() > 0


def test_an_encoder_of_another_width_than_the_models_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "get_encoder", lambda name, **kwargs: StandInEncoder(768))
    with pytest.raises(UserError, match="768 channels, the model takes 384"):
        load(folder / "G_1.pth", folder / "pretrain")


def stand_in_voice(**model: Any) -> Voice:
    config = small_config(**model)
    prepared = models.prepare_for_inference(small_model(config), "cpu", "fp32")
    encoder = TorchEncoder(StandInEncoder(384))  # type: ignore[arg-type]
    return Voice(encoder, TorchGenerator(config, prepared, torch.device("cpu")))


def test_a_model_with_volume_embedding_hears_the_loudness_of_the_song() -> None:
    voice = stand_in_voice(vol_embedding=True)
    heard: list[Tensor] = []
    infer = model_of(voice).infer

    def listen(*args: Any, volume: Tensor, **kwargs: Any) -> Any:
        heard.append(volume)
        return infer(*args, volume=volume, **kwargs)

    model_of(voice).infer = listen  # type: ignore[method-assign]
    loud = window()
    voice.render(loud, InferenceOptions())
    voice.render(WindowInput(0.5 * loud.audio, loud.f0, loud.uv, 0), InferenceOptions())
    assert heard[0].shape == (1, len(loud.f0))
    torch.testing.assert_close(heard[1], 0.5 * heard[0])


def test_the_envelope_of_the_input_is_given_to_the_output() -> None:
    voice = stand_in_voice()
    fading = window(4.0)
    fading = WindowInput(fading.audio * np.geomspace(1, 0.01, len(fading.audio)), fading.f0, fading.uv, 0)
    plain = voice.render(fading, InferenceOptions())
    given = voice.render(fading, InferenceOptions(loudness_envelope_adjustment=0.0))
    quarter = len(plain) // 4

    def fall(audio: np.ndarray) -> float:
        return float(20 * np.log10(np.std(audio[:quarter]) / np.std(audio[-quarter:])))

    assert abs(fall(plain)) < 10
    assert fall(given) > 20


class PullTo:
    """A blender that pulls units to a constant of each speaker."""

    values = {0: 1.0, 1: -1.0}

    def __init__(self) -> None:
        self.asked: list[int] = []

    def blend(self, units: np.ndarray, speaker: int, ratio: float) -> np.ndarray:
        self.asked.append(speaker)
        return ((1 - ratio) * units + ratio * self.values[speaker]).astype(np.float32)


def test_units_are_blended_by_the_ratio_and_in_a_mix_by_the_shares() -> None:
    """(A21) The original forgets the blend in a mix. A ratio of 0 loads nothing."""
    voice = stand_in_voice()
    plain = voice.units(window(), InferenceOptions())
    assert voice._blender is None
    voice._blender = blender = PullTo()
    half = voice.units(window(speaker=1), InferenceOptions(cluster_infer_ratio=0.5))
    np.testing.assert_allclose(half, 0.5 * plain - 0.5, rtol=1.3e-6, atol=1e-5)
    shares = np.tile(np.array([0.25, 0.75], dtype=np.float32), (86, 1))
    mixed = voice.units(window(speaker=shares), InferenceOptions(cluster_infer_ratio=1.0))
    np.testing.assert_allclose(mixed, np.full_like(mixed, -0.5), rtol=1.3e-6, atol=1e-5)
    assert blender.asked == [1, 0, 1]


def test_a_mix_of_one_speaker_alone_is_that_speaker() -> None:
    voice = stand_in_voice()
    alone = np.zeros((len(window().f0), 2), dtype=np.float32)
    alone[:, 1] = 1
    want = voice.render(window(speaker=1), InferenceOptions())
    np.testing.assert_allclose(voice.render(window(speaker=alone), InferenceOptions()), want, atol=1e-4)
    assert np.abs(voice.render(window(speaker=0), InferenceOptions()) - want).max() > 1e-3


def test_unloading_lets_go_of_everything() -> None:
    svc = Svc(stand_in_voice(), PitchFinder(RATE, HOP))
    svc.unload()
    assert svc.voice is None
    with pytest.raises(RuntimeError, match="unloaded"):
        svc.convert(np.zeros(100, np.float32), 0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the machine has CUDA")
@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_a_device_that_is_not_there_is_not_offered(name: str) -> None:
    with pytest.raises(UserError, match=f"no device '{name}'") as refusal:
        pick_device(name)
    assert refusal.value.fix.startswith("use cpu")
    assert "use cuda" not in refusal.value.fix and "this PyTorch" in refusal.value.fix


def test_an_index_and_centres_that_are_mixed_up_are_called_so(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "feature_and_index").mkdir()
    (tmp_path / "index.pkl").touch()
    for name in ("feature_and_index", "feature_and_index.pkl", "index.pkl"):
        voice = load(folder / "G_1.pth", folder / "pretrain", cluster_model_path=tmp_path / name)
        with pytest.raises(UserError, match="feature index is no file of k-means") as refusal:
            voice.check(InferenceOptions(cluster_infer_ratio=0.5))
        assert "-fr" in refusal.value.fix
