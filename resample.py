"""Step 1: recordings in dataset_raw/<speaker>/ to mono int16 wavs in dataset/44k/<speaker>/."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from modules.cli import EXIT_OK, EXIT_SOME_FAILED, BatchReport, make_parser, run
from modules.errors import UserError

if TYPE_CHECKING:
    from modules.data.preprocess_resample import ResampleOptions


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = make_parser("Trim, level and resample the recordings of every speaker; any audio format, any channels.")
    parser.add_argument("--sr2", type=int, default=44100, help="sampling rate to write, Hz")
    parser.add_argument("--in_dir", type=Path, default=Path("./dataset_raw"), help="one folder a speaker")
    parser.add_argument("--out_dir2", type=Path, default=Path("./dataset/44k"), help="where the wavs go")
    parser.add_argument("--skip_loudnorm", action="store_true", help="keep the level of the recordings")
    parser.add_argument(
        "--loudnorm", choices=("peak", "lufs"), default="peak", help="peak: to full scale; lufs: to --lufs_target"
    )
    parser.add_argument("--lufs_target", type=float, default=-18.0, help="loudness for --loudnorm lufs, LUFS")
    parser.add_argument("--slice", action="store_true", help="cut long recordings into clips of 5 to 15 s")
    parser.add_argument(
        "--pitch_shift", type=float, nargs="+", default=[], metavar="SEMITONES",
        help="also write copies of each clip at another pitch with the same voice, such as -4 4 8; they only train",
    )
    parser.add_argument("--speakers", nargs="+", default=[], metavar="NAME", help="only these folders; default: all")
    parser.add_argument(
        "--report",
        nargs="?",
        const="",
        metavar="FILE",
        help="write nothing but a report on the recordings (to FILE too, as JSON): minutes, pitch, levels, problems",
    )
    parser.add_argument("--num_processes", type=int, default=0, help="worker processes; 0 is one a core")
    return parser


def resample_all(args: argparse.Namespace) -> int:
    """Convert every recording that is not done yet."""
    from modules.data.preprocess_pool import Failure, process_count, remove_leftovers, run_all
    from modules.data.preprocess_resample import ResampleJob, find_recordings, is_written_for, orphans
    from modules.progress import track

    options = _options(args)
    sources, left_out = find_recordings(args.in_dir, args.out_dir2, args.speakers)
    report = BatchReport("recording")
    for path, reason in left_out:
        report.skip(path, reason)
    if not sources:
        report.finish()
        fix = "put recordings into one folder for each speaker, such as dataset_raw/alice/song.wav"
        raise UserError("there are no recordings", f"--in_dir {args.in_dir}", fix)
    folders = {folder for source in sources for folder in (source.folder, source.note.parent)}
    remove_leftovers(folders, is_written_for(sources))
    processes = process_count(args.num_processes, len(sources))
    unchanged = clips = 0
    results = run_all(ResampleJob(options), sources, processes, args.debug)
    for source, outcome in track(results, "resample", len(sources)):
        if isinstance(outcome, Failure):
            report.fail(source.path, outcome.reason)
        elif outcome.skipped:
            report.skip(source.path, outcome.skipped)
        else:
            report.ok()
            clips += outcome.clips
            unchanged += outcome.unchanged
    for name in orphans(sources):
        print(f"warning: {name} is no longer in {args.in_dir}; its clips are still in the data set", file=sys.stderr)
    print(f"{clips} clip(s) in {args.out_dir2}; {unchanged} recording(s) were done before")
    return report.finish()


def report_on_recordings(args: argparse.Namespace) -> int:
    """Say what the recordings are like; exit code 1 where some of them are of no use."""
    from modules.data.recordings_examine import count_recordings, examine_folder
    from modules.data.recordings_report import RecordingsReport, print_report
    from modules.files import write_text
    from modules.progress import track

    count = count_recordings(args.in_dir, args.speakers)
    results = examine_folder(args.in_dir, args.speakers, args.num_processes, args.debug)
    report = [item for item in track(results, "report", count + 1) if isinstance(item, RecordingsReport)][0]
    print_report(report)
    if args.report:
        write_text(args.report, report.to_json())
    return EXIT_OK if all(file.usable for file in report.files) else EXIT_SOME_FAILED


def _options(args: argparse.Namespace) -> ResampleOptions:
    from modules.audio.pitch_shift import LARGEST_SHIFT
    from modules.data.preprocess_resample import ResampleOptions

    if args.sr2 < 8000:
        raise UserError(f"the sampling rate is {args.sr2} Hz", "--sr2", "the models work at 44100")
    if args.lufs_target > -5:
        raise UserError(f"the loudness is {args.lufs_target} LUFS", "--lufs_target", "take a value from -30 to -10")
    shifts = tuple(dict.fromkeys(args.pitch_shift))
    for semitones in shifts:
        if semitones == 0 or not abs(semitones) <= LARGEST_SHIFT:
            fix = f"take values from -{LARGEST_SHIFT:g} to {LARGEST_SHIFT:g} without 0"
            raise UserError(f"a shift of {semitones:g} semitones", "--pitch_shift", fix)
    loudnorm = "none" if args.skip_loudnorm else args.loudnorm
    return ResampleOptions(args.sr2, loudnorm, args.lufs_target, args.slice, shifts)


def main(argv: list[str] | None = None) -> int:
    """Run step 1; the exit code is 0 (all done), 1 (some recordings failed) or 2 (could not start)."""
    args = build_parser().parse_args(argv)
    return run(resample_all if args.report is None else report_on_recordings, args)


if __name__ == "__main__":
    sys.exit(main())
