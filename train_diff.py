"""Step 4, optional: train the diffusion model that refines what train.py's model converts, or converts alone.

    python train_diff.py -c configs/diffusion.yaml
    torchrun --nproc_per_node=4 train_diff.py -c configs/diffusion.yaml

The features come from preprocess_hubert_f0.py --use_diff. The same command goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from modules.cli import make_parser, run
from modules.options import add_arguments, from_namespace
from modules.training.options import DiffusionTrainOptions, say_what_loads
from pretrain import AllowDownload


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of train_diff.py; returns the exit code."""
    parser = make_parser("Train the diffusion model; checkpoints go to env.expdir of the config.")
    add_arguments(parser, DiffusionTrainOptions)
    parser.add_argument("--download", action=AllowDownload)
    return run(train_from_args, parser.parse_args(argv))


def train_from_args(args: argparse.Namespace) -> int:
    """Join the other ranks if there are any, and train."""
    say_what_loads()
    from modules.config import load_diffusion_config
    from modules.training.diffusion import choose_device, train
    from modules.training.distributed import join_ranks

    options = from_namespace(DiffusionTrainOptions, args)
    with join_ranks(choose_device(load_diffusion_config(options.config), options.device)) as ranks:
        return train(options, ranks)


if __name__ == "__main__":
    sys.exit(main())
