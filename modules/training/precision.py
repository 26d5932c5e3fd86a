"""In which number format the networks compute: float32, bfloat16 or float16 with scaled gradients."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import torch

from modules.devices import DTYPES


class Precision:
    """Autocast and gradient scaling of one run.

    Args:
        name: fp32, bf16 or fp16. fp16 needs gradient scaling, which only CUDA does well: elsewhere bf16 takes its
            place and the user is told.
        device: where the networks are.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        if name == "fp16" and device.type != "cuda":
            print(f"note: fp16 training needs CUDA; {device.type} takes bf16 instead", file=sys.stderr)
            name = "bf16"
        self.name = name
        self.device = device
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")
        if device.type == "cuda":
            # TF32 multiplies float32 matrices with 10 mantissa bits: several times faster from Ampere on.
            torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.allow_tf32 = True

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Run the networks inside; losses belong outside, in float32."""
        if self.name == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=DTYPES[self.name])
