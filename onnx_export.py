"""Write a model as ONNX graphs: checkpoints/NAME/{model.pth, config.json} to checkpoints/NAME/NAME_SoVits.onnx.

python onnx_export.py -n NAME                      the generator, for programs that run such graphs
python onnx_export.py -n NAME --parts encoder f0   what inference_main.py --onnx checkpoints/NAME needs besides
"""

from __future__ import annotations

import argparse
import sys

from modules.cli import make_parser, run
from modules.onnx.options import PARTS, ExportOptions
from modules.options import add_arguments, from_namespace


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser("Write a model as ONNX graphs.")
    add_arguments(parser, ExportOptions)
    return parser


def export_model(args: argparse.Namespace) -> int:
    """Export the generator and the parts that were asked for."""
    from modules.onnx.export.exporter import Exporter

    options = from_namespace(ExportOptions, args)
    wanted = dict.fromkeys(PARTS[:-1] if "all" in options.parts else options.parts)
    exporter = Exporter(options.root, options.model_name, options.pretrain, options.half)
    exporter.export_generator()
    for part in wanted:
        exporter.export_part(part, forgiving="all" in options.parts)
    exporter.finish()
    for line in exporter.report:
        print(line)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return run(export_model, build_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
