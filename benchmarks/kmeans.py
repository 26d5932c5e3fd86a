"""k-means over units: ours beside scikit-learn's KMeans run to the same inertia.

    python -m benchmarks.kmeans [--frames 200000 --dim 768 --centres 2000] [--units FOLDER]

With --units the frames are those of the .soft.pt files below FOLDER, jittered where there are too few; without,
a mixture of Gaussians. Prints seconds, inertia and peak memory of each.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.timing import timed
from cluster import kmeans
from modules import checkpoint


def make_frames(args: argparse.Namespace) -> np.ndarray:
    """float32 [frames, dim]."""
    rng = np.random.default_rng(0)
    if args.units:
        clips = [checkpoint.load(path)[0].T.numpy() for path in sorted(args.units.rglob("*.soft.pt"))]
        real = np.concatenate(clips)
        rows = rng.integers(len(real), size=args.frames)
        noise = rng.standard_normal((args.frames, real.shape[1]), dtype=np.float32)
        noise *= 0.1 * real.std(axis=0)
        noise += real[rows]
        return noise
    hubs = rng.standard_normal((args.centres // 2, args.dim), dtype=np.float32)
    frames = rng.standard_normal((args.frames, args.dim), dtype=np.float32)
    frames += 2 * hubs[rng.integers(len(hubs), size=args.frames)]
    return frames


def inertia(frames: np.ndarray, centres: np.ndarray) -> float:
    """Sum of squared distances to the nearest centre."""
    nearest = kmeans.assign(torch.from_numpy(frames), torch.from_numpy(centres)).numpy()
    blocks = range(0, len(frames), 8192)
    return float(sum(((frames[i : i + 8192] - centres[nearest[i : i + 8192]]) ** 2).sum() for i in blocks))


def resident_mib(field: str) -> float:
    """VmRSS, the resident memory now, or VmHWM, its highest value since it was reset (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) / 1024


def reset_peak() -> None:
    """Let VmHWM start again from the present."""
    Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    """Run both and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--centres", type=int, default=2000)
    parser.add_argument("--units", type=Path)
    args = parser.parse_args()
    frames = make_frames(args)
    reset_peak()
    before = resident_mib("VmRSS")
    ours, centres = timed(lambda: kmeans.fit(frames, args.centres))
    peak = resident_mib("VmHWM") - before
    reached = inertia(frames, centres)
    size = frames.nbytes / 2**20
    print(f"frames {frames.shape}, {size:.0f} MiB; memory grew by {peak:.0f} MiB at its peak", flush=True)
    print(f"ours          {ours:8.1f} s   inertia {reached:.6g}", flush=True)

    from sklearn.cluster import KMeans

    # Lloyd iterations in steps, until the inertia is ours or better: what scikit-learn needs for the same result.
    start = time.perf_counter()
    init: str | np.ndarray = "k-means++"
    for iterations in (1, 1, 2, 4, 8, 16, 32, 64, 128):
        reference = KMeans(args.centres, init=init, n_init=1, max_iter=iterations, tol=0, random_state=0).fit(frames)
        seconds = time.perf_counter() - start
        init = reference.cluster_centers_
        print(f"scikit-learn  {seconds:8.1f} s   inertia {reference.inertia_:.6g}", flush=True)
        if reference.inertia_ <= reached * 1.02:
            break
    print(f"ratio {seconds / ours:.1f}, inertia ours/theirs {reached / reference.inertia_:.4f}")


if __name__ == "__main__":
    main()
