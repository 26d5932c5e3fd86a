"""What all measures of quality share: the figures they give, the pair they judge, and how they say that they cannot."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import numpy as np

from modules.audio.io import load_audio
from modules.audio.resample import resample
from modules.f0 import F0Contour, F0Predictor

if TYPE_CHECKING:
    from modules.evaluation.voices import Voices

RATE = 44100  # Hz, of everything that is judged
SPEECH_RATE = 16000  # Hz, of what the judging networks hear
HOP = 512  # samples a frame at RATE
NAN = float("nan")

Better = Literal["higher", "lower"]
Encode = Callable[[np.ndarray], np.ndarray]  # audio [T] at RATE to units [dim, F]
T = TypeVar("T")


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
        if value is None or not np.isfinite(value):
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


class Recording:
    """Audio that several measures hear; what one of them computes from it, the others need not compute again.

    Args:
        audio: float32 [T] at RATE.
        name: for messages.
    """

    def __init__(self, audio: np.ndarray, name: str = "") -> None:
        self.audio = np.asarray(audio, dtype=np.float32)
        self.name = name
        self._memo: dict[str, Any] = {}

    @classmethod
    def load(cls, path: Path, seconds: float | None = None) -> Recording:
        """A file as mono at RATE, its first ``seconds`` where given. Raises UserError as load_audio."""
        audio, _ = load_audio(path, RATE)
        return cls(audio if seconds is None else audio[: round(seconds * RATE)], str(path))

    @property
    def seconds(self) -> float:
        """Length."""
        return len(self.audio) / RATE

    @property
    def speech(self) -> np.ndarray:
        """float32 [T] at SPEECH_RATE."""
        return self.remember("speech", lambda: resample(self.audio, RATE, SPEECH_RATE))

    def contour(self, judge: F0Predictor) -> F0Contour:
        """f0 by ``judge``, a frame each HOP samples."""
        return self.remember(f"f0/{id(judge)}", lambda: judge(self.audio))

    def remember(self, key: str, compute: Callable[[], T]) -> T:
        """The value under ``key``, computed the first time it is asked for."""
        if key not in self._memo:
            self._memo[key] = compute()
        value: T = self._memo[key]
        return value


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
        judge: finds f0 of both sides.
        voices: recordings of the speakers.
        encode: the speech encoder of the model that is judged; None where there is none.
        language: of the words, as Whisper names it (en, ja); None lets Whisper hear which one each source has.
    """

    judge: F0Predictor
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
