"""Every script answers --help at once, and says no to a wrong flag, without a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

CPU_SECONDS = 0.5
NOT_SCRIPTS = {"models.py", "spkmix.py"}  # a library and a file that users edit
SCRIPTS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.py", "scripts/*.py", "cluster/train_*.py", "benchmarks/quality.py")
    for path in ROOT.glob(pattern)
    if path.name not in NOT_SCRIPTS and "argv" in path.read_text(encoding="utf-8")
)
COMMANDS = [[script] for script in SCRIPTS] + [["-m", "pretrain"], ["-m", "pretrain", "fetch"]]


def test_the_numbered_scripts_are_among_those_tested() -> None:
    numbered = {"resample.py", "preprocess_flist_config.py", "preprocess_hubert_f0.py", "train.py", "inference_main.py"}
    assert numbered <= set(SCRIPTS)
    assert {"scripts/demo.py", "scripts/make_demo_songs.py"} <= set(SCRIPTS)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_takes_less_than_half_a_second_of_cpu(command: list[str], tmp_path: Path) -> None:
    times = []
    for _ in range(3):
        with (tmp_path / "out").open("w+b") as out:
            process = subprocess.Popen([sys.executable, *command, "--help"], cwd=ROOT, stdout=out, stderr=out)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            out.seek(0)
            text = out.read().decode()
        assert process.returncode == 0, text
        assert text.startswith("usage:"), text
        times.append(usage.ru_utime)
        if times[-1] < CPU_SECONDS:
            break
    assert min(times) < CPU_SECONDS


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_unknown_flag_ends_with_2_and_the_usage(command: list[str]) -> None:
    result = subprocess.run(
        [sys.executable, *command, "--no-such-flag"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert "usage:" in result.stderr
    assert "Traceback" not in result.stderr
