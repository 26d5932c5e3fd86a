"""Step 2: the file lists of training and validation, configs/config.json and configs/diffusion.yaml."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from modules.cli import BatchReport, make_parser, run
from modules.data.options import ListOptions
from modules.errors import UserError
from modules.options import add_arguments, from_namespace
from vencoder import ENCODERS

TEMPLATES = Path(__file__).resolve().parent / "configs_template"


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser("Split the clips into training and validation and write the configs.")
    add_arguments(parser, ListOptions)
    return parser


def make_lists_and_configs(args: argparse.Namespace) -> int:
    """Write both lists and both configs."""
    from modules.config import load_config, load_diffusion_config
    from modules.data import preprocess_flist as work
    from modules.files import write_text

    options = from_namespace(ListOptions, args)
    dataset = work.scan(options.source_dir, options.speakers)
    training, validation = work.split(dataset, options.seed)
    ids, warnings = work.speaker_ids([speaker.name for speaker in dataset.speakers], _existing_ids(options.config))
    for warning in dataset.warnings + warnings:
        print(f"warning: {warning}", file=sys.stderr)

    template = "config_micro" if options.micro else "config_tiny" if options.tiny else "config"
    config = load_config(TEMPLATES / f"{template}_template.json")
    diffusion = load_diffusion_config(TEMPLATES / f"diffusion{'_micro' if options.micro else ''}_template.yaml")
    encoder = ENCODERS[options.speech_encoder]
    work.fit_config(
        config,
        encoder=encoder.name,
        width=encoder.width,
        tiny=options.tiny,
        micro=options.micro,
        vol_aug=options.vol_aug,
    )
    work.match_diffusion(diffusion, config)
    diffusion.env.expdir = f"logs/{options.model}/diffusion"
    work.set_speakers(config, diffusion, ids)
    work.set_lists(config, diffusion, options.train_list, options.val_list)

    for path, clips in ((options.train_list, training), (options.val_list, validation)):
        write_text(path, "".join(f"{clip}\n" for clip in clips))
    config.save(options.config)
    diffusion.save(options.diffusion_config)
    print(
        f"{len(training)} clip(s) to train on in {options.train_list},"
        f" {len(validation)} to validate in {options.val_list}"
    )
    if dataset.copies:
        used = len(dataset.copies.intersection(training))
        left_out = len(dataset.copies) - used
        print(f"{used} of them are copies at another pitch; {left_out} more are of clips that validate, and left out")
    print(f"speakers: {', '.join(f'{name} = {number}' for name, number in ids.items())}")
    print(f"wrote {options.config} and {options.diffusion_config}")
    report = BatchReport("clip", len({*training, *validation}), dataset.skipped, dataset.failed)
    return report.finish()


def _existing_ids(path: Path) -> Mapping[str, int]:
    """The speakers of the config that is about to be replaced; none where there is none or it cannot be read."""
    from modules.config import load_config

    if not path.is_file():
        return {}
    try:
        return load_config(path).spk
    except UserError as error:
        print(f"warning: the existing config is replaced; it cannot be read: {error}", file=sys.stderr)
        return {}


def main(argv: list[str] | None = None) -> int:
    """Run step 2; the exit code is 0 (all clips listed), 1 (some could not be read) or 2 (could not start)."""
    return run(make_lists_and_configs, build_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
