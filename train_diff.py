"""Step 4, optional: train the diffusion model that refines what train.py's model sings, or sings alone.

    python train_diff.py -c configs/diffusion.yaml
    torchrun --nproc_per_node=4 train_diff.py -c configs/diffusion.yaml

The features come from preprocess_hubert_f0.py --use_diff. The same command goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from modules.cli import make_parser, positive_float, positive_int, run
from pretrain import AllowDownload


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of train_diff.py; returns the exit code."""
    parser = make_parser("Train the diffusion model; checkpoints go to env.expdir of the config.")
    parser.add_argument("-c", "--config", type=Path, default=Path("configs/diffusion.yaml"), help="diffusion.yaml")
    parser.add_argument(
        "-d", "--device", help="cpu, cuda, cuda:1 or mps; default: the config's, else the best there is"
    )
    parser.add_argument("--max_steps", type=positive_int, help="end at this step, counted from the very first")
    parser.add_argument("--max_minutes", type=positive_float, help="end after so many minutes of this run")
    parser.add_argument("--num_workers", type=int, help="processes that load clips; default: as the config says")
    parser.add_argument("--precision", choices=("fp32", "fp16", "bf16"), help="instead of the config's amp_dtype")
    parser.add_argument("--download", action=AllowDownload)
    return run(body, parser.parse_args(argv))


def body(args: argparse.Namespace) -> int:
    """Join the other ranks if there are any, and train."""
    from modules.config import load_diffusion_config
    from modules.training.diffusion import choose_device, train
    from modules.training.distributed import join_ranks
    from modules.training.run import RunOptions

    options = RunOptions(args.max_steps, args.max_minutes, args.num_workers, args.precision)
    with join_ranks(choose_device(load_diffusion_config(args.config), args.device)) as ranks:
        return train(args.config, options, ranks)


if __name__ == "__main__":
    sys.exit(main())
