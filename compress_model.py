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
    parser.add_argument(
        "-c", "--config", type=Path, help=f"the model's config; default: config.json beside it, else {CONFIG_PATH}"
    )
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
    config_path = args.config or default_config(args.input)
    config = load_config(config_path)
    full = checkpoint.model_state(checkpoint.load(args.input), args.input)
    check_fit(full, config, args.input, config_path)
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


def default_config(model: Path) -> Path:
    """The config that lies beside the model, which is its own; else the one that is trained with next."""
    beside = model.with_name("config.json")
    return beside if beside.is_file() else CONFIG_PATH


def check_fit(state: dict[str, Tensor], config: Config, model: Path, config_path: Path) -> None:
    """Refuse weights that are not those of a generator of the config. Raises UserError that names what does not fit."""
    import torch

    import models
    from modules import checkpoint

    if not any(key.startswith("dec.") for key in state) or "emb_g.weight" not in state:
        what = "the file holds no generator"
        if any(key.startswith("discriminators.") for key in state):
            what = "the file holds the discriminators, which only training needs"
        raise UserError(what, model, "give a G_<step>.pth; of a D_<step>.pth nothing can be released")
    with torch.device("meta"):
        network = models.build(config, with_posterior=any(key.startswith(TRAINING_ONLY) for key in state))
    try:
        report = checkpoint.compare(network, state, model)
    except UserError as error:
        fix = f"{config_path} is of another model: give with -c the config that this one was trained with"
        raise UserError(error.what, model, fix) from None
    if report.unexpected:
        some = ", ".join(report.unexpected[:3])
        print(
            f"warning: {len(report.unexpected)} keys are none of a model of {config_path}, such as {some}", flush=True
        )


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
