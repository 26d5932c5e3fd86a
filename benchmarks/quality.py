"""How good a model is: converts sources to speakers and scores voice, melody, words and sound; or scores pairs.

    python benchmarks/quality.py -m logs/44k/G_best.pth -c logs/44k/config.json \
        --sources demo/held_out --voices demo/voices -f0p fcpe
    python benchmarks/quality.py --pairs pairs.csv --voices demo/voices

Leaves results.json, index.html and the audio in --out_dir. docs/quality.md says what every figure means.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from modules.cli import make_parser, run  # noqa: E402  (the root has to be on the path)
from modules.errors import UserError  # noqa: E402
from modules.inference.options import InferenceOptions, ModelOptions  # noqa: E402
from modules.options import add_arguments, from_namespace  # noqa: E402
from modules.quality.request import AUTO, Request, parse_shift, parse_voice  # noqa: E402
from pretrain import AllowDownload  # noqa: E402

T = TypeVar("T")


def build_parser() -> argparse.ArgumentParser:
    """The command line; the flags of the model and the conversion are those of inference_main.py."""
    parser = make_parser("Measure how good a model converts, or how good conversions made elsewhere are.")
    group = parser.add_argument_group("what to measure")
    add_arguments(group, Request)
    group.add_argument(
        "-t",
        "--trans",
        nargs="+",
        default=[AUTO],
        help="pitch shift of each source in semitones, or auto: from the source's median pitch to the speaker's",
    )
    group.add_argument("--voice", nargs="+", default=[], metavar="NAME=FOLDER", help="recordings of single speakers")
    group.add_argument("--download", action=AllowDownload)
    add_arguments(parser.add_argument_group("the model"), ModelOptions)
    conversion = tuple(field.name for field in dataclasses.fields(InferenceOptions) if field.name != "trans")
    add_arguments(parser.add_argument_group("the conversion"), InferenceOptions, only=conversion)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and measure; 0 all done, 1 some pairs failed, 2 cannot start."""
    return run(measure_from_args, build_parser().parse_args(argv))


def measure_from_args(args: argparse.Namespace) -> int:
    """Put the request together and run it."""
    if bool(args.sources) == (args.pairs is not None):
        fix = "give --sources to convert them, or --pairs to judge what is converted"
        raise UserError("nothing to measure" if args.pairs is None else "two things to measure", "--sources", fix)
    from modules.quality import measure
    shifts = [_parsed(parse_shift, text, "--trans", "give semitones or auto") for text in args.trans]
    return measure(
        from_namespace(
            Request,
            args,
            metrics=tuple(dict.fromkeys(args.metrics)),
            named_voices=dict(_parsed(parse_voice, text, "--voice", "give NAME=FOLDER") for text in args.voice),
            shifts=tuple(shifts),
            model=from_namespace(ModelOptions, args),
            inference=from_namespace(InferenceOptions, args, trans=0.0),
            pretrain_dir=Path("pretrain") if Path("pretrain").is_dir() else ROOT / "pretrain",
            debug=args.debug,
        )
    )


def _parsed(parse: Callable[[str], T], text: str, flag: str, fix: str) -> T:
    """What ``parse`` makes of a word of the command line."""
    try:
        return parse(text)
    except ValueError:
        raise UserError(f"{text!r} cannot be understood", flag, fix) from None


if __name__ == "__main__":
    sys.exit(main())
