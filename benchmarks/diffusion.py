"""Sampling with the full-size diffusion model: as it runs here beside a plain float32 run of the same model.

    python -m benchmarks.diffusion [--seconds 10 --k_step 100 --speedup 10 --threads 2]

Plain is what the paper says: every evaluation projects the condition anew, in float32. The weights are random, scaled
so that the predicted noise has the variance of noise, which is what training leads to. Prints seconds (the best of
several runs, taken in turns; with --cpu_time those of the processor, which other work on the machine does not
lengthen), how many times faster, and the difference of the mel in normalised units, in which
the mel spans -1 to 1.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.timing import timed
from diffusion.samplers import SAMPLERS, sample
from diffusion.schedule import NoiseSchedule
from diffusion.unit2mel import Unit2Mel
from modules.devices import fastest_dtype, pick_device

HOP, RATE = 512, 44100


def make_model(device: torch.device) -> Unit2Mel:
    """The model of the template with random weights."""
    torch.manual_seed(0)
    model = Unit2Mel(768, n_spk=1, use_pitch_aug=True).to(device).eval().requires_grad_(False)
    denoiser = model.decoder.denoise_fn
    torch.nn.init.normal_(denoiser.output_projection.weight, std=0.05)
    x, condition = torch.randn(1, 1, 128, 200, device=device), torch.randn(1, 256, 200, device=device)
    denoiser.output_projection.weight /= denoiser(x, torch.tensor([50.0], device=device), condition).std()
    return model


def make_inputs(frames: int, device: torch.device) -> tuple[Tensor, ...]:
    """Units, f0, volume, speaker and source mel."""
    generator = torch.Generator().manual_seed(1)
    units = torch.randn(1, frames, 768, generator=generator)
    f0 = 220 * 2 ** torch.randn(1, frames, 1, generator=generator).cumsum(1).div(40)
    loudness = 0.1 * torch.rand(1, frames, 1, generator=generator)
    mel = 1.5 * torch.randn(1, frames, 128, generator=generator) - 5
    return tuple(x.to(device) for x in (units, f0, loudness, torch.zeros(1, dtype=torch.long), mel))


def plain(model: Unit2Mel, inputs: tuple[Tensor, ...], k_step: int, speedup: int, method: str) -> Tensor:
    """The sampler over the whole denoiser."""
    units, f0, loudness, speaker, mel = inputs
    decoder = model.decoder
    condition = model.condition(units, f0, loudness, speaker).transpose(1, 2)
    schedule = NoiseSchedule(model.timesteps, k_step)
    level = schedule.at(k_step - 1)
    x = decoder.normalise(mel).transpose(1, 2).unsqueeze(1)
    noise = torch.empty_like(x, device="cpu").normal_(generator=torch.Generator().manual_seed(2)).to(x.device)

    def predict_noise(x: Tensor, step: float) -> Tensor:
        return decoder.denoise_fn(x, x.new_full((1,), step), condition)

    x = sample(method, predict_noise, level.alpha * x + level.sigma * noise, schedule, speedup)
    return decoder.denormalise(x.squeeze(1).transpose(1, 2))


def ours(model: Unit2Mel, inputs: tuple[Tensor, ...], k_step: int, speedup: int, method: str) -> Tensor:
    """As a conversion samples."""
    *conditions, mel = inputs
    return model.infer(*conditions, mel, k_step, speedup, method, generator=torch.Generator().manual_seed(2))


@torch.inference_mode()
def main() -> None:
    """Run all in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--k_step", type=int, default=100)
    parser.add_argument("--speedup", type=int, default=10)
    parser.add_argument("--method", default="dpm-solver++", choices=list(SAMPLERS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cpu_time", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = pick_device(args.device)
    torch.set_float32_matmul_precision("highest")
    model = make_model(device)
    half = copy.deepcopy(model).set_precision(fastest_dtype(device, wide_range=True))
    inputs = make_inputs(int(args.seconds * RATE / HOP), device)
    setting = (inputs, args.k_step, args.speedup, args.method)
    ways: dict[str, Callable[[], Tensor]] = {
        "plain fp32": lambda: plain(model, *setting),
        "fp32": lambda: ours(model, *setting),
        str(fastest_dtype(device, wide_range=True)).removeprefix("torch."): lambda: ours(half, *setting),
    }
    clock = time.process_time if args.cpu_time else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in ways}
    mels: dict[str, Tensor] = {}
    for _ in range(args.runs + 1):  # the first one warms up
        for name, run in ways.items():
            seconds, mels[name] = timed(run, device, clock)
            times[name].append(seconds)
    base, reference = min(times["plain fp32"][1:]), model.decoder.normalise(mels["plain fp32"])
    print(f"{args.seconds:g} s of audio, k_step {args.k_step}, speedup {args.speedup}, {args.method}, {device}")
    print(f"{'':12} {'seconds':>8} {'faster':>7} {'mel mean':>9} {'mel max':>8}")
    for name, runs in times.items():
        best = min(runs[1:])
        difference = (model.decoder.normalise(mels[name]) - reference).abs()
        print(
            f"{name:12} {best:8.3f} {base / best:6.2f}x {float(difference.mean()):9.5f} {float(difference.max()):8.5f}"
        )


if __name__ == "__main__":
    main()
