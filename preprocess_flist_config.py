"""Step 2: the file lists of training and validation, configs/config.json and configs/diffusion.yaml."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from modules.cli import BatchReport, make_parser, run
from modules.errors import UserError
from vencoder import ENCODERS

TEMPLATES = Path(__file__).resolve().parent / "configs_template"


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = make_parser("Split the clips into training and validation and write the configs.")
    parser.add_argument("--train_list", default="./filelists/train.txt", help="list of training clips to write")
    parser.add_argument("--val_list", default="./filelists/val.txt", help="list of validation clips to write")
    parser.add_argument("--source_dir", default="./dataset/44k", help="one folder of wavs for each speaker")
    parser.add_argument("--speakers", nargs="+", default=[], metavar="NAME", help="only these folders; default: all")
    parser.add_argument("--speech_encoder", default="vec768l12", choices=list(ENCODERS), help="speech encoder")
    parser.add_argument("--vol_aug", action="store_true", help="volume embedding, and loudness augmentation")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--tiny", action="store_true", help="the smaller model for real-time conversion")
    size.add_argument("--micro", action="store_true", help="a model small enough to train without a GPU")
    parser.add_argument("-m", "--model", default="44k", help="the diffusion model will be in logs/<model>/diffusion")
    parser.add_argument("--seed", type=int, default=1234, help="decides which clips validate")
    parser.add_argument("--config", type=Path, default=Path("configs/config.json"), help="config to write")
    parser.add_argument(
        "--diffusion_config", type=Path, default=Path("configs/diffusion.yaml"), help="diffusion config to write"
    )
    return parser


def make_lists_and_configs(args: argparse.Namespace) -> int:
    """Write both lists and both configs."""
    from modules.config import load_config, load_diffusion_config
    from modules.data import preprocess_flist as work
    from modules.files import write_text

    dataset = work.scan(args.source_dir, args.speakers)
    training, validation = work.split(dataset, args.seed)
    ids, warnings = work.speaker_ids([speaker.name for speaker in dataset.speakers], _existing_ids(args.config))
    for warning in dataset.warnings + warnings:
        print(f"warning: {warning}", file=sys.stderr)

    template = "config_micro" if args.micro else "config_tiny" if args.tiny else "config"
    config = load_config(TEMPLATES / f"{template}_template.json")
    diffusion = load_diffusion_config(TEMPLATES / f"diffusion{'_micro' if args.micro else ''}_template.yaml")
    encoder = ENCODERS[args.speech_encoder]
    work.fit_config(
        config, encoder=encoder.name, width=encoder.width, tiny=args.tiny, micro=args.micro, vol_aug=args.vol_aug
    )
    work.match_diffusion(diffusion, config)
    diffusion.env.expdir = f"logs/{args.model}/diffusion"
    work.set_speakers(config, diffusion, ids)
    work.set_lists(config, diffusion, args.train_list, args.val_list)

    for path, clips in ((args.train_list, training), (args.val_list, validation)):
        write_text(path, "".join(f"{clip}\n" for clip in clips))
    config.save(args.config)
    diffusion.save(args.diffusion_config)
    print(f"{len(training)} clip(s) to train on in {args.train_list}, {len(validation)} to validate in {args.val_list}")
    if dataset.copies:
        used = len(dataset.copies.intersection(training))
        left_out = len(dataset.copies) - used
        print(f"{used} of them are copies at another pitch; {left_out} more are of clips that validate, and left out")
    print(f"speakers: {', '.join(f'{name} = {number}' for name, number in ids.items())}")
    print(f"wrote {args.config} and {args.diffusion_config}")
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
