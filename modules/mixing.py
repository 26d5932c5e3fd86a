"""Static mix: one model whose weights are the weighted sum of several models' weights.

python -m modules.mixing logs/44k/G_8000.pth=70 logs/other/G_9000.pth=30 -o output.pth
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from modules.cli import make_parser, run
from modules.errors import UserError

MixMode = Literal["percent", "convex", "linear"]
MODES: dict[str, str] = {
    "percent": "shares of the whole: 70 and 30 are 70 % and 30 %, 0 leaves a model out",
    "convex": "softmax of percent/100, as so-vits-svc 4.1 mixes; no model can be left out",
    "linear": "percent/100 as they are; the sum may be more or less than a whole",
}


def mix_weights(percents: Sequence[float], mode: MixMode) -> list[float]:
    """The factor of each model.

    Raises:
        UserError: an unknown mode, a value that is not finite, or percentages that sum to nothing.
    """
    import numpy as np

    shares = np.asarray(percents, dtype=np.float64) / 100
    if not np.isfinite(shares).all():
        raise UserError(f"not all percentages are numbers: {list(percents)}", "percent", "give plain numbers")
    if mode == "linear":
        return shares.tolist()
    if mode == "convex":
        exponentials = np.exp(shares - shares.max())
        return (exponentials / exponentials.sum()).tolist()
    if mode == "percent":
        if (shares < 0).any() or shares.sum() <= 0:
            raise UserError(f"the percentages {list(percents)} make no whole", "percent", "use 0 or more, one above 0")
        return (shares / shares.sum()).tolist()
    raise UserError(f"unknown mode {mode!r}", "mode", f"use one of {', '.join(MODES)}")


def mix_models(paths: Sequence[str | Path], percents: Sequence[float], mode: MixMode = "percent") -> dict[str, Any]:
    """The weighted sum of the models' weights, one file in memory at a time.

    Args:
        paths: G files or released models of the same shapes.
        percents: one number a file; MODES says what they mean.

    Returns:
        A checkpoint without optimizer state: model, iteration 0, optimizer None, learning_rate.

    Raises:
        UserError: fewer than two files, or a key that is missing or has another shape in one of them.
    """
    import torch

    from modules import checkpoint

    if len(paths) < 2 or len(paths) != len(percents):
        what = f"{len(paths)} models and {len(percents)} percentages"
        raise UserError(what, "models to mix", "give two models or more, each with a percentage")
    mixed: dict[str, torch.Tensor] = {}
    for path, weight in zip(paths, mix_weights(percents, mode), strict=True):
        state = checkpoint.generator_state(path)
        if mixed:
            _check_same_shapes(mixed, state, paths[0], path)
        for key, value in state.items():
            if not value.is_floating_point():  # counters and ids are not mixed
                mixed.setdefault(key, value)
            elif key in mixed:
                mixed[key] += weight * value.float()
            else:
                mixed[key] = weight * value.float()
    return {"model": mixed, "iteration": 0, "optimizer": None, "learning_rate": 1e-4}


def _check_same_shapes(first: dict[str, Any], other: dict[str, Any], first_path: object, path: object) -> None:
    fix = "mix models that were trained with the same config"
    for key in first.keys() ^ other.keys():
        owner = first_path if key in first else path
        raise UserError(f"only {owner} has the key {key}", f"{first_path} and {path}", fix)
    for key, value in other.items():
        if value.shape != first[key].shape:
            what = f"{key} is {list(first[key].shape)} in one and {list(value.shape)} in the other"
            raise UserError(what, f"{first_path} and {path}", fix)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = make_parser("Mix several models into one. " + "; ".join(f"{k}: {v}" for k, v in MODES.items()))
    parser.add_argument("models", nargs="+", metavar="MODEL=PERCENT", help="a model file and its percentage")
    parser.add_argument("--mode", choices=list(MODES), default="percent", help="what the percentages mean")
    parser.add_argument("-o", "--output", type=Path, default=Path("output.pth"), help="the mixed model")
    return parser


def mix_from_arguments(args: argparse.Namespace) -> int:
    """Mix and write."""
    from modules import checkpoint

    paths, percents = zip(*(_parse_pair(pair) for pair in args.models), strict=True)
    if any(args.output.resolve() == Path(path).resolve() for path in paths):
        raise UserError("the output would overwrite one of the models", args.output, "choose another name with -o")
    checkpoint.save(mix_models(paths, percents, args.mode), args.output)
    print(f"wrote {args.output}")
    return 0


def _parse_pair(pair: str) -> tuple[str, float]:
    path, _, percent = pair.rpartition("=")
    try:
        return path, float(percent)
    except ValueError:
        raise UserError(f"not MODEL=PERCENT: {pair!r}", "models to mix", "write for example G_800.pth=70") from None


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run(mix_from_arguments, build_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
