"""The timer of all benchmarks: ways to do the same thing take turns, and the best round of each counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

Clock = Callable[[], float]
Result = TypeVar("Result")
CPU = torch.device("cpu")


def clock_for(device: torch.device) -> Clock:
    """On the CPU the seconds of its cores, so that other work on the machine does not count; else those of the wall."""
    return time.process_time if device.type == "cpu" else time.perf_counter


def timed(
    work: Callable[[], Result], device: torch.device = CPU, clock: Clock = time.perf_counter
) -> tuple[float, Result]:
    """Seconds that ``work`` takes, with what it left on the device to do, and its result."""
    _synchronize(device)
    start = clock()
    result = work()
    _synchronize(device)
    return clock() - start, result


def best_of(
    works: Mapping[str, Callable[[], object]],
    rounds: int,
    device: torch.device = CPU,
    clock: Clock = time.perf_counter,
) -> dict[str, float]:
    """Seconds of the fastest round of each; the caller has warmed them up."""
    best = dict.fromkeys(works, float("inf"))
    for _ in range(rounds):
        for name, work in works.items():
            best[name] = min(best[name], timed(work, device, clock)[0])
    return best


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
