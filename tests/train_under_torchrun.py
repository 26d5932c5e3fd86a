"""What each rank of a torchrun test executes: train, and write down what this rank saw and ended with.

Arguments: config, model folder, folder for the reports, last step, and the base model's folder if there is one.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch

from modules.data.dataset import Batch
from modules.training import vits
from modules.training.distributed import join_ranks
from modules.training.options import TrainOptions


def fingerprint(*tensors: torch.Tensor) -> str:
    """The same for equal values only."""
    return hashlib.sha256(b"".join(tensor.detach().numpy().tobytes() for tensor in tensors)).hexdigest()


def weights_of(networks: vits.Networks) -> dict[str, str]:
    """A fingerprint of each side."""
    return {network.name: fingerprint(*network.module.state_dict().values()) for network in networks.pair}


def main(config: str, model_dir: str, reports: str, last_step: str, base_dir: str | None = None) -> int:
    """Train as train.py does, with a note of every clip and random number."""
    seen: list[list[str]] = []
    draws: list[float] = []
    networks: list[vits.Networks] = []
    begun: dict[str, str] = {}
    real = vits.train_step

    def noted(trained: vits.Networks, batch: Batch, *args: Any) -> Any:
        clips = zip(batch.audio, batch.lengths.tolist(), strict=True)
        seen.append([fingerprint(audio[:, : 512 * frames]) for audio, frames in clips])
        draws.append(torch.get_rng_state().double().sum().item())
        networks[:] = [trained]
        if not begun:
            begun.update(weights_of(trained))
        return real(trained, batch, *args)

    vits.train_step = noted  # type: ignore[assignment]
    with join_ranks("cpu") as ranks:
        folder, base = Path(model_dir), Path(base_dir) if base_dir else None
        options = TrainOptions(Path(config), folder.name, folder.parent, max_steps=int(last_step), base_dir=base)
        code = vits.train(options, ranks)
    sides = weights_of(networks[0])
    report = {"seen": seen, "draws": draws, "begun": begun, "weights": sides, "world_size": ranks.world_size}
    (Path(reports) / f"rank{ranks.rank}.json").write_text(json.dumps(report))
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
