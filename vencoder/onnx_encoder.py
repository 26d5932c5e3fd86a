"""Speech encoders in ONNX files: one waveform [1, 1, samples] in, units [1, frames, width] out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modules.errors import UserError
from vencoder.encoder import HOP_LENGTH, Precision, SpeechEncoder, Window

FIELD = 400  # samples that one frame sees
SILENCE = 16000  # samples that are encoded once to learn the width


class OnnxEncoder(SpeechEncoder):
    """Runs the graph through onnxruntime, on CUDA where its provider is there and was asked for.

    Args:
        path: the .onnx file.
        pads: the graph puts 40 zeros on both sides itself, as HubertSoft does, so that samples // 320 frames come.
    """

    def __init__(self, path: Path, device: str = "cpu", precision: Precision = "auto", pads: bool = False) -> None:
        super().__init__(device, precision)
        self.path, self.pads = path, pads
        self.session = open_session(path, self.device)
        self.input = self.session.get_inputs()[0].name
        self.output = self.session.get_outputs()[0].name
        self.width = self._run(torch.zeros(SILENCE)).shape[-1]

    @classmethod
    def _from_file(
        cls, path: Path, device: str = "cpu", precision: Precision = "auto", pads: bool = False
    ) -> OnnxEncoder:
        """Load an .onnx file; its own precision is what it runs in."""
        return cls(path, device, precision, pads)

    def frames(self, samples: int) -> int:
        return max(1, samples // HOP_LENGTH if self.pads else (samples - FIELD) // HOP_LENGTH + 1)

    def prepare(self, audio: Tensor) -> Tensor:
        return audio.cpu()

    def encode_windows(self, windows: Sequence[Window]) -> Tensor:
        return torch.cat([self._window(window) for window in windows]).to(self.device)

    def _window(self, window: Window) -> Tensor:
        frames = window.stop - window.start
        start = window.start * HOP_LENGTH
        samples = frames * HOP_LENGTH if self.pads else (frames - 1) * HOP_LENGTH + FIELD
        audio = window.clip[start:]
        if self.frames(len(audio)) > frames:  # the last window keeps the samples that fill no frame
            audio = audio[:samples]
        units = self._run(audio)
        if units.shape[1] != frames:
            raise UserError(
                f"the graph gives {units.shape[1]} frames for {len(audio)} samples, {frames} are expected",
                self.path,
                "use the graph that belongs to this encoder",
            )
        return units

    def _run(self, audio: Tensor) -> Tensor:
        try:
            (units,) = self.session.run([self.output], {self.input: audio.numpy()[None, None]})
        except Exception as error:  # onnxruntime's errors share no base class but Exception
            raise UserError(f"the graph does not run: {error}", self.path, "get the file again") from None
        if not isinstance(units, np.ndarray) or units.ndim != 3:
            raise UserError("the graph gives no units [1, frames, width]", self.path, "use an encoder's graph")
        return torch.from_numpy(units.astype(np.float32, copy=False))


def open_session(path: Path, device: torch.device) -> Any:
    """An onnxruntime session for ``path``.

    Raises:
        UserError: the file is not a graph that onnxruntime reads.
    """
    import onnxruntime

    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors; its warnings are about graph details
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's errors share no base class but Exception
        reason = str(error).splitlines()[0]
        raise UserError(f"cannot read the ONNX file: {reason}", path, "get the file again") from None
