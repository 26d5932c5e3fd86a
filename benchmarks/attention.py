"""Relative attention: ours, on the diagonals near the main one, beside the plain form over T x (2T-1) matrices.

    python -m benchmarks.attention [--seconds 5 10 20 60] [--device cpu] [--rounds 5]

One layer of the default model (2 heads of 96 channels, window 4), in fp32 and without gradients, ours and the
plain form taking turns. Prints seconds (the best round), peak memory above that of the inputs (each measured in a
process of its own) and how many times less ours needs.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.timing import best_of
from modules.devices import pick_device
from modules.nn.attention import banded_attention

HEADS, DEPTH, WINDOW = 2, 96, 4
FRAMES_A_SECOND = 44100 / 512

Attention = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def dense_attention(q: Tensor, k: Tensor, v: Tensor, rel_k: Tensor, rel_v: Tensor) -> Tensor:
    """The plain form: embeddings padded to all 2T-1 distances, and two changes of index by padding and reshaping."""
    t, depth = q.shape[2:]
    beyond = t - 1 - WINDOW
    all_k, all_v = (F.pad(table, (0, 0, beyond, beyond)) for table in (rel_k, rel_v))
    q = q * depth**-0.5
    scores = q @ k.transpose(2, 3) + distance_to_key(q @ all_k.T)
    weights = scores.softmax(-1)
    return weights @ v + key_to_distance(weights) @ all_v


def distance_to_key(x: Tensor) -> Tensor:
    """[B, H, T, 2T-1] by distance from the query -> [B, H, T, T] by key."""
    b, h, t, n = x.shape
    rows = F.pad(x, (0, 1)).flatten(2)  # one value more a row: each row starts one place later
    return F.pad(rows, (0, n - t)).view(b, h, t + 1, n)[:, :, :t, t - 1 :]


def key_to_distance(x: Tensor) -> Tensor:
    """[B, H, T, T] by key -> [B, H, T, 2T-1] by distance from the query, zeros elsewhere."""
    b, h, t, _ = x.shape
    rows = F.pad(x, (0, t - 1)).flatten(2)  # rows of 2T-1, read back as rows of 2T
    return F.pad(rows, (t, 0)).view(b, h, t, 2 * t)[..., 1:]


METHODS: dict[str, Attention] = {"plain": dense_attention, "ours": banded_attention}


def make_inputs(frames: int, device: torch.device) -> list[Tensor]:
    """q, k, v [1, HEADS, frames, DEPTH] and the two tables of embeddings."""
    generator = torch.Generator().manual_seed(frames)
    shapes = [(1, HEADS, frames, DEPTH)] * 3 + [(2 * WINDOW + 1, DEPTH)] * 2
    return [torch.randn(shape, generator=generator).to(device) for shape in shapes]


def peak_mib(name: str, frames: int, device: torch.device) -> float:
    """Memory that one call needs above its inputs."""
    if device.type == "cuda":
        return _cuda_peak_mib(METHODS[name], make_inputs(frames, device))
    with multiprocessing.get_context("spawn").Pool(1) as pool:  # a fresh process has its own high-water mark
        return pool.apply(_cpu_peak_mib, (name, frames))


def _cuda_peak_mib(method: Attention, inputs: list[Tensor]) -> float:
    method(*make_inputs(64, inputs[0].device))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    method(*inputs)
    return (torch.cuda.max_memory_allocated() - before) / 2**20


@torch.inference_mode()
def _cpu_peak_mib(name: str, frames: int) -> float:
    inputs = make_inputs(frames, torch.device("cpu"))
    METHODS[name](*make_inputs(64, torch.device("cpu")))  # what the libraries take on first use
    before = high_water_mib()
    METHODS[name](*inputs)
    return high_water_mib() - before


def high_water_mib() -> float:
    """Most memory that this process has held."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux's ru_maxrss begins at that of the process which started this one
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@torch.inference_mode()
def main() -> None:
    """Run both and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs="+", default=[5, 10, 20, 60], help="lengths of audio")
    parser.add_argument("--device")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    device = pick_device(args.device)
    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print("| audio | frames | plain | ours | times faster | plain, peak | ours, peak | times less | difference |")
    print("|---|---|---|---|---|---|---|---|---|")
    for seconds in args.seconds:
        frames = round(seconds * FRAMES_A_SECOND)
        inputs = make_inputs(frames, device)
        plain, ours = (METHODS[name](*inputs) for name in ("plain", "ours"))  # warms up, too
        difference = float((plain - ours).abs().max())
        works = {name: partial(method, *inputs) for name, method in METHODS.items()}
        best = best_of(works, args.rounds, device)
        peak = {name: peak_mib(name, frames, device) for name in METHODS}
        print(
            f"| {seconds:g} s | {frames} | {best['plain']:.4f} s | {best['ours']:.4f} s "
            f"| {best['plain'] / best['ours']:.1f} | {peak['plain']:.0f} MiB | {peak['ours']:.0f} MiB "
            f"| {peak['plain'] / max(peak['ours'], 1):.1f} | {difference:.1e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
