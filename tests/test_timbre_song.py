"""Clustering, retrieval, mixes and releases in whole conversions, by the scripts that users type."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import compress_model
import inference_main
import spkmix
import train_index
from cluster import train_cluster
from modules import checkpoint, mixing
from modules.inference.options import InferenceOptions
from modules.inference.speaker_mix import SpeakerMix
from modules.inference.svc import Svc
from modules.inference.windows import WindowInput
from tests.parity import fill, signals
from tests.standin_voice import HOP, RATE, WIDTH, Identity, identity_svc, write_encoder, write_model

MODEL = "logs/44k/G_800.pth"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, its encoder, units of both speakers and a song."""
    write_model(tmp_path / "logs/44k", name="G_800.pth")
    write_encoder(tmp_path / "pretrain")
    for speaker in ("alice", "bob"):
        (tmp_path / "dataset/44k" / speaker).mkdir(parents=True)
        units = torch.from_numpy(fill.fill(f"timbre/{speaker}", (1, WIDTH, 150)))
        checkpoint.save(units, tmp_path / "dataset/44k" / speaker / "a.wav.soft.pt")
    (tmp_path / "raw").mkdir()
    soundfile.write(tmp_path / "raw/song.wav", signals.voice_like(RATE, 1.2, [200, 240, 220]), RATE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def convert(*flags: str, model: str = MODEL, speaker: str = "alice") -> np.ndarray:
    """Convert the song in fp32 and return the audio of the newest result."""
    before = set(Path("results").glob("*"))
    arguments = ["-m", model, "-n", "song.wav", "-s", speaker, "-d", "cpu", "--precision", "fp32", *flags]
    assert inference_main.main(arguments) == 0
    (result,) = set(Path("results").glob("*")) - before
    audio, _ = soundfile.read(result, dtype="float32")
    result.rename(result.with_name(f"kept_{len(before)}_{result.name}"))
    return audio


def test_clustering_and_retrieval_change_the_song_by_their_ratio(home: Path) -> None:
    assert train_cluster.main([]) == 0
    assert train_index.main(["-c", "logs/44k/config.json"]) == 0
    plain = convert()
    for flags in ([], ["-fr"]):
        half, full = (convert("-cr", ratio, *flags) for ratio in ("0.5", "1"))
        assert len(half) == len(full) == len(plain)
        distances = [float(np.square(audio - plain).mean()) for audio in (half, full)]
        assert 0 < distances[0] < distances[1]
    np.testing.assert_array_equal(convert("-cr", "0", "-fr"), plain)
    names = sorted(path.name for path in (home / "results").glob("*"))
    assert any("_0.5_" in name for name in names)


@pytest.mark.parametrize("flags", [["-cr", "0.5"], ["-cr", "0.5", "-fr"]])
def test_a_missing_cluster_file_names_the_command_that_makes_it(
    home: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert inference_main.main(["-m", MODEL, "-n", "song.wav", "-s", "alice", "-d", "cpu", *flags]) != 0
    assert ("train_index.py" if "-fr" in flags else "train_cluster.py") in capsys.readouterr().err


def test_a_release_converts_bit_for_bit_as_its_model(home: Path) -> None:
    plain = convert()
    config = ["-c", "logs/44k/config.json", "-i", MODEL]
    assert compress_model.main([*config, "-o", "release.pth"]) == 0
    np.testing.assert_array_equal(convert(model="release.pth"), plain)
    assert compress_model.main([*config, "-o", "half.pth", "--half"]) == 0
    half = convert(model="half.pth")
    assert len(half) == len(plain) and np.corrcoef(half, plain)[0, 1] > 0.99


def test_a_safetensors_release_needs_no_other_file(home: Path) -> None:
    plain = convert()
    config = Path("logs/44k/config.json")
    assert compress_model.main(["-c", str(config), "-i", MODEL, "-o", "alice.safetensors"]) == 0
    config.unlink()
    np.testing.assert_array_equal(convert(model="alice.safetensors"), plain)


def test_a_static_mix_converts_and_a_full_share_is_that_model(home: Path) -> None:
    write_model(home / "other", name="G_1.pth")
    other = checkpoint.load("other/G_1.pth")
    other["model"]["dec.conv_post.weight_g"] *= 3  # sings louder
    checkpoint.save(other, "other/G_1.pth")
    assert mixing.main([f"{MODEL}=100", "other/G_1.pth=0"]) == 0
    plain = convert()
    np.testing.assert_array_equal(convert("-c", "logs/44k/config.json", model="output.pth"), plain)
    assert mixing.main([f"{MODEL}=50", "other/G_1.pth=50"]) == 0
    assert np.abs(convert("-c", "logs/44k/config.json", model="output.pth") - plain).max() > 0.01


def test_a_dynamic_mix_sings_with_clusters(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The original ignores the cluster ratio in a mix (A21)."""
    assert train_cluster.main([]) == 0
    tracks = {"alice": [[0, 1, 1, 0]], 1: [[0, 1, 0, 1]]}
    monkeypatch.setattr(spkmix, "spk_mix_map", tracks)
    mixed, clustered = convert("-usm"), convert("-usm", "-cr", "0.7")
    assert len(mixed) == round(1.2 * RATE) and np.abs(mixed - clustered).max() > 3e-5
    assert any("spk_mix" in path.name for path in (home / "results").glob("*"))


def test_the_unedited_mix_is_refused_with_tracks_for_this_model(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The default of the original fails on every model that has not three speakers (B7)."""
    assert inference_main.main(["-m", MODEL, "-n", "song.wav", "-usm", "-d", "cpu"]) == 2
    assert "'alice': [[0, 1, 1, 0]], 'bob': [[0, 1, 0, 1]]" in capsys.readouterr().err


class ByLevel(Identity):
    """Sings at a level that is bob's share."""

    def render(self, window: WindowInput, options: InferenceOptions) -> np.ndarray:
        shares = np.asarray(window.speaker)[:, 1]
        return np.repeat(0.5 * shares.astype(np.float32), HOP)


@pytest.mark.parametrize("cut", [{}, {"clip": 3.0}, {"clip": 2.5, "linear_gradient": 0.4}], ids=str)
def test_a_switch_at_half_time_is_heard_at_half_time(cut: dict[str, float]) -> None:
    """The original counts pads and mixes rates, so that the curve drifts (A21)."""
    svc: Svc = identity_svc()[0]
    svc.voice = ByLevel()
    tracks = {"alice": [[0, 0.5, 1, 1], [0.5, 1, 0, 0]], "bob": [[0, 0.5, 0, 0], [0.5, 1, 1, 1]]}
    mix = SpeakerMix.from_map(tracks, svc.speakers, svc.n_speakers)
    song = 0.3 * signals.voice_like(RATE, 21.3, [200, 240, 220, 230])
    out, _ = svc.convert(song.astype(np.float32), mix, InferenceOptions(**cut))
    switch = int(np.argmax(out > 0.25)) / RATE
    assert abs(switch - 21.3 / 2) < 0.02
    assert (out[int((switch + 0.1) * RATE) : -RATE // 10] > 0.45).all() and (
        out[: int((switch - 0.1) * RATE)] < 0.05
    ).all()


def test_a_model_that_makes_nan_is_named_as_the_cause(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = checkpoint.load(MODEL)
    broken["model"]["dec.conv_post.weight_v"] *= 0  # weight norm divides by its length
    checkpoint.save(broken, MODEL)
    assert inference_main.main(["-m", MODEL, "-n", "song.wav", "-s", "alice", "-d", "cpu"]) == 1
    assert "NaN" in capsys.readouterr().err
    assert not list(Path("results").glob("*"))
