"""pm, dio, harvest and crepe: the goldens, and what every predictor must do with awkward audio."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modules.f0 import get_predictor
from tests.parity import golden

GOLDENS = Path(__file__).parent / "parity" / "goldens"
RATE, HOP = 44100, 512
CPU_ONLY = ("pm", "dio", "harvest")


def tone(hz: float, seconds: float, rate: int = RATE) -> np.ndarray:
    """A tone with four harmonics, float32."""
    times = np.arange(int(seconds * rate)) / rate
    return sum(0.2 / h * np.sin(2 * np.pi * h * hz * times) for h in range(1, 5)).astype(np.float32)


def cents(value: np.ndarray, reference: np.ndarray | float) -> np.ndarray:
    return np.abs(1200 * np.log2(value / reference))


@pytest.mark.parametrize("n_frames, name", [(None, "f0_uv"), (260, "f0_uv_plen260")])
@pytest.mark.parametrize("predictor", CPU_ONLY)
def test_contour_equals_the_golden(predictor: str, n_frames: int | None, name: str) -> None:
    meta, arrays = golden.load(GOLDENS / f"g_{predictor}.npz")
    contour = get_predictor(predictor)(golden.inputs(meta, arrays)["wav"], n_frames)
    golden.compare(meta, arrays, name, contour.f0)
    golden.compare(meta, arrays, f"{name}_flags", contour.uv)
    assert contour.f0.dtype == np.float64 and contour.uv.dtype == np.float32


@pytest.mark.parametrize("predictor", ["pm", "dio"])
def test_one_frame_less_equals_the_golden(predictor: str) -> None:
    meta, arrays = golden.load(GOLDENS / f"g_{predictor}.npz")
    contour = get_predictor(predictor)(golden.inputs(meta, arrays)["wav"], 257)
    golden.compare(meta, arrays, "f0_only_plen257", contour.f0)


def test_crepe_equals_the_golden_and_leaves_the_global_generator_alone() -> None:
    meta, arrays = golden.load(GOLDENS / "g_crepe.npz")
    predictor = get_predictor("crepe")
    np.random.seed(7)
    before = np.random.get_state()[1].copy()
    track = predictor.raw_track(golden.inputs(meta, arrays)["wav"])
    assert np.array_equal(before, np.random.get_state()[1])
    predictor.raw_track = lambda audio: track  # the network is slow; only the frame grid differs below
    for n_frames, name in ((None, "f0_uv"), (260, "f0_uv_plen260")):
        contour = predictor(golden.inputs(meta, arrays)["wav"], n_frames)
        golden.compare(meta, arrays, name, contour.f0)
        golden.compare(meta, arrays, f"{name}_flags", contour.uv)
