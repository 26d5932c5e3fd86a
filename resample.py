"""Step 1: recordings in dataset_raw/<speaker>/ to mono int16 wavs in dataset/44k/<speaker>/."""

from __future__ import annotations

import argparse
import sys

from modules.cli import EXIT_OK, EXIT_SOME_FAILED, BatchReport, make_parser, run
from modules.data.options import ResampleOptions
from modules.errors import UserError
from modules.options import add_arguments, from_namespace


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser("Trim, level and resample the recordings of every speaker; any audio format, any channels.")
    add_arguments(parser, ResampleOptions)
    return parser


def prepare(args: argparse.Namespace) -> int:
    """Convert the recordings, or only report on them."""
    options = from_namespace(ResampleOptions, args)
    return resample_all(options, args.debug) if options.report is None else report_on_recordings(options, args.debug)


def resample_all(options: ResampleOptions, debug: bool) -> int:
    """Convert every recording that is not done yet."""
    from modules.data.preprocess_resample import ResampleJob, check_places, find_recordings, orphans
    from modules.data.worker_pool import Failure, process_count, run_all
    from modules.progress import track

    options.check()
    sources, left_out = find_recordings(options.in_dir, options.out_dir, options.speakers)
    check_places(options.in_dir, options.out_dir, sources)
    report = BatchReport("recording")
    for path, reason in left_out:
        report.skip(path, reason)
    if not sources:
        report.finish()
        fix = "put recordings into one folder for each speaker, such as dataset_raw/alice/song.wav"
        raise UserError("there are no recordings", f"--in_dir {options.in_dir}", fix)
    processes = process_count(options.num_processes, len(sources))
    unchanged = clips = 0
    results = run_all(ResampleJob(options), sources, processes, debug)
    for source, outcome in track(results, "resample", len(sources)):
        if isinstance(outcome, Failure):
            report.fail(source.path, outcome.reason)
        elif outcome.skipped:
            report.skip(source.path, outcome.skipped)
        else:
            report.ok()
            clips += outcome.clips
            unchanged += outcome.unchanged
    for name in orphans(sources, options.out_dir) if not options.speakers else ():
        print(f"warning: {name} is no longer in {options.in_dir}; its clips are still in the data set", file=sys.stderr)
    print(f"{clips} clip(s) in {options.out_dir}; {unchanged} recording(s) were done before")
    return report.finish()


def report_on_recordings(options: ResampleOptions, debug: bool) -> int:
    """Say what the recordings are like; exit code 1 where some of them are of no use."""
    from modules.data.recordings_measure import count_recordings, measure_folder
    from modules.data.recordings_report import RecordingsReport, print_report
    from modules.files import write_text
    from modules.progress import track

    count = count_recordings(options.in_dir, options.speakers)
    results = measure_folder(options.in_dir, options.speakers, options.num_processes, debug)
    report = [item for item in track(results, "report", count + 1) if isinstance(item, RecordingsReport)][0]
    print_report(report)
    if options.report:
        write_text(options.report, report.to_json())
    return EXIT_OK if all(file.usable for file in report.files) else EXIT_SOME_FAILED


def main(argv: list[str] | None = None) -> int:
    """Run step 1; the exit code is 0 (all done), 1 (some recordings failed) or 2 (could not start)."""
    return run(prepare, build_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
