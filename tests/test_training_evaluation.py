"""What training measures on held-out clips: melody and voice beside the mel distance, and when to say enough."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from modules.config import load_config
from modules.data.dataset import ClipDataset, read_file_list
from modules.training import vits
from modules.training.distributed import Ranks
from modules.training.evaluation import Evaluation, HeldOutMetrics, Plateau, Sample
from modules.training.logging import read_metrics
from modules.training.options import TrainOptions
from modules.training.vits import train
from tests.conftest import ROOT
from tests.test_quality_faults import sing_as, weight
from tests.tiny_voice import make_dataset, tiny_config

NEVER = 10**6


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of six training clips and two for validation, evaluated at every step."""
    root = tmp_path_factory.mktemp("voice")
    make_dataset(root, tiny_config({"eval_interval": 1, "log_interval": NEVER}))
    return root


def run(prepared: Path, folder: Path, max_steps: int, **options: Any) -> Path:
    """Train up to a step; returns the model's folder."""
    config = prepared / "configs/config.json"
    given = TrainOptions(config, folder.name, folder.parent, max_steps=max_steps, **options)
    assert train(given, Ranks(torch.device("cpu"))) == 0
    return folder


def test_an_evaluation_tells_the_error_of_the_melody_and_the_likeness_of_the_voice(prepared: Path) -> None:
    """A generator that gives the recording back has neither; one a semitone too high has the one and not the other."""
    weight("resemblyzer")
    config = load_config(prepared / "configs/config.json")
    clip = ClipDataset(read_file_list(config.data.validation_files), config, training=False)[0]
    audio = clip.audio[0]
    high = torch.from_numpy(sing_as(audio.numpy(), 1.0, 1.0))
    mel = torch.zeros(80, 1)
    metrics = HeldOutMetrics.load(config.data, ROOT / "pretrain")
    assert metrics.encoder is not None
    cents, likeness = metrics.compare(0, Sample(audio, audio, mel, mel))
    assert cents == 0 and likeness == pytest.approx(1)
    cents, likeness = metrics.compare(0, Sample(audio, high, mel, mel))
    assert cents == pytest.approx(100, abs=10) and 0.5 < likeness < 0.999
    cents, likeness = metrics.compare(0, Sample(audio, torch.zeros_like(audio), mel, mel))
    assert math.isnan(cents) and math.isnan(likeness)


def test_the_voice_is_left_out_where_its_weights_are_not_there_or_broken(tmp_path: Path, capsys) -> None:
    assert HeldOutMetrics.load(tiny_config().data, tmp_path).encoder is None
    (tmp_path / "resemblyzer.pt").write_bytes(b"half a file")
    assert HeldOutMetrics.load(tiny_config().data, tmp_path).encoder is None
    assert "similarity of the voice is not measured" in capsys.readouterr().out


def test_a_plateau_is_seen_when_no_figure_improves() -> None:
    plateau = Plateau(2, best_distance=1.0)
    name = "val/mel_distance"
    seen = [plateau.see({name: distance}) for distance in (1.5, 0.9, 0.9, 1.0, 0.95)]
    assert seen == [False, False, False, True, False]
    assert plateau.waiting == 3
    assert plateau.see({name: 2.0, "val/f0_cents": 10.0}) is False  # seen for the first time
    assert plateau.see({name: 2.0, "val/f0_cents": 9.0}) is False  # better, though the distance is not
    assert plateau.see({"val/speaker_similarity": 0.5}) is False
    assert [plateau.see({"val/speaker_similarity": 0.5}) for _ in range(4)] == [False, True, False, True]


def test_a_run_that_no_longer_improves_says_so_and_ends_when_asked(prepared, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(vits, "evaluate", lambda *_: Evaluation(1.0, {"val/mel_distance": 1.0}, []))
    folder = run(prepared, tmp_path / "on", 5, patience=2)
    assert "nothing has improved for 2 evaluations" in capsys.readouterr().out
    assert read_metrics(folder / "metrics.jsonl")[-1]["step"] == 5
    folder = run(prepared, tmp_path / "ends", 5, patience=2, stop_early=True)
    assert "training ends here (--stop_early)" in capsys.readouterr().out
    assert read_metrics(folder / "metrics.jsonl")[-1]["step"] == 2
    assert (folder / "G_2.pth").is_file() and not (folder / "G_3.pth").exists()


def test_a_run_logs_what_it_heard_and_the_best_stays_the_one_of_the_mel_distance(prepared, tmp_path) -> None:
    rows = read_metrics(run(prepared, tmp_path, 2) / "metrics.jsonl")
    heard = [row for row in rows if "val/mel_distance" in row]
    assert [row["step"] for row in heard] == [0, 1, 2]
    best = json.loads((tmp_path / "best.json").read_text())
    assert best["mel_distance"] == min(row["val/mel_distance"] for row in heard)
    for row in heard:  # noise has no pitch at all; where there is one, it is finite and in cents
        assert row.get("val/f0_cents", 0.0) >= 0 and abs(row.get("val/speaker_similarity", 0.0)) <= 1
