"""Step 4: train a voice on the features that preprocess_hubert_f0.py left beside the wavs.

One process trains on one GPU, or on MPS, or on the CPU. Several GPUs, or several machines that share the folder:

    torchrun --nproc_per_node=4 train.py -c configs/config.json -m 44k

The same command goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from modules.cli import make_parser, run
from modules.options import add_arguments, from_namespace
from modules.training.options import TrainOptions, say_what_loads


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of train.py; returns the exit code."""
    parser = make_parser("Train the generator of a voice; checkpoints go to logs/<model>.")
    add_arguments(parser, TrainOptions)
    return run(train_from_args, parser.parse_args(argv))


def train_from_args(args: argparse.Namespace) -> int:
    """Join the other ranks if there are any, and train."""
    say_what_loads()
    from modules.training.distributed import join_ranks
    from modules.training.vits import train
    from pretrain import BASE_DIR

    options = from_namespace(TrainOptions, args, base_dir=None if args.from_scratch else BASE_DIR)
    with join_ranks(options.device) as ranks:
        return train(options, ranks)


if __name__ == "__main__":
    sys.exit(main())
