"""The web page: convert, mix and release voices, prepare recordings and train, in the browser.

python webUI.py          then open http://127.0.0.1:7860
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from modules.cli import make_parser, positive_float, run


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = make_parser("Serve the web page on this machine.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; another one needs a password")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on; 0 takes a free one")
    parser.add_argument(
        "--password", help="ask for this password, with any user name; safer in the variable WEBUI_PASSWORD"
    )
    parser.add_argument("--folder", type=Path, default=Path(), help="where trained/, logs/, raw/ and results/ are")
    parser.add_argument("--max_upload", type=positive_float, default=500.0, help="largest file that may be sent, MB")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    return parser


def serve(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    from modules.web.server import Settings, serve

    return serve(Settings.from_arguments(args, code_dir=Path(__file__).resolve().parent))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return run(serve, build_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
