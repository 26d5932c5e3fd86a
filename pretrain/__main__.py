"""python -m pretrain list | fetch NAME... | check | doctor | convert FILE...: pretrained weights and their files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from modules.cli import EXIT_OK, BatchReport, make_parser, run
from modules.errors import UserError
from pretrain import DEFAULT_DIR, find, how_to_get, weight_named
from pretrain.weights import WEIGHTS


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and run one of the commands."""
    parser = make_parser("List, fetch, check and convert pretrained weights; examine the machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    shown = commands.add_parser("list", help="every weight: present or missing, size, licence, what it is for")
    fetched = commands.add_parser("fetch", help="fetch weights, verify them and put them in place")
    fetched.add_argument("names", nargs="+", metavar="NAME", help="a weight of the list, or an encoder")
    checked = commands.add_parser("check", help="compare every present weight with its checksum")
    examined = commands.add_parser("doctor", help="one screen for a bug report, and what to do")
    converted = commands.add_parser("convert", help="write .pth or .pt files as .safetensors and .json")
    converted.add_argument("files", nargs="+", type=Path, metavar="FILE", help="checkpoint, clusters or encoder")
    converted.add_argument("--training", action="store_true", help="keep the optimizer and other training state")
    for command in (shown, fetched, checked, examined):
        command.add_argument("--dir", type=Path, default=DEFAULT_DIR, help="folder of the weights")
    args = parser.parse_args(argv)
    return run(COMMANDS[args.command], args)


def list_weights(args: argparse.Namespace) -> int:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for title in ("name", "state", "MB", "licence", "for", "file"):
        table.add_column(title, justify="right" if title == "MB" else "left", no_wrap=title in ("name", "state"))
    for weight in WEIGHTS:
        path = find(weight.name, args.dir)
        size = path.stat().st_size if path else weight.size
        state = "present" if path else "missing"
        where = path or weight.path(args.dir)
        table.add_row(weight.name, state, f"{size / 1e6:.0f}", weight.licence, ", ".join(weight.serves), str(where))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    return EXIT_OK


def fetch_weights(args: argparse.Namespace) -> int:
    """Fetch what was named; go on past what cannot be had."""
    from pretrain.fetch import fetch

    weights = [weight_named(name) for name in args.names]
    report = BatchReport("weight")
    for weight in weights:
        present = find(weight.name, args.dir)
        if present:
            report.skip(weight.name, f"{present} is there")
            continue
        try:
            print(f"{weight.name}: {fetch(weight, args.dir)}")
            report.ok()
        except UserError as error:
            report.fail(weight.name, error)
    return report.finish()


def check_weights(args: argparse.Namespace) -> int:
    """Compare every present weight with its checksum; one that has none yet is remembered."""
    from pretrain.fetch import expected_digest, remember, sha256_of

    report = BatchReport("weight")
    for weight in WEIGHTS:
        path = find(weight.name, args.dir)
        if path is None:
            continue
        digest, expected = sha256_of(path), expected_digest(weight, path)
        if expected and not digest.startswith(expected):
            reason = f"{path} has sha256 {digest[:16]}, not {expected[:16]}"
            report.fail(weight.name, f"{reason}; delete it and {how_to_get(weight, args.dir)}")
            continue
        if not expected:
            remember(path, digest)
        print(f"{weight.name}: {path} {'is as it should be' if expected else 'seen first, checksum remembered'}")
        report.ok()
    return report.finish()


def examine_machine(args: argparse.Namespace) -> int:
    """Print what the doctor finds."""
    from pretrain.doctor import examine

    advice = []
    for finding in examine(args.dir):
        print(f"{finding.title:<17} {finding.text}")
        if finding.advice:
            advice.append(f"{finding.title}: {finding.advice}")
    print("\nto do:", *(advice or ["nothing"]), sep="\n  ")
    print("missing weights are fetched with: python -m pretrain fetch NAME")
    return EXIT_OK


def convert_files(args: argparse.Namespace) -> int:
    """Convert what was named; go on past what cannot be converted."""
    from pretrain.convert import convert

    report = BatchReport()
    for source in args.files:
        try:
            print(f"{source}: {convert(source, keep_training_state=args.training)}")
            report.ok()
        except UserError as error:
            report.fail(source, error)
    return report.finish()


COMMANDS = {
    "list": list_weights,
    "fetch": fetch_weights,
    "check": check_weights,
    "doctor": examine_machine,
    "convert": convert_files,
}

if __name__ == "__main__":
    sys.exit(main())
