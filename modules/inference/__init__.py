"""Converting songs to another voice, from Python::

    from pathlib import Path

    from modules.inference import InferenceOptions, ModelOptions, Svc

    svc = Svc.load(ModelOptions(model_path=Path("logs/44k/G_1.pth"), config_path=Path("logs/44k/config.json")))
    print(svc.speakers)  # name -> id
    options = InferenceOptions(trans=2.0, f0_predictor="fcpe")
    report = svc.convert_file(Path("raw/song.wav"), Path("results/song.flac"), "alice", options)
    print(report.seconds, report.warnings)

``ModelOptions`` and ``InferenceOptions`` have a field for each flag of inference_main.py, and its defaults;
``ModelOptions(onnx=folder)`` converts without torch. ``Svc.convert`` takes and gives arrays. What a user can cause is
raised as modules.errors.UserError.

Importing this package is cheap; what converts is imported when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modules.inference.options import InferenceOptions, ModelOptions
from modules.lazy import lazy_names

if TYPE_CHECKING:
    from modules.inference.speaker_mix import SpeakerMix
    from modules.inference.svc import Cancelled, Report, Svc

__all__ = ["Cancelled", "InferenceOptions", "ModelOptions", "Report", "SpeakerMix", "Svc"]

__getattr__ = lazy_names(
    __name__,
    {
        "Cancelled": "modules.inference.svc",
        "Report": "modules.inference.svc",
        "SpeakerMix": "modules.inference.speaker_mix",
        "Svc": "modules.inference.svc",
    },
)
