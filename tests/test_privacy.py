"""Nothing of a user's machine is told to anybody: onnxruntime's reports to its makers are off in every program."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from modules.onnx.export.graph import Graph, Input, export
from tests.conftest import ROOT
from tests.test_layers import PACKAGES, imported_names

# How each module that imports onnxruntime opens a graph.
IMPORTERS = {
    "modules/onnx/session.py": "from modules.onnx.session import Session; Session(path, {'x'}, 'cpu')",
    "vencoder/onnx_encoder.py": (
        "import torch; from vencoder.onnx_encoder import open_session; open_session(path, torch.device('cpu'))"
    ),
}


def importers() -> set[str]:
    folders = [*PACKAGES, "scripts", "benchmarks"]
    files = [*ROOT.glob("*.py"), *(path for folder in folders for path in (ROOT / folder).rglob("*.py"))]
    heads = {path: {name.partition(".")[0] for name in imported_names(path)} for path in files}
    return {path.relative_to(ROOT).as_posix() for path, names in heads.items() if "onnxruntime" in names}


def files_left_by(code: str, home: Path) -> list[str]:
    """What running ``code`` in a process of its own leaves in an empty home folder."""
    home.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "TMPDIR": str(home)}
    subprocess.run([sys.executable, "-B", "-c", code], cwd=ROOT, env=environment, check=True)
    return [path.name for path in home.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "same.onnx"
    export(Graph(torch.nn.Identity(), {"x": Input(torch.zeros(1))}, {"y": {}}), path)
    return path


def test_every_importer_of_onnxruntime_is_looked_at() -> None:
    assert importers() == IMPORTERS.keys()


@pytest.mark.skipif(sys.platform != "linux", reason="where the id is written differs")
@pytest.mark.parametrize("importer", IMPORTERS)
def test_opening_a_graph_leaves_no_id_of_the_machine(importer: str, graph: Path, tmp_path: Path) -> None:
    """The id is written before the first message is sent; the bare library writes it."""
    code = f"from pathlib import Path; path = Path({str(graph)!r}); {IMPORTERS[importer]}"
    assert files_left_by(code, tmp_path / "home") == []
