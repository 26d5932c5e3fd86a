"""Shared fixtures: where the parity pack and the real voices are, and one thread a test process."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import modules  # noqa: F401 (before any test imports onnxruntime: it keeps that from calling home)

os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so a shell starts what it puts into the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def parity_pack() -> Path:
    """The full parity pack; the small copy in tests/parity/goldens is always there."""
    pack = SHARED / "parity"
    if not pack.is_dir():
        pytest.skip("the full parity pack is not beside the checkout")
    return pack


@pytest.fixture(scope="session")
def voices() -> Path:
    """Real singers and speakers."""
    data = SHARED / "data"
    if not data.is_dir():
        pytest.skip("the recordings are not beside the checkout")
    return data
