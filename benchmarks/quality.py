"""How good a model is: converts sources to speakers and judges voice, melody, words and sound; or judges pairs.

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

from modules.cli import make_parser, positive_int, run  # noqa: E402  (the root has to be on the path)
from modules.errors import UserError  # noqa: E402
from modules.evaluation import METRICS  # noqa: E402
from modules.f0 import PREDICTORS  # noqa: E402
from modules.inference.options import InferenceOptions, ModelOptions  # noqa: E402
from modules.options import add_arguments, from_namespace  # noqa: E402
from pretrain import AllowDownload  # noqa: E402

T = TypeVar("T")


def build_parser() -> argparse.ArgumentParser:
    """The command line; the flags of the model and the conversion are those of inference_main.py."""
    parser = make_parser("Measure how good a model converts, or how good conversions made elsewhere are.")
    group = parser.add_argument_group("what to measure")
    group.add_argument("-n", "--sources", nargs="+", type=Path, default=[], help="audio files and folders to convert")
    group.add_argument("-s", "--spk_list", nargs="+", default=[], help="speakers to convert to; all with recordings")
    group.add_argument(
        "-t",
        "--trans",
        nargs="+",
        default=["auto"],
        help="pitch shift of each source in semitones, or auto: from the source's median pitch to the speaker's",
    )
    group.add_argument(
        "--pairs",
        type=Path,
        help="judge these instead of converting: CSV with source, output, target and, if you like, source_speaker, "
        "semitones, text",
    )
    group.add_argument("--voices", type=Path, help="recordings of the speakers: one folder a speaker, of its name")
    group.add_argument("--voice", nargs="+", default=[], metavar="NAME=FOLDER", help="recordings of single speakers")
    group.add_argument("--voice_clips", type=positive_int, default=12, help="recordings of a speaker to listen to")
    group.add_argument("--transcripts", nargs="+", type=Path, default=[], help="true texts: lines of name,text")
    group.add_argument("--language", help="of the words, as Whisper names it: en, ja; heard in each source if absent")
    group.add_argument("--metrics", nargs="+", choices=tuple(METRICS), default=list(METRICS), help="measures to take")
    group.add_argument("--judge", choices=tuple(PREDICTORS), default="pm", help="f0 predictor that measures")
    group.add_argument("--speech_encoder", help="encoder for the distance of units; the model's own if absent")
    group.add_argument("--page_pairs", type=positive_int, default=40, help="pairs with players on the page")
    group.add_argument("--out_dir", type=Path, default=Path("results/quality"), help="folder of the report")
    group.add_argument("--download", action=AllowDownload)
    add_arguments(parser.add_argument_group("the model"), ModelOptions)
    conversion = tuple(field.name for field in dataclasses.fields(InferenceOptions) if field.name != "trans")
    add_arguments(parser.add_argument_group("the conversion"), InferenceOptions, only=conversion)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and measure; 0 all done, 1 some pairs failed, 2 cannot start."""
    return run(body, build_parser().parse_args(argv))


def body(args: argparse.Namespace) -> int:
    """Put the request together and run it."""
    if bool(args.sources) == (args.pairs is not None):
        fix = "give --sources to convert them, or --pairs to judge what is converted"
        raise UserError("nothing to measure" if args.pairs is None else "two things to measure", "--sources", fix)
    from modules.quality.command import measure
    from modules.quality.request import Request, parse_shift, parse_voice

    shifts = [_parsed(parse_shift, text, "--trans", "give semitones or auto") for text in args.trans]
    return measure(
        Request(
            out_dir=args.out_dir,
            metrics=tuple(dict.fromkeys(args.metrics)),
            sources=tuple(args.sources),
            speakers=tuple(args.spk_list),
            pairs=args.pairs,
            voices=args.voices,
            named_voices=dict(_parsed(parse_voice, text, "--voice", "give NAME=FOLDER") for text in args.voice),
            shifts=tuple(shifts),
            model=from_namespace(ModelOptions, args),
            inference=from_namespace(InferenceOptions, args, trans=0.0),
            reference_predictor=args.judge,
            language=args.language,
            transcripts=tuple(args.transcripts),
            voice_clips=args.voice_clips,
            speech_encoder=args.speech_encoder,
            page_pairs=args.page_pairs,
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
