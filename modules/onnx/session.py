"""A graph ready to run: the fastest provider there is, and errors that name the file and the input."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from modules.errors import UserError
from modules.onnx.manifest import EXPORT

CPU = "CPUExecutionProvider"
# By the name of the device, in the order of preference. TensorRT is left out: it builds an engine for every length.
PROVIDERS = {
    "cuda": "CUDAExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "dml": "DmlExecutionProvider",
    "cpu": CPU,
}


class Session:
    """One graph.

    Args:
        path: of the graph.
        inputs: names that it has to have, no more and no fewer; optional ones need not be among them.
        device: see providers.
    """

    def __init__(self, path: Path, inputs: Collection[str], device: str | None = None) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS") or 0)  # 0: one a core
        options.log_severity_level = 3
        chosen = providers(device)
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=chosen)
        except Exception as error:  # onnxruntime has a class of its own for every kind of damage
            reason = str(error).splitlines()[0][:200]
            raise UserError(f"onnxruntime cannot load the graph ({reason})", path, EXPORT) from None
        self.path = path
        found = {value.name for value in self._session.get_inputs()}
        if found != set(inputs):
            raise UserError(
                f"the graph takes the inputs {_listed(found)}; expected are {_listed(inputs)}",
                path,
                "use the graph that belongs to this folder's parts.json, or " + EXPORT,
            )
        self.optional = {value.name for value in self._session.get_overridable_initializers()}

    def __call__(self, **inputs: np.ndarray) -> np.ndarray:
        """The first output."""
        return self._session.run(None, inputs)[0]

    def width(self, name: str, axis: int) -> Any:
        """The size of an axis of an input; a text where it is free."""
        return next(value.shape[axis] for value in self._session.get_inputs() if value.name == name)


def providers(device: str | None = None) -> list[Any]:
    """The execution providers of a device: cpu, cuda, cuda:1, rocm, dml; None is the best there is.

    Raises:
        UserError: this onnxruntime has none for that device.
    """
    there = onnxruntime.get_available_providers()
    if device is None:
        return [name for name in PROVIDERS.values() if name in there]
    kind, _, index = device.partition(":")
    name = PROVIDERS.get(kind)
    if name not in there or not (index.isdecimal() or not index):
        offered = ", ".join(kind for kind, name in PROVIDERS.items() if name in there)
        raise UserError(
            f"this onnxruntime cannot run on {device!r}",
            "--device",
            f"use {offered}, or install the onnxruntime of your device (onnxruntime-gpu, onnxruntime-directml)",
        )
    if name == CPU:
        return [CPU]
    return [(name, {"device_id": index or "0"}), CPU]


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names))
