"""Step 3: units, f0, spectrogram, volume and, for diffusion, mel of every clip, in files beside the wavs."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from modules.cli import BatchReport, make_parser, run
from modules.f0 import PREDICTORS
from pretrain import AllowDownload


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = make_parser("Make the features of every clip; what is there and current stays as it is.")
    parser.add_argument("-d", "--device", help="such as cpu, cuda:0 or mps; by default all GPUs, else the CPU")
    parser.add_argument("--in_dir", type=Path, default=Path("dataset/44k"), help="one folder of wavs a speaker")
    parser.add_argument("-c", "--config", type=Path, default=Path("configs/config.json"), help="names the encoder")
    parser.add_argument("--use_diff", action="store_true", help="also make what train_diff.py needs")
    parser.add_argument(
        "--diffusion_config", type=Path, default=Path("configs/diffusion.yaml"), help="names the vocoder"
    )
    parser.add_argument("--f0_predictor", default="rmvpe", choices=list(PREDICTORS), help="f0 predictor")
    parser.add_argument("--f0_min", type=float, default=50.0, help="lowest f0 looked for, Hz")
    parser.add_argument("--f0_max", type=float, default=1100.0, help="highest f0 looked for, Hz")
    parser.add_argument("--num_processes", type=int, default=1, help="worker processes; 0 is one a core")
    parser.add_argument("--download", action=AllowDownload)
    return parser


def make_features(args: argparse.Namespace) -> int:
    """Make what is missing or out of date."""
    from modules.config import load_config, load_diffusion_config
    from modules.data import f0_ranges
    from modules.data import preprocess_features as work
    from modules.data.preprocess_pool import Failure, process_count, remove_leftovers, run_all
    from modules.progress import track

    config = load_config(args.config)
    diffusion = load_diffusion_config(args.diffusion_config) if args.use_diff else None
    options = work.FeatureOptions.of(config, args.f0_predictor, (args.f0_min, args.f0_max), diffusion)
    wavs = work.shard(work.find_wavs(args.in_dir))
    devices = work.choose_devices(args.device)
    remove_leftovers({wav.parent for wav in wavs}, work.is_written_for(wavs))

    batches = work.batches(wavs, devices)
    processes = process_count(args.num_processes, len(batches))
    threads = max(1, (os.cpu_count() or 1) // processes) if processes > 1 else 0
    print(f"{len(wavs)} clip(s): encoder {options.encoder}, f0 {options.predictor}, on {', '.join(devices)}")
    report = BatchReport("clip")
    unchanged = 0
    job = work.FeatureJob(options, devices, threads, args.debug)
    results = run_all(job, batches, processes, args.debug)
    for wav, outcome in track(work.one_by_one(results), "features", len(wavs)):
        if isinstance(outcome, Failure):
            report.fail(wav, outcome.reason)
        else:
            report.ok()
            unchanged += not outcome.features
    print(f"{unchanged} clip(s) were done before")
    if os.environ.get("RANK", "0") == "0":  # under torchrun one process writes, from its own share
        f0_ranges.record(args.config, f0_ranges.speaker_ranges(wavs))
    return report.finish()


def main(argv: list[str] | None = None) -> int:
    """Run step 3; the exit code is 0 (all done), 1 (some clips failed) or 2 (could not start)."""
    return run(make_features, build_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
