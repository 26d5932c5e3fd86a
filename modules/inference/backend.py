"""Torch or ONNX: the one place that chooses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from modules.inference.options import ModelOptions

if TYPE_CHECKING:
    from modules.inference.voice import Networks


def open_networks(options: ModelOptions, pretrain_dir: Path) -> Networks:
    """The networks that the options name: graphs of a folder where one is given, else torch's.

    Raises:
        UserError: a file is missing or broken.
    """
    if options.onnx is not None:
        from modules.onnx.networks import OnnxNetworks

        return OnnxNetworks(options.onnx, options.device)
    from modules.inference.networks import TorchNetworks

    return TorchNetworks(options, pretrain_dir)
