"""What feature retrieval costs: a song converted with and without it, in one run.

    python -m benchmarks.retrieval [--vectors 100000 --seconds 180]

The generator is the full-size default model with random weights, in the precision that conversions choose; its
windows are as long as those of a conversion. The speech encoder and f0 are left out, so the share that is printed
is larger than in a real conversion.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
import torch

from benchmarks.timing import timed
from cluster import retrieval
from models import SynthesizerTrn, prepare_for_inference
from modules.config import Config
from modules.data.units import stretch_units

WINDOW_SECONDS = 15.0
FRAME_RATE = 44100 / 512
UNIT_RATE = 50


def sing(model: SynthesizerTrn, units: np.ndarray, frames: int) -> None:
    """What the generator does with the units [T, dim] of a window."""
    c = torch.from_numpy(stretch_units(units.T, frames, "nearest"))[None]
    model.infer(c, torch.full((1, frames), 220.0), torch.ones(1, frames), torch.zeros(1, dtype=torch.long))


def main() -> None:
    """Build an index, convert, print the seconds of each part and the share of retrieval."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=180.0)
    args = parser.parse_args()
    config = Config()
    dim, rng = config.model.ssl_dim, np.random.default_rng(0)
    hubs = rng.standard_normal((args.vectors // 50, dim), dtype=np.float32)
    stored = hubs[rng.integers(len(hubs), size=args.vectors)]
    stored += 0.5 * rng.standard_normal(stored.shape, dtype=np.float32)
    build, index = timed(lambda: retrieval.build(stored))
    print(
        f"index of {args.vectors} x {dim}: {build:.1f} s, {index.index.nlist} cells, nprobe {index.nprobe}", flush=True
    )

    model = SynthesizerTrn(
        config.spec_channels, config.segment_frames, with_posterior=False, **config.model.model_dump()
    )
    prepare_for_inference(model)
    units_frames, frames = int(WINDOW_SECONDS * UNIT_RATE), int(WINDOW_SECONDS * FRAME_RATE)
    spent = {"retrieval": 0.0, "generator": 0.0}
    for _ in range(round(args.seconds / WINDOW_SECONDS)):
        units = stored[rng.integers(len(stored), size=units_frames)]
        units = units + 0.3 * rng.standard_normal(units.shape, dtype=np.float32)
        seconds, blended = timed(partial(index.blend, units, 0.5))
        spent["retrieval"] += seconds
        spent["generator"] += timed(partial(sing, model, blended, frames))[0]
    for part, seconds in spent.items():
        print(f"{part:10s} {seconds:7.2f} s for {args.seconds:.0f} s of song")
    print(f"retrieval adds {100 * spent['retrieval'] / spent['generator']:.2f} %")


if __name__ == "__main__":
    main()
