"""The speech encoders: one registry, cheap to import; an encoder's class is loaded when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from modules.errors import UserError
from modules.lazy import lazy_names
from pretrain import require
from pretrain.weights import BY_NAME

if TYPE_CHECKING:
    from vencoder.encoder import SpeechEncoder

__all__ = ["ENCODERS", "EncoderSpec", "SpeechEncoder", "encoder_spec", "get_encoder"]


@dataclass(frozen=True)
class EncoderSpec:
    """What is known of an encoder without loading it.

    Attributes:
        name: as in configs and on command lines.
        width: channels of its units; ssl_dim of the models trained on them.
        weight: its entry in the table of pretrain/.
        class_path: module:Class; the class is built by ``from_file(path, device, precision, **options)``.
        options: what tells encoders of one class apart.
        edge: samples at the end of a clip that begin no frame of their own.
    """

    name: str
    width: int
    weight: str
    class_path: str
    options: Mapping[str, Any] = field(default_factory=dict)
    edge: int = 80

    def frames(self, samples: int) -> int:
        """How many units a clip of ``samples`` samples at 16 kHz gives: 50 a second, at least one."""
        return max(1, (samples - self.edge) // 320)

    @property
    def file(self) -> str:
        """The weights file under pretrain/."""
        return BY_NAME[self.weight].file


_HUBERT = "vencoder.hubert:HubertEncoder"
_ONNX = "vencoder.onnx_encoder:OnnxEncoder"
_WHISPER = "vencoder.whisper:WhisperEncoder"

ENCODERS: dict[str, EncoderSpec] = {
    spec.name: spec
    for spec in (
        EncoderSpec("vec768l12", 768, "contentvec", _HUBERT, {"layer": 12}),
        EncoderSpec("vec256l9", 256, "contentvec", _HUBERT, {"layer": 9, "project": True}),
        EncoderSpec("hubertsoft", 256, "hubertsoft", "vencoder.hubert_soft:HubertSoftEncoder", edge=0),
        # the two of 4.1 keep its 30 s passes, for the models that were trained on them
        EncoderSpec("whisper-ppg", 1024, "whisper-medium", _WHISPER, {"padded": True}, edge=0),
        EncoderSpec("whisper-ppg-large", 1280, "whisper-large-v2", _WHISPER, {"padded": True}, edge=0),
        EncoderSpec("whisper-ppg-small", 768, "whisper-small", _WHISPER, edge=0),
        EncoderSpec("whisper-ppg-base", 512, "whisper-base", _WHISPER, edge=0),
        EncoderSpec("whisper-ppg-tiny", 384, "whisper-tiny", _WHISPER, edge=0),
        EncoderSpec("whisper-ppg-tiny.en", 384, "whisper-tiny.en", _WHISPER, edge=0),
        EncoderSpec("cnhubertlarge", 1024, "cnhubertlarge", _HUBERT),
        EncoderSpec("dphubert", 768, "dphubert", "vencoder.dphubert:DphubertEncoder"),
        EncoderSpec("wavlmbase+", 768, "wavlmbase+", "vencoder.wavlm:WavlmEncoder"),
        EncoderSpec("vec256l9-onnx", 256, "vec256l9-onnx", _ONNX),
        EncoderSpec("vec256l12-onnx", 256, "vec256l12-onnx", _ONNX),
        EncoderSpec("vec768l9-onnx", 768, "vec768l9-onnx", _ONNX),
        EncoderSpec("vec768l12-onnx", 768, "vec768l12-onnx", _ONNX),
        EncoderSpec("hubertsoft-onnx", 256, "hubertsoft-onnx", _ONNX, {"pads": True}, edge=0),
    )
}


def get_encoder(
    name: str,
    device: str = "cpu",
    pretrain_dir: Path = Path("pretrain"),
    precision: Literal["auto", "fp32"] = "auto",
) -> SpeechEncoder:
    """Load the encoder ``name``.

    Raises:
        UserError: there is no such encoder, its weights are missing, or they are of another model.
    """
    spec = encoder_spec(name)
    path = require(spec.weight, pretrain_dir)
    module, _, attribute = spec.class_path.partition(":")
    encoder_class = getattr(importlib.import_module(module), attribute)
    encoder: SpeechEncoder = encoder_class.from_file(path, device, precision, **spec.options)
    if encoder.width != spec.width:
        raise UserError(
            f"these weights give units of width {encoder.width}, {name} has {spec.width}",
            path,
            f"use the weights that belong to {name}",
        )
    return encoder


def encoder_spec(name: str) -> EncoderSpec:
    """The registry's entry.

    Raises:
        UserError: there is no such encoder.
    """
    if name not in ENCODERS:
        raise UserError(f"there is no speech encoder {name}", "speech_encoder", f"choose from: {', '.join(ENCODERS)}")
    return ENCODERS[name]


__getattr__ = lazy_names(__name__, {"SpeechEncoder": "vencoder.encoder"})
