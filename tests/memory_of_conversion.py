"""Run by test_inference_memory.py as a process of its own: convert, then print the peak memory in MB.

python -m tests.memory_of_conversion {identity|model} SOURCE TARGET
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import numpy as np
import torch

import models
from modules.devices import forget_convolution_lengths
from modules.inference.networks import TorchEncoder, TorchGenerator
from modules.inference.options import InferenceOptions
from modules.inference.pitch import PitchFinder
from modules.inference.svc import Svc
from modules.inference.voice import Voice
from modules.inference.windows import WindowInput
from tests.standin_voice import HOP, RATE, WIDTH, Identity, StandInEncoder, small_config, small_model


class Forgetful(Identity):
    """Does not keep what it heard."""

    def render(self, window: WindowInput, options: InferenceOptions) -> np.ndarray:
        audio = super().render(window, options)
        self.heard.clear()
        return audio


def peak() -> float:
    """MB that this process has held at most so far."""
    status = Path("/proc/self/status")
    if status.is_file():  # on Linux ru_maxrss begins with what the parent process held
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def main(kind: str, source: str, target: str) -> None:
    forget_convolution_lengths()  # as TorchNetworks does
    config = small_config()
    model = models.prepare_for_inference(small_model(config), "cpu", "fp32")
    encoder = TorchEncoder(StandInEncoder(WIDTH))  # type: ignore[arg-type]
    voice = Voice(encoder, TorchGenerator(config, model, torch.device("cpu")))
    svc = Svc(Forgetful() if kind == "identity" else voice, PitchFinder(RATE, HOP))
    before = peak()
    svc.convert_file(Path(source), Path(target), 0, InferenceOptions(auto_predict_f0=kind == "identity"))
    print(before, peak())


if __name__ == "__main__":
    main(*sys.argv[1:])
