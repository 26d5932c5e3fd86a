"""Step 3: units, f0, spectrogram, volume and, for diffusion, mel of every clip, in files beside the wavs."""

from __future__ import annotations

import argparse
import os
import sys

from modules.cli import BatchReport, make_parser, run
from modules.data.options import FeatureOptions
from modules.options import add_arguments, from_namespace
from pretrain import AllowDownload


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser("Make the features of every clip; what is there and current stays as it is.")
    add_arguments(parser, FeatureOptions)
    parser.add_argument("--download", action=AllowDownload)
    return parser


def make_features(args: argparse.Namespace) -> int:
    """Make what is missing or out of date."""
    from modules.config import load_config, load_diffusion_config
    from modules.data import f0_ranges
    from modules.data import preprocess_features as work
    from modules.data.features import FeaturePaths
    from modules.data.worker_pool import Failure, process_count, run_all
    from modules.f0 import require_weights
    from modules.f0.range_check import RangeTally
    from modules.progress import track

    options = from_namespace(FeatureOptions, args)
    config = load_config(options.config)
    diffusion = load_diffusion_config(options.diffusion_config) if options.use_diff else None
    settings = work.FeatureSettings.of(config, options.f0_predictor, (options.f0_min, options.f0_max), diffusion)
    wavs = work.shard(work.find_wavs(options.in_dir))
    devices = work.choose_devices(options.device)
    if not all(FeaturePaths.of(wav).f0.is_file() for wav in wavs):  # workers take a minute to find out
        require_weights(settings.predictor, settings.pretrain_dir)

    batches = work.batches(wavs, devices)
    processes = process_count(options.num_processes, len(batches))
    threads = max(1, (os.cpu_count() or 1) // processes) if processes > 1 else 0
    print(f"{len(wavs)} clip(s): encoder {settings.encoder}, f0 {settings.predictor}, on {', '.join(devices)}")
    report = BatchReport("clip")
    unchanged = 0
    ranges: dict[str, RangeTally] = {}
    job = work.FeatureJob(settings, devices, threads, args.debug)
    results = run_all(job, batches, processes, args.debug)
    for wav, outcome in track(work.one_by_one(results), "features", len(wavs)):
        if isinstance(outcome, Failure):
            report.fail(wav, outcome.reason)
        else:
            report.ok()
            unchanged += not outcome.features
            if outcome.f0_range is not None:
                ranges.setdefault(wav.parent.name, RangeTally()).add(outcome.f0_range, outcome.voiced)
    print(f"{unchanged} clip(s) were done before")
    for speaker, tally in ranges.items():
        if tally.message:
            print(f"warning: {speaker}: {tally.message}", file=sys.stderr)
    if os.environ.get("RANK", "0") == "0":  # under torchrun one process writes, from its own share
        f0_ranges.record(options.config, f0_ranges.speaker_ranges(wavs))
    return report.finish()


def main(argv: list[str] | None = None) -> int:
    """Run step 3; the exit code is 0 (all done), 1 (some clips failed) or 2 (could not start)."""
    return run(make_features, build_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
