"""Make a release of a model: without what only further training needs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.cli import make_parser, run
from modules.errors import UserError
from modules.options import add_arguments, from_namespace
from modules.training.options import ReleaseOptions

if TYPE_CHECKING:
    from torch import Tensor

    from modules.config import Config

TRAINING_ONLY = "enc_q."  # the posterior encoder


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = make_parser("Make a release of a model: no optimizer, no posterior encoder, about a third of the size.")
    add_arguments(parser, ReleaseOptions)
    return parser


def compress(args: argparse.Namespace) -> int:
    """Read, strip, write."""
    from modules import checkpoint
    from modules.config import load_config

    options = from_namespace(ReleaseOptions, args)
    output = options.output or default_output(options.input, options.half, options.safetensors)
    if output.resolve() == options.input.resolve():
        raise UserError("the output would overwrite the model", output, "choose another name with -o")
    config = load_config(options.config)
    full = checkpoint.model_state(checkpoint.load(options.input), options.input)
    if options.half:
        full = {key: value.half() if value.is_floating_point() else value for key, value in full.items()}
    released = {key: value for key, value in full.items() if not key.startswith(TRAINING_ONLY)}
    if options.posterior:
        write_posterior({key: value for key, value in full.items() if key.startswith(TRAINING_ONLY)}, options)
    if output.suffix == ".safetensors":
        checkpoint.save_safetensors(released, output, {"config": config.to_json()})
    else:
        checkpoint.save(release_dict(released, len(full), config), output)
    size = output.stat().st_size / 2**20
    print(f"wrote {output}: {size:.1f} MiB, was {options.input.stat().st_size / 2**20:.1f} MiB")
    return 0


def write_posterior(state: dict[str, Tensor], options: ReleaseOptions) -> None:
    """The posterior encoder as a .safetensors file. Raises UserError where the model has none."""
    from modules import checkpoint

    if options.posterior.suffix != ".safetensors":
        what = f"the posterior encoder cannot be written as {options.posterior.suffix or 'a file without suffix'}"
        raise UserError(what, f"--posterior {options.posterior}", "let the name end in .safetensors")
    if not state:
        raise UserError("the model has no posterior encoder: it is a release", options.input, "give a G_<step>.pth")
    checkpoint.save_safetensors(state, options.posterior, {})
    print(f"wrote {options.posterior}: {options.posterior.stat().st_size / 2**20:.1f} MiB")


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
