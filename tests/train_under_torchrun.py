"""What each rank of a torchrun test executes: train, and write down what this rank saw and ended with.

Arguments: config, model folder, folder for the reports, last step.
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


def fingerprint(*tensors: torch.Tensor) -> str:
    """The same for equal values only."""
    return hashlib.sha256(b"".join(tensor.detach().numpy().tobytes() for tensor in tensors)).hexdigest()


def main(config: str, model_dir: str, reports: str, last_step: str) -> int:
    """Train as train.py does, with a note of every clip and random number."""
    seen: list[list[str]] = []
    draws: list[float] = []
    networks: list[vits.Networks] = []
    real = vits.train_step

    def noted(trained: vits.Networks, batch: Batch, *args: Any) -> Any:
        clips = zip(batch.audio, batch.lengths.tolist(), strict=True)
        seen.append([fingerprint(audio[:, : 512 * frames]) for audio, frames in clips])
        draws.append(torch.get_rng_state().double().sum().item())
        networks[:] = [trained]
        return real(trained, batch, *args)

    vits.train_step = noted  # type: ignore[assignment]
    with join_ranks("cpu") as ranks:
        code = vits.train(Path(config), Path(model_dir), vits.Options(max_steps=int(last_step)), ranks)
    sides = {player.letter: fingerprint(*player.module.state_dict().values()) for player in networks[0].players}
    report = {"seen": seen, "draws": draws, "weights": sides, "world_size": ranks.world_size}
    (Path(reports) / f"rank{ranks.rank}.json").write_text(json.dumps(report))
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
