"""How good a conversion is: one file a measure, one registry. Importing this package is cheap."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from modules.errors import UserError

if TYPE_CHECKING:
    from modules.evaluation.base import Metric

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
