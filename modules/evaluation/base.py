"""What all measures of quality share: the figures they give, the pair they take, and how they say that they cannot."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from modules.evaluation.recording import Encode, Recording
    from modules.evaluation.voices import Voices
    from modules.f0 import F0Predictor

NAN = float("nan")

Better = Literal["higher", "lower"]


class NotMeasured(Exception):
    """A measure cannot be taken here; its text tells the user what to do about it."""


@dataclass(frozen=True)
class Figure:
    """A number that a measure gives for each pair.

    Attributes:
        key: its name in the JSON file.
        title: its name in tables.
        unit: empty for a plain ratio; ``%`` is shown of a share between 0 and 1.
        better: which way is good; None where the figure only helps to read another one.
        source: who defined it.
        digits: after the decimal point, in tables.
    """

    key: str
    title: str
    unit: str
    better: Better | None
    source: str
    digits: int = 3

    def show(self, value: float | None) -> str:
        """The value for a table."""
        if value is None or not math.isfinite(value):
            return "–"
        return f"{100 * value:.1f} %" if self.unit == "%" else f"{value:.{self.digits}f}"


@dataclass(frozen=True)
class Baseline:
    """What a figure comes to on the recordings themselves, to read it by."""

    key: str
    title: str
    of: str  # key of the figure that it belongs to
    mean: float
    lowest: float
    highest: float
    count: int


@dataclass(frozen=True)
class Pair:
    """A source and what a model, ours or another program, made of it.

    Attributes:
        source_speaker: who sings or speaks the source; empty where nobody says.
        target: whose voice it should be.
        semitones: by which the melody was moved on purpose; None takes the nearest whole semitone.
        text: what is sung or spoken in the source, where that is known.
        seconds: the conversion took; None where it was done elsewhere.
    """

    source: Path
    output: Path
    target: str
    source_speaker: str = ""
    semitones: float | None = None
    text: str | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Case:
    """A pair as the measures see it."""

    pair: Pair
    source: Recording
    output: Recording
    semitones: float


@dataclass(frozen=True)
class Tools:
    """What measures may need besides the pair.

    Attributes:
        reference_predictor: finds f0 of both sides, for every measure that compares f0.
        voices: recordings of the speakers.
        encode: the speech encoder of the model that is measured; None where there is none.
        language: of the words, as Whisper names it (en, ja); None lets Whisper find out which one each source has.
    """

    reference_predictor: F0Predictor
    voices: Voices
    device: str = "cpu"
    pretrain_dir: Path = Path("pretrain")
    encode: Encode | None = None
    language: str | None = None


@dataclass(frozen=True)
class Measured:
    """What a measure found for a pair: a number for each of its figures, and words where there are any."""

    values: Mapping[str, float]
    notes: Mapping[str, str] = field(default_factory=dict)


class Metric(ABC):
    """One measure. Making it loads what it needs; raises NotMeasured where that is missing."""

    figures: ClassVar[tuple[Figure, ...]]

    def __init__(self, tools: Tools) -> None:
        self.tools = tools

    @abstractmethod
    def measure(self, case: Case) -> Measured:
        """The figures of a pair; NaN where it does not have one."""

    def baselines(self) -> list[Baseline]:
        """What the figures come to on the recordings of the speakers."""
        return []
