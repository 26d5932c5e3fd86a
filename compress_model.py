"""Make a release of a model: without what only further training needs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.cli import make_parser, run
from modules.errors import UserError
from modules.options import add_arguments, from_namespace
from modules.training.options import CONFIG_PATH, ReleaseOptions

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
    config_path = options.config or default_config(options.input)
    config = load_config(config_path)
    full = checkpoint.model_state(checkpoint.load(options.input), options.input)
    check_fit(full, config, options.input, config_path)
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
