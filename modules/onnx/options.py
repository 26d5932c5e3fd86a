"""What onnx_export.py is told. Importing this module is cheap."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modules.options import setting

PARTS = ("encoder", "f0", "rmvpe", "fcpe", "crepe", "auto-f0", "diffusion", "vocoder", "cluster", "retrieval", "all")


@dataclass(frozen=True)
class ExportOptions:
    """Which graphs are written."""

    model_name: str = setting(
        "", "-n", "--model_name", help="folder under --root with model.pth, config.json", required=True
    )
    root: Path = setting(Path("checkpoints"), "--root", help="the folder of the models")
    parts: tuple[str, ...] = setting(
        (),
        "--parts",
        help="what to export besides the generator: its speech encoder; f0 predictors (f0: all that are there); its "
        "own pitch (-a); the diffusion model (diffusion.pt, diffusion.yaml) with its vocoder; the vocoder alone "
        "(--enhance); k-means centres (kmeans_10000.pt); the feature index (feature_and_index)",
        many=True,
        choices=PARTS,
    )
    half: bool = setting(False, "-hf", "--half", help="most of the arithmetic in float16, for GPUs")
    pretrain: Path = setting(Path("pretrain"), "--pretrain", help="the folder of the pretrained weights")
