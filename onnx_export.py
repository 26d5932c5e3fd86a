"""Write a model as ONNX graphs: checkpoints/NAME/{model.pth, config.json} to checkpoints/NAME/NAME_SoVits.onnx.

python onnx_export.py -n NAME                      the generator, for programs that run such graphs
python onnx_export.py -n NAME --parts encoder f0   what inference_main.py --onnx checkpoints/NAME needs besides
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from modules.cli import make_parser, run

PARTS = ("encoder", "f0", "rmvpe", "fcpe", "crepe", "auto-f0", "diffusion", "vocoder", "cluster", "retrieval", "all")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = make_parser("Write a model as ONNX graphs.")
    parser.add_argument("-n", "--model_name", required=True, help="folder under --root with model.pth, config.json")
    parser.add_argument("--root", type=Path, default=Path("checkpoints"), help="the folder of the models")
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=[],
        help="what to export besides the generator: its speech encoder; f0 predictors (f0: all that are there); its "
        "own pitch (-a); the diffusion model (diffusion.pt, diffusion.yaml) with its vocoder; the vocoder alone "
        "(--enhance); k-means centres (kmeans_10000.pt); the feature index (feature_and_index)",
    )
    parser.add_argument("-hf", "--half", action="store_true", help="most of the arithmetic in float16, for GPUs")
    parser.add_argument("--pretrain", type=Path, default=Path("pretrain"), help="the folder of the pretrained weights")
    return parser


def export_model(args: argparse.Namespace) -> int:
    """Export the generator and the parts that were asked for."""
    from modules.onnx.export.exporter import Exporter

    wanted = dict.fromkeys(PARTS[:-1] if "all" in args.parts else args.parts)
    exporter = Exporter(args.root, args.model_name, args.pretrain, args.half)
    exporter.export_generator()
    for part in wanted:
        exporter.export_part(part, forgiving="all" in args.parts)
    exporter.finish()
    for line in exporter.report:
        print(line)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return run(export_model, build_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
