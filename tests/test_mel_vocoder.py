"""The stand-alone NSF-HiFiGAN: the published numbers, its files, what a user can get wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modules.errors import UserError
from tests.parity import fill, golden, signals
from vdecoder.mel_vocoder import MelExtractor, MelGenerator, MelVocoder, VocoderConfig

GOLDENS = Path(__file__).parent / "parity" / "goldens"
SHIFTS = {"key0_speed1": (0, 1), "key3_speed1": (3, 1), "key-4_speed1": (-4, 1), "key0_speed0.5": (0, 0.5)}
SHIFTS["key2_speed1.25"] = (2, 1.25)


def load_case(case: str) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, torch.Tensor]]:
    meta, arrays = golden.load(GOLDENS / f"{case}.npz")
    return meta, arrays, {name: torch.from_numpy(value) for name, value in golden.inputs(meta, arrays).items()}


def write_vocoder(folder: Path) -> Path:
    """The pack's small vocoder as a user has it: model and config.json."""
    manifest = json.loads((GOLDENS / "manifests" / "e_vocoder.json").read_text())
    state = {key: torch.from_numpy(value) for key, value in fill.fill_state_dict(manifest).items()}
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"generator": state}, folder / "model")
    training_only = {"batch_size": 8, "discriminator_periods": [3, 5]}
    (folder / "config.json").write_text(json.dumps({**manifest["config_json"], **training_only}))
    return folder / "model"


@pytest.fixture(scope="module")
def vocoder(tmp_path_factory: pytest.TempPathFactory) -> MelVocoder:
    return MelVocoder.load(write_vocoder(tmp_path_factory.mktemp("vocoder")))


def seeded(seed: int = 77) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", list(SHIFTS))
def test_mel_with_key_shift_and_speed_equals_the_published_one(name: str) -> None:
    meta, arrays, inputs = load_case("e_mel")
    extractor = MelExtractor(VocoderConfig.from_dict(meta["config"]["config_json"]))
    key_shift, speed = SHIFTS[name]
    mel = extractor(inputs["y"], key_shift, speed).transpose(1, 2)
    golden.compare(meta, arrays, f"mel_{name}", mel.numpy())


def test_mel_of_a_clip_shorter_than_a_window_equals_the_published_one() -> None:
    meta, arrays, inputs = load_case("e_mel")
    extractor = MelExtractor(VocoderConfig.from_dict(meta["config"]["config_json"]))
    golden.compare(meta, arrays, "mel_short", extractor(inputs["y"][:, 10000:10700]).transpose(1, 2).numpy())


def test_audio_excitation_and_extraction_equal_the_published_ones(vocoder: MelVocoder) -> None:
    meta, arrays, inputs = load_case("e_vocoder")
    sources = []
    hook = vocoder.generator.m_source.register_forward_hook(lambda *call: sources.append(call[2]))
    audio = vocoder.synthesise(inputs["mel"], inputs["f0"].squeeze(-1), seeded())
    hook.remove()
    golden.compare(meta, arrays, "har_source", sources[0].numpy())
    golden.compare(meta, arrays, "audio", audio.numpy())
    golden.compare(meta, arrays, "extract", vocoder.extract(inputs["y22k"], 22050).numpy())


def test_log10_vocoder_is_the_same_but_for_the_unit_of_the_mel(vocoder: MelVocoder) -> None:
    decades = MelVocoder(vocoder.config, vocoder.generator, "nsf-hifigan-log10")
    audio = torch.from_numpy(signals.voice_like(44100, 0.3)).unsqueeze(0)
    mel, mel10 = (v.extract(audio, 44100) for v in (vocoder, decades))
    torch.testing.assert_close(mel10, mel * 0.434294, atol=1e-5, rtol=1e-5)
    f0 = torch.full((1, mel.shape[1]), 220.0)
    one, other = vocoder.synthesise(mel, f0, seeded()), decades.synthesise(mel10, f0, seeded())
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_full_size_vocoder_loads_strictly(parity_pack: Path) -> None:
    manifest = json.loads((parity_pack / "manifests" / "nsf_hifigan_44k.json").read_text())
    with torch.device("meta"):
        generator = MelGenerator(VocoderConfig.from_dict(manifest["config_json"]))
    state = {entry[0]: torch.empty(entry[1], device="meta") for entry in manifest["entries"]}
    generator.load_state_dict(state, strict=True, assign=True)


def test_odd_rates_keep_the_length() -> None:
    values = {
        "resblock": "1", "upsample_rates": [7, 7, 3], "upsample_kernel_sizes": [15, 15, 7], "num_mels": 16,
        "upsample_initial_channel": 16, "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1]],
        "n_fft": 512, "hop_size": 147, "win_size": 512, "sampling_rate": 22050, "fmin": 0, "fmax": 8000,
    }  # fmt: skip
    config = VocoderConfig.from_dict(values)
    vocoder = MelVocoder(config, MelGenerator(config))
    mel = vocoder.extract(torch.randn(1, 147 * 20, generator=seeded()), 22050)
    assert mel.shape == (1, 20, 16)
    assert vocoder.synthesise(mel, torch.full((1, 20), 200.0), seeded()).shape == (1, 1, 147 * 20)


def test_a_key_shift_moves_partials_by_its_ratio() -> None:
    meta, _, _ = load_case("e_mel")
    extractor = MelExtractor(VocoderConfig.from_dict(meta["config"]["config_json"]))
    time = torch.arange(44100) / 44100
    up = extractor(torch.sin(2 * math.pi * 440 * 2 ** (4 / 12) * time).unsqueeze(0))
    shifted = extractor(torch.sin(2 * math.pi * 440 * time).unsqueeze(0), key_shift=4)
    assert up.mean(1).argmax() == shifted.mean(1).argmax()
    assert (up - shifted)[0, 10:-10].abs().median() < 0.3


def test_synthesis_takes_its_noise_from_the_given_generator_alone(vocoder: MelVocoder) -> None:
    mel, f0 = torch.full((1, 10, 128), -5.0), torch.full((1, 12), 200.0)
    state = torch.random.get_rng_state()
    first = vocoder.synthesise(mel, f0, seeded())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first, vocoder.synthesise(mel, f0, seeded()))
    assert not torch.equal(first, vocoder.synthesise(mel, f0, seeded(78)))
    assert first.shape == (1, 1, 5120)


def test_a_missing_config_and_wrong_files_are_named(tmp_path: Path) -> None:
    path = write_vocoder(tmp_path / "good")
    config = path.with_name("config.json")
    values = json.loads(config.read_text())
    with pytest.raises(UserError, match="no vocoder config"):
        MelVocoder.load(tmp_path / "elsewhere" / "model")
    config.write_text(json.dumps({key: value for key, value in values.items() if key != "fmax"}))
    with pytest.raises(UserError, match="lacks fmax"):
        MelVocoder.load(path)
    config.write_text(json.dumps({**values, "hop_size": 256}))
    with pytest.raises(UserError, match="hop_size 256"):
        MelVocoder.load(path)
    config.write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        MelVocoder.load(path)
    config.write_text(json.dumps({**values, "upsample_initial_channel": 32}))
    with pytest.raises(UserError, match="do not fit"):
        MelVocoder.load(path)
    config.write_text(json.dumps(values))
    torch.save({"model": {}}, path)
    with pytest.raises(UserError, match="no 'generator'"):
        MelVocoder.load(path)
    path.unlink()
    with pytest.raises(UserError, match="no such file"):
        MelVocoder.load(path)
