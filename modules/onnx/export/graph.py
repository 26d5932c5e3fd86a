"""A module of torch to a checked and simplified ONNX file."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import onnxslim
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from modules.files import atomic_path

OPSET = 17
LARGEST_FILE = 1_900_000_000  # bytes; protobuf ends at 2 GiB, what is larger keeps its weights in a second file


@dataclass(frozen=True)
class Input:
    """An input of a graph.

    Attributes:
        example: to trace with.
        dynamic: axis -> name, of the axes that may have any length.
        default: callers may leave the input out; it then is the example.
    """

    example: Tensor
    dynamic: Mapping[int, str] = field(default_factory=dict)
    default: bool = False


@dataclass(frozen=True)
class Graph:
    """What is to be exported.

    Attributes:
        inputs: in the order of the module's arguments; None: the module gets None.
        outputs: name -> the axes that may have any length.
    """

    module: nn.Module
    inputs: Mapping[str, Input | None]
    outputs: Mapping[str, Mapping[int, str]]


def export(graph: Graph, path: Path, metadata: Mapping[str, str] | None = None) -> onnx.ModelProto:
    """Write ``graph`` to ``path``, atomically.

    Args:
        metadata: text that the file carries.

    Returns:
        The model as it was written.
    """
    model = onnxslim.slim(_trace(graph))
    for name, given in graph.inputs.items():
        if given is not None and given.default:
            model.graph.initializer.append(numpy_helper.from_array(given.example.numpy(), name))
    model.producer_name = "singing-voice-conversion"
    onnx.helper.set_model_props(model, dict(metadata or {}))
    save(model, path)
    return model


def save(model: onnx.ModelProto, path: Path, largest: int = LARGEST_FILE) -> None:
    """Check and write a model; a large one keeps its weights in ``<name>.data`` beside it."""
    if model.ByteSize() < largest:
        onnx.checker.check_model(model, full_check=True)
        with atomic_path(path) as temporary:
            onnx.save(model, temporary)
        return
    weights = path.with_name(path.name + ".data")
    weights.unlink(missing_ok=True)  # onnx appends to what is there
    onnx.save(model, path, save_as_external_data=True, location=weights.name)
    onnx.checker.check_model(path, full_check=True)


def _trace(graph: Graph) -> onnx.ModelProto:
    inputs = {name: given for name, given in graph.inputs.items() if given is not None}
    arguments = tuple(None if given is None else given.example for given in graph.inputs.values())
    axes = {name: dict(given.dynamic) for name, given in inputs.items() if given.dynamic}
    axes |= {name: dict(free) for name, free in graph.outputs.items()}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing warns of every comparison of lengths; tests try other lengths
        path = Path(folder) / "traced.onnx"
        torch.onnx.export(
            graph.module.eval(),
            arguments,
            str(path),
            input_names=list(inputs),
            output_names=list(graph.outputs),
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
        return onnx.load(path)
