"""How good a conversion is: one file a measure, one registry. Importing this package is cheap."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from modules.errors import UserError
from modules.lazy import lazy_names

if TYPE_CHECKING:
    from modules.evaluation.base import Case, Metric, NotMeasured, Pair, Tools
    from modules.evaluation.measure import Evaluator, Results, Scored
    from modules.evaluation.recording import RATE, Recording
    from modules.evaluation.voices import Voices

__all__ = [
    "METRICS",
    "RATE",
    "Case",
    "Evaluator",
    "Metric",
    "NotMeasured",
    "Pair",
    "Recording",
    "Results",
    "Scored",
    "Tools",
    "Voices",
    "metric_class",
]

METRICS: dict[str, str] = {
    "speaker": "modules.evaluation.speaker:SpeakerSimilarity",
    "melody": "modules.evaluation.melody:MelodyAgreement",
    "words": "modules.evaluation.words:Words",
    "units": "modules.evaluation.units:UnitDistance",
    "naturalness": "modules.evaluation.naturalness:Naturalness",
    "loudness": "modules.evaluation.loudness:LoudnessError",
    "clipping": "modules.evaluation.clipping:Clipping",
    "silence": "modules.evaluation.silence:Silence",
    "timing": "modules.evaluation.timing:Timing",
}


def metric_class(name: str) -> type[Metric]:
    """The measure of the registry. Raises UserError where there is none of that name."""
    if name not in METRICS:
        raise UserError(f"there is no measure {name!r}", "--metrics", f"use some of: {', '.join(METRICS)}")
    module, _, attribute = METRICS[name].partition(":")
    found: type[Metric] = getattr(importlib.import_module(module), attribute)
    return found


__getattr__ = lazy_names(
    __name__,
    {
        **dict.fromkeys(("Case", "Metric", "NotMeasured", "Pair", "Tools"), "modules.evaluation.base"),
        **dict.fromkeys(("Evaluator", "Results", "Scored"), "modules.evaluation.measure"),
        **dict.fromkeys(("RATE", "Recording"), "modules.evaluation.recording"),
        "Voices": "modules.evaluation.voices",
    },
)
