"""K-means over units, and the blend of units with their nearest centres.

Lloyd's algorithm (S. Lloyd, Least squares quantization in PCM, 1982) as matrix products, so that it runs at the
speed of the device's matrix units, on the CPU and on a GPU alike; benchmarks/kmeans.py has the figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from modules import checkpoint
from modules.devices import fastest_dtype
from modules.errors import UserError
from modules.progress import track

FRAMES_PER_CENTRE = 4  # fewer frames than this a centre would only copy frames
SAMPLE_PER_CENTRE = 32  # frames a centre in the first, coarse iterations
COARSE_ITERATIONS = 8
FULL_ITERATIONS = 3
SEEDING_ROUNDS = 6
CANDIDATES_PER_CENTRE = 2
SKETCH_DIM = 64
SCORES_PER_BLOCK = 2**22  # frames x centres compared at a time, bounds the memory


@dataclass(frozen=True)
class Centres:
    """The k-means centres of every speaker, as logs/44k/kmeans_10000.pt holds them.

    Attributes:
        by_speaker: speaker name -> float32 [centres, dim].
    """

    by_speaker: dict[str, np.ndarray]

    def blend(self, units: np.ndarray, speaker: str, ratio: float) -> np.ndarray:
        """Move units [T, dim] towards their nearest centres: ratio * centre + (1 - ratio) * unit.

        Raises:
            UserError: the speaker has no centres, or they are of another width.
        """
        if speaker not in self.by_speaker:
            raise UserError(
                f"the cluster file has no speaker {speaker!r}; it has {', '.join(self.by_speaker)}",
                "--cluster_model_path",
                "train it again with cluster/train_cluster.py, or use --cluster_infer_ratio 0",
            )
        centres = self.by_speaker[speaker]
        if centres.shape[1] != units.shape[1]:
            raise UserError(
                f"the centres are {centres.shape[1]} wide, the units {units.shape[1]}",
                "--cluster_model_path",
                "use the cluster file of this model's speech encoder",
            )
        nearest = centres[assign(torch.from_numpy(units), torch.from_numpy(centres)).numpy()]
        return (ratio * nearest + (1.0 - ratio) * units).astype(np.float32)


def usable_centres(n_frames: int, wanted: int) -> int:
    """As many centres as the data carries, at most ``wanted``."""
    return max(1, min(wanted, n_frames // FRAMES_PER_CENTRE))


def fit(
    frames: np.ndarray,
    n_centres: int,
    *,
    device: str | torch.device = "cpu",
    seed: int = 1234,
    description: str = "",
) -> np.ndarray:
    """Find ``n_centres`` centres of frames.

    The first iterations run on a sample of SAMPLE_PER_CENTRE frames a centre, the last ones on all frames.

    Args:
        frames: float32 [N, dim], N >= n_centres.
        device: where the frames and centres are compared.
        description: shown with a progress bar; empty for none.

    Returns:
        float32 [n_centres, dim].

    Raises:
        UserError: fewer frames than centres, or a value that is not finite.
    """
    if len(frames) < n_centres:
        raise UserError(f"{len(frames)} frames cannot make {n_centres} centres", "", "ask for fewer centres")
    if not np.isfinite(frames).all():
        raise UserError("the units hold NaN or infinite values", "", "run preprocess_hubert_f0.py again")
    generator = torch.Generator().manual_seed(seed)
    data = torch.from_numpy(np.ascontiguousarray(frames, dtype=np.float32))
    order = torch.randperm(len(data), generator=generator)
    sample = order[: n_centres * SAMPLE_PER_CENTRE]
    coarse = data[sample] if len(sample) < len(data) else data
    centres = _seed_centres(coarse, n_centres, torch.device(device), seed)
    steps = [coarse] * COARSE_ITERATIONS + [data] * FULL_ITERATIONS
    for subset in track(steps, description) if description else steps:
        centres = _lloyd_step(subset, centres, generator)
    return centres.cpu().numpy()


def assign(frames: Tensor, centres: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Index of the nearest centre of each frame; frames [N, dim], centres [K, dim] -> int64 [N].

    The squared distance |x|^2 - 2 x.c + |c|^2 is smallest where x.c - |c|^2 / 2 is largest.
    """
    offset = -0.5 * centres.square().sum(dim=1)
    transposed = centres.to(dtype).T
    nearest = torch.empty(len(frames), dtype=torch.int64)
    block = max(1, SCORES_PER_BLOCK // len(centres))
    for start in range(0, len(frames), block):
        part = frames[start : start + block].to(centres.device, dtype)
        nearest[start : start + block] = (part @ transposed).float().add_(offset).argmax(dim=1)
    return nearest


def _seed_centres(frames: Tensor, n_centres: int, device: torch.device, seed: int) -> Tensor:
    """Starting centres by k-means|| (B. Bahmani et al., Scalable k-means++, 2012).

    A few rounds draw CANDIDATES_PER_CENTRE candidates a centre, with probability proportional to the squared
    distance to those drawn before; greedy k-means++ then picks the centres among the candidates, each weighted by
    the frames nearest to it.
    """
    from sklearn.cluster import kmeans_plusplus

    generator = torch.Generator().manual_seed(seed)
    candidates = frames[torch.randint(len(frames), (1,), generator=generator)]
    distance = _squared_distance(frames, candidates.to(device))
    wanted = min(CANDIDATES_PER_CENTRE * n_centres, len(frames)) - 1
    for part in torch.arange(wanted).tensor_split(SEEDING_ROUNDS):
        if len(part) == 0:
            continue
        # identical frames are all at distance 0 once one of them is drawn: then any will do
        chance = distance if int((distance > 0).sum()) >= len(part) else torch.ones_like(distance)
        drawn = frames[torch.multinomial(chance, len(part), generator=generator)]
        candidates = torch.cat([candidates, drawn])
        distance = torch.minimum(distance, _squared_distance(frames, drawn.to(device)))
    nearest = assign(frames, candidates.to(device), fastest_dtype(device, wide_range=True))
    weights = torch.bincount(nearest, minlength=len(candidates))
    # Distances survive a random projection (Johnson and Lindenstrauss, 1984), and seeding needs no more than that.
    sketch = candidates
    if candidates.shape[1] > SKETCH_DIM:
        sketch = candidates @ torch.randn(candidates.shape[1], SKETCH_DIM, generator=generator)
    _, chosen = kmeans_plusplus(
        sketch.double().numpy(), n_centres, sample_weight=weights.double().numpy(), random_state=seed
    )
    return candidates[torch.from_numpy(chosen)].to(device)


def _squared_distance(frames: Tensor, centres: Tensor) -> Tensor:
    """Squared distance of each frame [N, dim] to its nearest centre [K, dim]; float32 [N]."""
    nearest = assign(frames, centres, fastest_dtype(centres.device, wide_range=True))
    own = centres.to(frames.device)
    block = max(1, SCORES_PER_BLOCK // frames.shape[1])
    parts = zip(frames.split(block), nearest.split(block), strict=True)
    return torch.cat([(part - own[rows]).square_().sum(dim=1) for part, rows in parts])


def _lloyd_step(frames: Tensor, centres: Tensor, generator: torch.Generator) -> Tensor:
    """Each centre becomes the mean of the frames nearest to it; a centre without frames moves to a random one."""
    nearest = assign(frames, centres, fastest_dtype(centres.device, wide_range=True))
    counts = torch.bincount(nearest, minlength=len(centres))
    sums = torch.zeros(centres.shape, dtype=torch.float32).index_add_(0, nearest, frames)
    means = sums / counts.clamp(min=1).unsqueeze(1)
    empty = counts == 0
    means[empty] = frames[torch.randint(len(frames), (int(empty.sum()),), generator=generator)]
    return means.to(centres.device)


def save(centres: Centres, path: str | Path) -> None:
    """Write the file of so-vits-svc 4.1: speaker name -> n_features_in_, _n_threads, cluster_centers_."""
    table = {
        speaker: {
            "n_features_in_": int(values.shape[1]),
            "_n_threads": 4,  # sklearn wants one when the original rebuilds its object
            "cluster_centers_": values.astype(np.float32),
        }
        for speaker, values in centres.by_speaker.items()
    }
    checkpoint.save(table, path)


def load(path: str | Path) -> Centres:
    """Read a cluster file, ours or the original's.

    Raises:
        UserError: the file is missing, broken, or holds something else.
    """
    fix = "train it with cluster/train_cluster.py"
    if not Path(path).is_file():
        raise UserError("there is no such cluster file", path, fix)
    table = checkpoint.load(path)
    try:
        return Centres({name: np.asarray(entry["cluster_centers_"], dtype=np.float32) for name, entry in table.items()})
    except (TypeError, KeyError, AttributeError, ValueError, IndexError):
        raise UserError("the file holds no k-means centres", path, fix) from None
