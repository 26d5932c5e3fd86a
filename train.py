"""Step 4: train a voice on the features that preprocess_hubert_f0.py left beside the wavs.

One process trains on one GPU, or on MPS, or on the CPU. Several GPUs, or several machines that share the folder:

    torchrun --nproc_per_node=4 train.py -c configs/config.json -m 44k

The same command goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from modules.cli import make_parser, positive_float, positive_int, run


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of train.py; returns the exit code."""
    parser = make_parser("Train the generator of a voice; checkpoints go to logs/<model>.")
    parser.add_argument("-c", "--config", type=Path, default=Path("configs/config.json"), help="config.json")
    parser.add_argument("-m", "--model", required=True, help="name of the model: its folder in --log_dir")
    parser.add_argument("--log_dir", type=Path, default=Path("logs"), help="where the folders of models are")
    parser.add_argument(
        "--from-scratch", action="store_true", help="start from random weights, not from the model in pretrain/base"
    )
    parser.add_argument("-d", "--device", help="cpu, cuda, cuda:1 or mps; default: the best there is")
    parser.add_argument("--max_steps", type=positive_int, help="end at this step, counted from the very first")
    parser.add_argument("--max_minutes", type=positive_float, help="end after so many minutes of this run")
    parser.add_argument("--num_workers", type=int, help="processes that load clips; default: as many as are useful")
    parser.add_argument("--precision", choices=("fp32", "fp16", "bf16"), help="instead of the config's fp16_run")
    parser.add_argument("--compile", action="store_true", help="compile the decoder (a slow start, faster steps)")
    parser.add_argument(
        "--patience", type=positive_int, default=10, help="evaluations without improvement before the run says so"
    )
    parser.add_argument("--stop_early", action="store_true", help="and end then")
    return run(body, parser.parse_args(argv))


def body(args: argparse.Namespace) -> int:
    """Join the other ranks if there are any, and train."""
    from modules.training.distributed import join_ranks
    from modules.training.vits import Options, train
    from pretrain import BASE_DIR

    base_dir = None if args.from_scratch else BASE_DIR
    options = Options(
        max_steps=args.max_steps,
        max_minutes=args.max_minutes,
        num_workers=args.num_workers,
        precision=args.precision,
        compile=args.compile,
        base_dir=base_dir,
        patience=args.patience,
        stop_early=args.stop_early,
    )
    with join_ranks(args.device) as ranks:
        return train(args.config, args.log_dir / args.model, options, ranks)


if __name__ == "__main__":
    sys.exit(main())
