"""Step 2: the file lists of training and validation, configs/config.json and configs/diffusion.yaml."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from modules.cli import BatchReport, make_parser, run
from modules.data.options import ListOptions
from modules.errors import UserError
from modules.options import add_arguments, from_namespace
from vencoder import ENCODERS

if TYPE_CHECKING:
    from modules.config import AnyConfig, Config, DiffusionConfig

TEMPLATES = Path(__file__).resolve().parent / "configs_template"


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser("Split the clips into training and validation and write the configs.")
    add_arguments(parser, ListOptions)
    return parser


def make_lists_and_configs(args: argparse.Namespace) -> int:
    """Write both lists and both configs."""
    from modules.data import preprocess_flist as work
    from modules.files import write_text

    options = from_namespace(ListOptions, args)
    size = "micro" if options.micro else "tiny" if options.tiny else ""
    config, diffusion = _templates(size)
    before, diffusion_before = _existing(options)
    dataset = work.scan(options.source_dir, options.speakers, config.data.sampling_rate)
    training, validation = work.split(dataset, options.seed)
    names = [speaker.name for speaker in dataset.speakers]
    ids, warnings = work.speaker_ids(names, before.spk if before else {})
    notes = _keep_changes(config, diffusion, before, diffusion_before)

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
    goes_on = before is not None and any(before.spk.get(name) == number for name, number in ids.items())
    room = (before.model.n_speakers if before else 0, diffusion_before.model.n_spk if diffusion_before else 0)
    work.set_speakers(config, diffusion, ids, room if goes_on else (0, 0))
    work.set_lists(config, diffusion, options.train_list, options.val_list)
    changes = work.differences_of_model(config, before) if before else []
    if changes:
        warnings.append(f"the config is of another model than the one it replaces ({'; '.join(changes)})")
    for warning in dataset.warnings + warnings:
        print(f"warning: {warning}", file=sys.stderr)

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
    for note in notes:
        print(note)
    print(f"wrote {options.config} and {options.diffusion_config}")
    report = BatchReport("clip", len({*training, *validation}), dataset.skipped, dataset.failed)
    return report.finish()


def _templates(size: str) -> tuple[Config, DiffusionConfig]:
    from modules.config import load_config, load_diffusion_config

    name = f"config_{size}_template.json" if size else "config_template.json"
    diffusion = "diffusion_micro_template.yaml" if size == "micro" else "diffusion_template.yaml"
    return load_config(TEMPLATES / name), load_diffusion_config(TEMPLATES / diffusion)


def _keep_changes(
    config: Config, diffusion: DiffusionConfig, before: Config | None, diffusion_before: DiffusionConfig | None
) -> list[str]:
    """Take over what the user set by hand in the configs that are about to be replaced; says what it was."""
    from modules.data import preprocess_flist as work

    kept = []
    template, diffusion_template = _templates(work.size_of(before) if before else "")
    if before is not None:
        kept += work.keep_changes(config, before, template)
    if diffusion_before is not None:
        kept += [f"diffusion {line}" for line in work.keep_changes(diffusion, diffusion_before, diffusion_template)]
    return [f"kept from the configs before, where it was set by hand: {', '.join(kept)}"] if kept else []


def _existing(options: ListOptions) -> tuple[Config | None, DiffusionConfig | None]:
    """The configs that are about to be replaced; one that cannot be read is put aside, as <name>.bak."""
    from modules.config import load_config, load_diffusion_config

    return _read_or_put_aside(options.config, load_config), _read_or_put_aside(
        options.diffusion_config, load_diffusion_config
    )


def _read_or_put_aside(path: Path, load: Callable[[Path], AnyConfig]) -> AnyConfig | None:
    from modules.files import numbered

    if not path.is_file():
        return None
    try:
        return load(path)
    except UserError as error:
        aside = next(name for name in numbered(path.with_name(f"{path.name}.bak")) if not name.exists())
        path.replace(aside)
        what = f"the existing config is replaced, and kept as {aside}; it cannot be read: {error}"
        print(f"warning: {what}", file=sys.stderr)
        return None


def main(argv: list[str] | None = None) -> int:
    """Run step 2; the exit code is 0 (all clips listed), 1 (some could not be read) or 2 (could not start)."""
    return run(make_lists_and_configs, build_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
