"""Training as users start it: torchrun, Ctrl-C, kill -9, and two runs at once."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from modules import checkpoint
from modules.training.distributed import Ranks
from modules.training.logging import read_metrics
from modules.training.options import TrainOptions
from modules.training.resume import newest, training_checkpoints
from modules.training.vits import train
from tests.conftest import ROOT
from tests.tiny_voice import make_dataset, tiny_config

NEVER = 10**6
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture
def voice(tmp_path: Path) -> Path:
    make_dataset(tmp_path, tiny_config({"log_interval": 1, "eval_interval": NEVER}), seconds=(0.5, 0.45, 0.4))
    return tmp_path


def set_train(voice: Path, **values: int) -> None:
    path = voice / "configs/config.json"
    config = json.loads(path.read_text())
    config["train"].update(values)
    path.write_text(json.dumps(config))


def start(voice: Path, *arguments: str) -> subprocess.Popen[str]:
    """train.py in a process group of its own."""
    command = [sys.executable, str(ROOT / "train.py"), "-m", "m", "--device", "cpu", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=voice, env=ENVIRONMENT, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )


def wait_for(condition: object, process: subprocess.Popen[str], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.005)


def test_two_ranks_see_disjoint_clips_and_end_with_equal_weights(voice: Path) -> None:
    """(A18)"""
    set_train(voice, batch_size=1, eval_interval=3)
    folder = voice / "logs/m"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    arguments = [str(ROOT / "tests/train_under_torchrun.py"), "configs/config.json", str(folder), str(voice), "6"]
    done = subprocess.run([*command, *arguments], cwd=voice, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((voice / f"rank{rank}.json").read_text()) for rank in range(2)]

    assert [rank["world_size"] for rank in ranks] == [2, 2]
    for epoch in (slice(0, 3), slice(3, 6)):  # six clips, two ranks, one clip a batch
        drawn = [set(sum(rank["seen"][epoch], [])) for rank in ranks]
        assert len(drawn[0]) == len(drawn[1]) == 3 and not drawn[0] & drawn[1]
    assert ranks[0]["seen"][:3] != ranks[0]["seen"][3:]
    assert not set(ranks[0]["draws"]) & set(ranks[1]["draws"])
    assert ranks[0]["weights"] == ranks[1]["weights"]
    assert list(training_checkpoints(folder, "D")) == [3, 6]
    assert done.stdout.count("saved at step 6") == 1  # one rank speaks

    loaded = checkpoint.load(folder / "G_6.pth")
    assert not any(key.startswith("module.") for key in loaded["model"])
    options = TrainOptions(voice / "configs/config.json", "m", voice / "logs", max_steps=7)
    assert train(options, Ranks(torch.device("cpu"))) == 0
    assert list(training_checkpoints(folder, "G")) == [3, 6, 7]


# Kills itself with half of a G_<step>.pth written, D_<step>.pth being there already.
KILLED_IN_A_WRITE = """
import os, signal, sys, torch
import train
whole = torch.save
def half(content, file):
    whole(content, file)
    if file.name.rsplit("/", 1)[1].startswith(f".G_{sys.argv[1]}."):
        file.truncate(file.tell() // 2)
        os.kill(os.getpid(), signal.SIGKILL)
torch.save = half
train.main(["-m", "m", "--device", "cpu"])
"""


def test_killed_runs_go_on_from_the_newest_whole_pair(voice: Path) -> None:
    set_train(voice, eval_interval=1, keep_ckpts=2)
    folder = voice / "logs/m"
    process = start(voice)
    wait_for(lambda: (folder / "G_2.pth").exists(), process)
    time.sleep(0.02)  # anywhere in the next step, evaluation or save
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    first = newest_whole_pair(folder)
    assert process.returncode == -signal.SIGKILL and first >= 2

    command = [sys.executable, "-c", KILLED_IN_A_WRITE, str(first + 2)]
    killed = subprocess.run(command, cwd=voice, env=ENVIRONMENT, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert newest_whole_pair(folder) == first + 1
    assert (folder / f"D_{first + 2}.pth").exists() and len(list(folder.glob(f".G_{first + 2}.*"))) == 1

    process = start(voice, "--max_steps", str(first + 3))
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert f"resuming from step {first + 1}\n" in printed
    for letter in "GD":
        assert list(training_checkpoints(folder, letter)) == [first + 2, first + 3]
    assert not list(folder.glob(".[GD]_*"))
    steps = [row["step"] for row in read_metrics(folder / "metrics.jsonl") if "loss/g/mel" in row]
    assert steps == list(range(1, first + 4))


def newest_whole_pair(folder: Path) -> int:
    """Its step; every file under a final name must be whole."""
    for path in folder.glob("[GD]_*.pth"):
        assert checkpoint.load(path)["model"]
    for name in ("config.json", "best.json"):
        if (folder / name).exists():
            json.loads((folder / name).read_text())
    found = newest(folder)
    assert found is not None
    return found[0]


def test_ctrl_c_saves_and_the_same_command_goes_on(voice: Path) -> None:
    folder = voice / "logs/m"
    process = start(voice, "--num_workers", "1")
    wait_for(lambda: len(read_metrics(folder / "metrics.jsonl")) > 2, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the loading process gets it too
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGINT, errors
    saved = int(re.findall(r"saved at step (\d+)", printed)[0])
    found = newest(folder)
    assert found is not None and found[0] == saved >= 2
    assert "Traceback" not in errors


def test_two_runs_at_once_do_not_meet(voice: Path) -> None:
    """(B17)"""
    commands = [
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1", str(ROOT / "train.py")],
        [sys.executable, str(ROOT / "train.py")],
    ]
    processes = [
        subprocess.Popen(
            [*command, "-m", name, "--device", "cpu", "--max_steps", "2"],
            cwd=voice,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name, command in zip("ab", commands, strict=True)
    ]
    for process in processes:
        printed, _ = process.communicate(timeout=300)
        assert process.returncode == 0, printed
    pairs = [newest(voice / "logs" / name) for name in "ab"]
    states = [checkpoint.load(pair[1][0])["model"] for pair in pairs if pair is not None]
    assert len(states) == 2 and all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert all(path.stat().st_size for path in itertools.chain(voice.glob("logs/?/G_2.pth")))
