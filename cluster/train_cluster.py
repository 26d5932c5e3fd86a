"""Find the k-means centres of every speaker's units: logs/44k/kmeans_10000.pt."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file: the project's root is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cluster.options import ClusterOptions
from modules.cli import BatchReport, make_parser, run
from modules.errors import UserError
from modules.options import add_arguments, from_namespace

N_CENTRES = 10_000


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser("Find the k-means centres of every speaker's units, for --cluster_infer_ratio.")
    add_arguments(parser, ClusterOptions)
    return parser


def train(args: argparse.Namespace) -> int:
    """Train all speakers and write one file; a speaker that fails is reported and left out."""
    from cluster import kmeans
    from cluster.units import load_frames, speaker_folders
    from modules.devices import pick_device

    options = from_namespace(ClusterOptions, args)
    device = pick_device("cuda" if options.gpu else "cpu")
    report = BatchReport("speaker")
    centres = {}
    for folder in speaker_folders(options.dataset):
        try:
            frames = load_frames(folder)
            count = kmeans.usable_centres(len(frames), N_CENTRES)
            if count < N_CENTRES:
                print(f"{folder.name}: {len(frames)} frames carry {count} centres, not {N_CENTRES}")
            centres[folder.name] = kmeans.fit(frames, count, device=device, description=folder.name)
            report.ok()
        except UserError as error:
            report.fail(folder, error)
    if centres:
        target = options.output / f"kmeans_{N_CENTRES}.pt"
        kmeans.save(kmeans.Centres(centres), target)
        print(f"wrote {target}")
    return report.finish()


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return run(train, build_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
