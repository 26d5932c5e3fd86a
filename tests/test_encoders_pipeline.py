"""Every encoder in the pipeline: features of real audio, two training steps, a converted clip."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import inference_main
import preprocess_flist_config
import preprocess_hubert_f0
import train
from tests import encoder_files as files
from tests.conftest import ROOT
from vencoder import ENCODERS

RATE, SECONDS, CLIPS = 44100, 1.0, 3


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """A few short clips of one of the demo's singers."""
    folder = tmp_path_factory.mktemp("clips")
    audio, rate = soundfile.read(sorted((ROOT / "demo" / "voices").rglob("*.flac"))[0], dtype="float32")
    assert rate == RATE
    for index in range(CLIPS):
        start = round((1 + 1.5 * index) * rate)
        soundfile.write(folder / f"{index}.wav", audio[start : start + round(SECONDS * rate)], rate, subtype="PCM_16")
    return folder


@pytest.mark.parametrize("name", ENCODERS)
def test_features_two_steps_and_a_converted_clip(name, clips, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.write_small(name, Path("pretrain"))
    singer = Path("dataset/44k/singer")
    singer.mkdir(parents=True)
    for clip in clips.iterdir():
        (singer / clip.name).write_bytes(clip.read_bytes())

    assert preprocess_flist_config.main(["--speech_encoder", name, "--micro"]) == 0
    config_path = Path("configs/config.json")
    config = json.loads(config_path.read_text(encoding="utf-8"))
    assert config["model"]["speech_encoder"] == name and config["model"]["ssl_dim"] == ENCODERS[name].width
    assert preprocess_hubert_f0.main(["--f0_predictor", "dio", "-d", "cpu"]) == 0
    units = torch.load(singer / "0.wav.soft.pt", weights_only=True)
    assert units.shape == (1, ENCODERS[name].width, ENCODERS[name].frames(round(SECONDS * 16000)))
    assert torch.isfinite(units).all() and units.std(dim=2).mean() > 1e-4

    steps = ["-m", "44k", "-d", "cpu", "--max_steps", "2", "--num_workers", "0"]
    assert train.main(["-c", str(config_path), *steps]) == 0
    model = max(Path("logs/44k").glob("G_[0-9]*.pth"), key=lambda path: int(path.stem.split("_")[1]))
    convert = ["-m", str(model), "-c", str(config_path), "-n", str(singer / "0.wav"), "-s", "singer", "-d", "cpu"]
    assert inference_main.main([*convert, "-f0p", "dio", "-wf", "wav"]) == 0
    (result,) = Path("results").glob("*.wav")
    audio, rate = soundfile.read(result)
    assert rate == RATE and len(audio) == round(SECONDS * RATE)
    assert np.isfinite(audio).all() and np.abs(audio).max() > 1e-4
