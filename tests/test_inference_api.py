"""modules.inference as a Python user has it: its example runs, and importing it costs next to nothing."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import soundfile

import modules.inference
from tests.conftest import ROOT
from tests.parity import signals
from tests.standin_voice import RATE, write_encoder, write_model


def example() -> str:
    """The code in the docstring."""
    text = modules.inference.__doc__
    assert text is not None
    _, _, rest = text.partition("::\n\n")
    code = rest.partition("\n\n``")[0]
    return textwrap.dedent(code)


def test_the_example_of_the_package_converts_a_song(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(tmp_path / "logs/44k")
    write_encoder(tmp_path / "pretrain")
    (tmp_path / "raw").mkdir()
    soundfile.write(tmp_path / "raw/song.wav", signals.voice_like(RATE, 1.0, [200, 240, 220]), RATE)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(example(), "the example", "exec"), names)
    audio, rate = soundfile.read(tmp_path / "results/song.flac", dtype="float32")
    assert (len(audio), rate) == (RATE, RATE) and np.abs(audio).max() > 1e-3
    assert "{'alice': 0, 'bob': 1}" in capsys.readouterr().out


def test_importing_the_package_loads_nothing_heavy() -> None:
    check = (
        "import sys, modules.inference as face\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "assert all(getattr(face, name) for name in face.__all__)\n"
        "assert 'torch' not in sys.modules, 'torch is for the voices that need it'\n"
        "try:\n    face.nothing\nexcept AttributeError:\n    pass\nelse:\n    raise SystemExit(1)\n"
    )
    result = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
