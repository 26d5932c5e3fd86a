"""Build the feature index of every speaker, for inference_main.py --feature_retrieval."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.options import IndexOptions
from modules.cli import BatchReport, make_parser, run
from modules.errors import UserError
from modules.options import add_arguments, from_namespace

if TYPE_CHECKING:
    from cluster.retrieval import SpeakerIndex


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser("Build the feature index of every speaker, for --feature_retrieval.")
    add_arguments(parser, IndexOptions)
    return parser


def build_indexes(args: argparse.Namespace) -> int:
    """Index every speaker of the config; a speaker that fails is reported and left out."""
    from cluster import retrieval
    from cluster.units import load_frames
    from modules.config import load_config
    from modules.progress import track

    options = from_namespace(IndexOptions, args)
    speakers = load_config(options.config).spk
    if not speakers:
        raise UserError("the config names no speakers", options.config, "run preprocess_flist_config.py first")
    report = BatchReport("speaker")
    folder = options.output_dir / "feature_and_index"
    before = _existing(folder)
    indexes, kept = {}, {}
    for name, speaker_id in track(speakers.items(), "feature index", total=len(speakers)):
        try:
            indexes[speaker_id] = retrieval.build(load_frames(options.root_dir / name))
            report.ok()
        except UserError as error:
            report.fail(name, error)
            if speaker_id in before and before[speaker_id].name in ("", name):
                kept[speaker_id] = before[speaker_id]
                print(f"{name}: the index of an earlier run is kept")
    if indexes:
        retrieval.save({**indexes, **kept}, folder, speakers)
        print(f"wrote {folder}")
    return report.finish()


def _existing(folder: Path) -> dict[int, SpeakerIndex]:
    """The index of an earlier run; none where there is none, or none that can be read."""
    from cluster import retrieval

    try:
        return retrieval.load(folder)
    except UserError:
        return {}


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return run(build_indexes, build_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
