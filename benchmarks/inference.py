"""The conversion of a song: ours beside a plain one of the same work, in one run, taking turns.

    python -m benchmarks.inference [--seconds 30] [--device cpu] [--rounds 2]

The default model with random weights sings a made-up song whose notes never pause; units are random, because the
speech encoders have a benchmark of their own. "plain" is what a first version does: fp32, weight norm computed at
every pass, the whole song at once. The other rows change one thing after the other; the last one is what
inference_main.py does. Prints the real-time factor (seconds of work a second of audio, the best round) and the
ratio to the plain conversion; f0 by Praat and the range check are part of all rows. On the CPU the seconds are those
of its cores, so that other work on the machine does not count; on a device they are those of the clock.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
import torch
from torch import Tensor

import models
from benchmarks.timing import best_of, clock_for
from modules.config import Config
from modules.devices import forget_convolution_lengths, pick_device
from modules.inference import windows
from modules.inference.networks import TorchEncoder, TorchGenerator
from modules.inference.options import InferenceOptions
from modules.inference.pitch import PitchFinder
from modules.inference.svc import Svc
from modules.inference.voice import Voice


class RandomUnits:
    """Stands in for a speech encoder: units of the right shape at no cost."""

    def __init__(self, width: int, device: torch.device) -> None:
        self.width = width
        self.device = device

    def encode(self, audio: Tensor) -> Tensor:
        """[1, width, frames] at 50 frames a second."""
        return torch.randn(1, self.width, max(1, len(audio) // 320), device=self.device)


def sing(seconds: float, rate: int) -> np.ndarray:
    """A melody of harmonic notes without a pause, float32."""
    t = np.arange(round(seconds * rate)) / rate
    f0 = 220 * 2 ** (np.round(4 * np.sin(0.7 * t)) / 12)
    phase = 2 * np.pi * np.cumsum(f0) / rate
    return (0.1 * sum(np.sin(partial * phase) / partial for partial in range(1, 9))).astype(np.float32)


def make_svc(config: Config, device: torch.device, folded: bool, precision: str, longest: float) -> Svc:
    """The default model, prepared or as it is built."""
    torch.manual_seed(0)
    model = models.SynthesizerTrn(
        config.spec_channels, config.segment_frames, with_posterior=False, **config.model.model_dump()
    )
    if folded:
        models.prepare_for_inference(model, device, precision)
    else:
        model.eval().requires_grad_(False).to(device)
    encoder = TorchEncoder(RandomUnits(config.model.ssl_dim, device))  # type: ignore[arg-type]
    voice = Voice(encoder, TorchGenerator(config, model, device))
    return Svc(voice, PitchFinder(voice.sample_rate, voice.hop_length, str(device)), longest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--device")
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    forget_convolution_lengths()
    device, config = pick_device(args.device), Config()
    audio = sing(args.seconds, config.data.sampling_rate)
    whole = args.seconds + 10
    rows = {
        "plain: fp32, one pass, weight norm": make_svc(config, device, False, "fp32", whole),
        "+ weight norm folded": make_svc(config, device, True, "fp32", whole),
        "+ windows of 15 s": make_svc(config, device, True, "fp32", windows.MAX_WINDOW_SECONDS),
        "+ auto precision: ours": make_svc(config, device, True, "auto", windows.MAX_WINDOW_SECONDS),
    }
    works = {name: partial(svc.convert, audio, 0, InferenceOptions()) for name, svc in rows.items()}
    best = best_of(works, args.rounds, device, clock_for(device))
    print(f"{args.seconds:g} s of audio on {device}, {torch.get_num_threads()} threads")
    plain = next(iter(best.values()))
    for name, seconds in best.items():
        print(f"  {name:36s} {seconds:7.2f} s   RTF {seconds / args.seconds:6.3f}   {plain / seconds:5.2f} x")


if __name__ == "__main__":
    main()
