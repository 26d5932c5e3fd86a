"""Make a release of a model: without what only further training needs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.cli import make_parser, run
from modules.data.options import CONFIG_PATH
from modules.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from modules.config import Config

TRAINING_ONLY = "enc_q."  # the posterior encoder


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = make_parser("Make a release of a model: no optimizer, no posterior encoder, about a third of the size.")
    parser.add_argument("-c", "--config", type=Path, default=CONFIG_PATH, help="the model's config")
    parser.add_argument("-i", "--input", type=Path, required=True, help="the model, G_<step>.pth")
    parser.add_argument(
        "-o", "--output", type=Path, help="the release; default <input>_release[_half].pth or .safetensors"
    )
    parser.add_argument("-hf", "--half", action="store_true", help="store 16-bit weights, half the size again")
    parser.add_argument(
        "--safetensors", action="store_true", help="write one .safetensors file that carries its config"
    )
    parser.add_argument(
        "--posterior", type=Path, metavar="FILE", help="also write the posterior encoder, for training on from it"
    )
    return parser


def compress(args: argparse.Namespace) -> int:
    """Read, strip, write."""
    from modules import checkpoint
    from modules.config import load_config

    output = args.output or default_output(args.input, args.half, args.safetensors)
    if output.resolve() == args.input.resolve():
        raise UserError("the output would overwrite the model", output, "choose another name with -o")
    config = load_config(args.config)
    full = checkpoint.model_state(checkpoint.load(args.input), args.input)
    if args.half:
        full = {key: value.half() if value.is_floating_point() else value for key, value in full.items()}
    released = {key: value for key, value in full.items() if not key.startswith(TRAINING_ONLY)}
    if args.posterior:
        write_posterior({key: value for key, value in full.items() if key.startswith(TRAINING_ONLY)}, args)
    if output.suffix == ".safetensors":
        checkpoint.save_safetensors(released, output, {"config": config.to_json()})
    else:
        checkpoint.save(release_dict(released, len(full), config), output)
    size = output.stat().st_size / 2**20
    print(f"wrote {output}: {size:.1f} MiB, was {args.input.stat().st_size / 2**20:.1f} MiB")
    return 0


def write_posterior(state: dict[str, Tensor], args: argparse.Namespace) -> None:
    """The posterior encoder as a .safetensors file. Raises UserError where the model has none."""
    from modules import checkpoint

    if args.posterior.suffix != ".safetensors":
        what = f"the posterior encoder cannot be written as {args.posterior.suffix or 'a file without suffix'}"
        raise UserError(what, f"--posterior {args.posterior}", "let the name end in .safetensors")
    if not state:
        raise UserError("the model has no posterior encoder: it is a release", args.input, "give a G_<step>.pth")
    checkpoint.save_safetensors(state, args.posterior, {})
    print(f"wrote {args.posterior}: {args.posterior.stat().st_size / 2**20:.1f} MiB")


def default_output(model: Path, half: bool, safetensors: bool) -> Path:
    """<input>_release[_half].pth, or .safetensors."""
    suffix = ".safetensors" if safetensors else ".pth"
    return model.with_name(f"{model.stem}_release{'_half' if half else ''}{suffix}")


def release_dict(state: dict[str, Tensor], n_parameters: int, config: Config) -> dict[str, Any]:
    """The four fields of a checkpoint, with a fresh optimizer, as so-vits-svc 4.1 releases a model."""
    import torch

    placeholders = [torch.nn.Parameter(torch.empty(0)) for _ in range(n_parameters)]
    optimizer = torch.optim.AdamW(
        placeholders, lr=config.train.learning_rate, betas=config.train.betas, eps=config.train.eps
    )
    return {
        "model": state,
        "iteration": 0,
        "optimizer": optimizer.state_dict(),
        "learning_rate": config.train.learning_rate,
    }


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return run(compress, build_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
