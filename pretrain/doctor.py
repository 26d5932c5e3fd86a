"""One screen that says what a bug report needs: versions, devices, programs, space, weights, what to do."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pretrain import find, how_to_get
from pretrain.weights import WEIGHTS, Weight

PACKAGES = ("torch", "torchaudio", "numpy", "librosa", "soundfile", "soxr", "onnxruntime", "faiss-cpu", "pyworld")
LOW_DISK, LOW_MEMORY = 5e9, 4e9  # bytes under which work is likely to fail


@dataclass(frozen=True)
class Finding:
    """One line of the screen, and what to do where it shows something wrong."""

    title: str
    text: str
    advice: str = ""


def examine(pretrain_dir: Path) -> Iterator[Finding]:
    """Everything that the doctor looks at, in the order of the screen."""
    yield Finding("system", f"{platform.platform()}, Python {platform.python_version()} at {sys.executable}")
    yield _versions()
    yield from _devices()
    yield _ffmpeg()
    yield _disk(pretrain_dir)
    yield _memory()
    for weight in WEIGHTS:
        yield _weight(weight, pretrain_dir)


def _versions() -> Finding:
    found, missing = [], []
    for package in PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
    text = ", ".join([*found, *(f"{package} MISSING" for package in missing)])
    return Finding("packages", text, "run: pip install -r requirements.txt" if missing else "")


def _devices() -> Iterator[Finding]:
    import torch

    from modules.devices import cpu_has_bf16

    halves = "bf16 natively" if cpu_has_bf16() else "no native bf16, float32 is used"
    yield Finding("cpu", f"{_cpu_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {halves}")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        bf16 = "bf16 and fp16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        yield Finding(f"cuda:{index}", f"{properties.name}, {properties.total_memory / 1e9:.0f} GB, {bf16}")
    if torch.backends.mps.is_available():
        yield Finding("mps", "Apple GPU, float32 is used")
    if not torch.cuda.is_available() and torch.version.cuda and shutil.which("nvidia-smi"):
        advice = "update the graphics driver to one that knows CUDA " + torch.version.cuda
        yield Finding("cuda", "there is an NVIDIA driver, but torch cannot use it", advice)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _ffmpeg() -> Finding:
    path = shutil.which("ffmpeg")
    if path is None:
        advice = "only for m4a and such: install ffmpeg and put it on the PATH"
        return Finding("ffmpeg", "not found; wav, flac, mp3 and ogg are read without it", advice)
    done = subprocess.run([path, "-version"], capture_output=True, text=True, check=False, timeout=20)
    return Finding("ffmpeg", f"{' '.join(done.stdout.split()[:3])} at {path}")


def _disk(folder: Path) -> Finding:
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    return Finding("disk", f"{free / 1e9:.0f} GB free at {existing}", "free some space" if free < LOW_DISK else "")


def _memory() -> Finding:
    total, free = memory()
    if not total:
        return Finding("memory", "unknown")
    text = f"{total / 1e9:.0f} GB" + (f", {free / 1e9:.0f} GB available" if free else "")
    return Finding("memory", text, "close other programs" if 0 < free < LOW_MEMORY else "")


def memory() -> tuple[int, int]:
    """Bytes of memory: all, and available; 0 where the system does not tell."""
    if sys.platform == "win32":
        return _windows_memory()
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines())
        return tuple(int(fields[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))  # type: ignore[return-value]
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), 0


def _windows_memory() -> tuple[int, int]:
    class Status(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            ("total", ctypes.c_ulonglong),
            ("available", ctypes.c_ulonglong),
            ("rest", ctypes.c_ulonglong * 5),
        )

    status = Status(length=ctypes.sizeof(Status))
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined]
    return status.total, status.available


def _weight(weight: Weight, pretrain_dir: Path) -> Finding:
    from pretrain.fetch import expected_digest, sha256_of

    path = find(weight.name, pretrain_dir)
    if path is None:
        return Finding(weight.name, f"missing (for {', '.join(weight.serves)})")
    size, digest, expected = path.stat().st_size, sha256_of(path), expected_digest(weight, path)
    if expected and not digest.startswith(expected):
        advice = f"delete {path} and {how_to_get(weight, pretrain_dir)}"
        return Finding(weight.name, f"WRONG: {path}, sha256 {digest[:16]} and not {expected[:16]}", advice)
    state = "as published" if expected else "its checksum is not known"
    return Finding(weight.name, f"present: {path}, {size / 1e6:.0f} MB, sha256 {digest[:16]}, {state}")
