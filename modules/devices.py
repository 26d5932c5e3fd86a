"""Which device there is, and which precision it computes natively."""

from __future__ import annotations

import functools
import os

import torch

from modules.errors import UserError

# By the names that command lines and configs have for them.
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str | None = None) -> torch.device:
    """The named device, or the best there is: CUDA, then MPS, then CPU.

    Raises:
        UserError: the named device does not exist here.
    """
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"there is no device {name!r} here", "--device", _offered(name)) from None
    return device


def _offered(wanted: str) -> str:
    """What to use in place of a device that is not there."""
    there = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        there.append("mps")
    fix = f"use {' or '.join(there)}"
    if wanted.startswith("cuda") and len(there) == 1:
        reason = "is built without CUDA" if torch.version.cuda is None else "finds no NVIDIA GPU"
        fix += f"; this PyTorch {reason} (python -m pretrain doctor tells more)"
    return fix


def forget_convolution_lengths() -> None:
    """Keep the CPU from holding memory for every length of audio that it has worked on.

    oneDNN and PyTorch's layer over it remember how to compute each operation for each length: 0.2 GB a length for
    windows of 15 s, and every song has many lengths. Planning anew takes 0.4 s of CPU time a pass, 7 % of a window of
    the default model. The variables are read when the process convolves for the first time; those that the user has
    set stay.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "0")
    os.environ.setdefault("LRU_CACHE_CAPACITY", "1")  # 0 crashes torch 2.11


@functools.lru_cache
def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 natively (AVX512-BF16 or AMX)."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def fastest_dtype(device: torch.device, *, wide_range: bool = False) -> torch.dtype:
    """The 16-bit type that ``device`` multiplies faster than float32; float32 where there is none.

    Args:
        wide_range: on CUDA take bfloat16 where the GPU has it, for values beyond the range of float16; otherwise
            float16, which has three bits more of mantissa.
    """
    if device.type == "cuda":
        native = wide_range and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    return torch.bfloat16 if device.type == "cpu" and cpu_has_bf16() else torch.float32
