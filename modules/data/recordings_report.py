"""What a folder of recordings holds before anything is made of it: how much, how high, how loud, and what is wrong.

The figures are those that decide whether a voice trains well; the problems are those that users of such tools find
out about after a night of training. modules/data/recordings_measure.py measures them.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from modules.errors import UserError, printable
from modules.text_formats import parse_json

_BINS_A_SEMITONE = 4
_LOWEST_NOTE = 24  # MIDI; 32.7 Hz
_N_BINS = 84 * _BINS_A_SEMITONE  # to MIDI 108

# What each kind of problem means; {} is its detail. The first ones make a file useless.
UNUSABLE = {
    "unreadable": "cannot be used: {}",
    "not_finite": "holds {} samples that are not numbers; export it again",
    "silent": "holds nothing but silence",
    "too_short": "is only {} long; clips under 0.3 s are left out",
}
DOUBTFUL = {
    "duplicate": "has the same content as {}; keep one of them",
    "out_of_phase": "its channels cancel each other: the mono mix is {} quieter; turn the phase of one channel",
    "clipped": "is clipped ({} of its samples); record with less gain",
    "quiet": "is very quiet ({}); its noise rises with it",
    "noisy": "is noisy: only {} between the voice and the background",
    "low_rate": "has a sampling rate of {}: its high frequencies are missing and will be so in the voice",
    "mostly_silent": "is mostly silence ({})",
    "unvoiced": "has hardly any pitch ({} of the sound); is it a voice alone?",
}
OF_SPEAKER = {
    "little_sound": "only {} of sound; ten minutes do, half an hour is better",
    "uneven": "the files differ in loudness by {}; --loudnorm lufs evens them out",
}
MEANINGS = {**UNUSABLE, **DOUBTFUL, **OF_SPEAKER}


@dataclass(frozen=True)
class Problem:
    """Something to look at: a key of MEANINGS, and the figure or name that goes into its text."""

    kind: str
    detail: str = ""

    def __str__(self) -> str:
        return MEANINGS[self.kind].format(self.detail)


@dataclass(frozen=True)
class PitchCounts:
    """How often each pitch was sung, in quarter semitones from 32.7 Hz on; counts add up over files."""

    counts: tuple[int, ...] = (0,) * _N_BINS

    @classmethod
    def of(cls, f0: np.ndarray) -> PitchCounts:
        """From f0 [T] in Hz; 0 is unvoiced."""
        voiced = f0[f0 > 0]
        notes = 69 + 12 * np.log2(voiced / 440) - _LOWEST_NOTE
        bins = np.clip(np.round(notes * _BINS_A_SEMITONE), 0, _N_BINS - 1).astype(int)
        return cls(tuple(np.bincount(bins, minlength=_N_BINS).tolist()))

    def __add__(self, other: PitchCounts) -> PitchCounts:
        return PitchCounts(tuple(a + b for a, b in zip(self.counts, other.counts, strict=True)))

    @property
    def frames(self) -> int:
        """Voiced frames in all."""
        return sum(self.counts)

    def quantile(self, share: float) -> float:
        """The pitch in Hz under which ``share`` (0 to 1) of the voiced frames lie; 0 where nothing is voiced."""
        if not self.frames:
            return 0.0
        index = int(np.searchsorted(np.cumsum(self.counts), share * self.frames))
        note = _LOWEST_NOTE + min(index, _N_BINS - 1) / _BINS_A_SEMITONE
        return float(440 * 2 ** ((note - 69) / 12))

    @property
    def range(self) -> tuple[float, float, float]:
        """Hz: below which 5 %, 50 % and 95 % of the voice lie."""
        return self.quantile(0.05), self.quantile(0.5), self.quantile(0.95)


@dataclass(frozen=True)
class FileReport:
    """A recording. Levels are dB of full scale; figures of a file that cannot be read are 0."""

    path: Path
    speaker: str
    seconds: float = 0.0
    sample_rate: int = 0  # Hz
    channels: int = 0
    peak_db: float = -math.inf
    lufs: float = -math.inf
    clipped_share: float = 0.0
    silence_share: float = 0.0
    noise_floor_db: float = -math.inf
    snr_db: float = math.inf  # loud frames over the quietest; with no pause in it, a file seems noisier than it is
    clips: int = 0  # that resample.py --slice makes of it, about
    pitch: PitchCounts = field(default_factory=PitchCounts, repr=False)
    digest: str = ""
    problems: tuple[Problem, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether training gets anything from it."""
        return not any(problem.kind in UNUSABLE for problem in self.problems)

    @property
    def sound_seconds(self) -> float:
        """Seconds without the silences."""
        return self.seconds * (1 - self.silence_share) if self.usable else 0.0


@dataclass(frozen=True)
class SpeakerReport:
    """All recordings of a speaker."""

    name: str
    files: tuple[FileReport, ...]
    problems: tuple[Problem, ...] = ()

    @property
    def seconds(self) -> float:
        """Of the usable files."""
        return sum(file.seconds for file in self.files if file.usable)

    @property
    def sound_seconds(self) -> float:
        """Of the usable files, without their silences."""
        return sum(file.sound_seconds for file in self.files)

    @property
    def clips(self) -> int:
        """That resample.py --slice makes, about."""
        return sum(file.clips for file in self.files if file.usable)

    @property
    def pitch(self) -> PitchCounts:
        """Of all usable files."""
        return sum((file.pitch for file in self.files if file.usable), PitchCounts())

    @property
    def lufs(self) -> float:
        """The mean loudness of the usable files, by their energy; -inf where there are none."""
        return mean_lufs([(file.lufs, file.seconds) for file in self.files if file.usable])

    @property
    def silence_share(self) -> float:
        """Of the usable files."""
        return 1 - self.sound_seconds / self.seconds if self.seconds else 0.0

    @property
    def sample_rates(self) -> dict[int, int]:
        """Rate in Hz to the number of files."""
        return dict(sorted(Counter(file.sample_rate for file in self.files if file.sample_rate).items()))


@dataclass(frozen=True)
class RecordingsReport:
    """A folder of speakers."""

    folder: Path
    speakers: tuple[SpeakerReport, ...]
    left_out: tuple[tuple[Path, str], ...] = ()  # what is no recording, and why

    @property
    def files(self) -> list[FileReport]:
        """All recordings."""
        return [file for speaker in self.speakers for file in speaker.files]

    def to_json(self) -> str:
        """All of it; null stands for a level of silence and for an endless distance to the noise."""
        content = {
            "folder": self.folder.as_posix(),
            "speakers": [_speaker_values(speaker) for speaker in self.speakers],
            "left_out": [{"path": printable(path.as_posix()), "reason": why} for path, why in self.left_out],
        }
        return json.dumps(_finite(content), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> RecordingsReport:
        """What to_json wrote. Raises UserError where it is something else."""
        try:
            content = parse_json(text)
            speakers = tuple(_speaker_from(values) for values in content["speakers"])
            left_out = tuple((Path(row["path"]), str(row["reason"])) for row in content["left_out"])
            return cls(Path(content["folder"]), speakers, left_out)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
            raise UserError(f"this is no report on recordings: {error!r}", "", "make the report again") from None


def _speaker_values(speaker: SpeakerReport) -> dict[str, object]:
    return {
        "name": speaker.name,
        "seconds": speaker.seconds,
        "sound_seconds": speaker.sound_seconds,
        "clips": speaker.clips,
        "f0_hz": _range_values(speaker.pitch),
        "lufs": speaker.lufs,
        "silence_share": speaker.silence_share,
        "sample_rates": speaker.sample_rates,
        "problems": [asdict(problem) for problem in speaker.problems],
        "files": [_file_values(file) for file in speaker.files],
    }


def _file_values(file: FileReport) -> dict[str, object]:
    counts = enumerate(file.pitch.counts)
    frames = {f"{_LOWEST_NOTE + index / _BINS_A_SEMITONE:g}": count for index, count in counts if count}
    values = {name: value for name, value in asdict(file).items() if name != "pitch"}
    return {**values, "path": file.path.as_posix(), "f0_hz": _range_values(file.pitch), "frames_by_midi_note": frames}


def _range_values(pitch: PitchCounts) -> dict[str, float]:
    return dict(zip(("5%", "50%", "95%"), pitch.range, strict=True))


def _speaker_from(values: dict[str, Any]) -> SpeakerReport:
    files = tuple(_file_from(file) for file in values["files"])
    return SpeakerReport(str(values["name"]), files, tuple(Problem(**problem) for problem in values["problems"]))


def _file_from(values: dict[str, Any]) -> FileReport:
    counts = [0] * _N_BINS
    for note, count in values["frames_by_midi_note"].items():
        counts[round((float(note) - _LOWEST_NOTE) * _BINS_A_SEMITONE)] = int(count)
    missing: dict[str, Any] = {"peak_db": -math.inf, "lufs": -math.inf, "noise_floor_db": -math.inf, "snr_db": math.inf}
    plain = {field.name for field in fields(FileReport)} - {"path", "pitch", "problems"}
    return FileReport(
        path=Path(values["path"]),
        pitch=PitchCounts(tuple(counts)),
        problems=tuple(Problem(**problem) for problem in values["problems"]),
        **{name: missing[name] if values[name] is None else values[name] for name in plain},
    )


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def mean_lufs(parts: Sequence[tuple[float, float]]) -> float:
    """The loudness of (LUFS, seconds) pairs together: their energies averaged, silent ones left out."""
    audible = [(lufs, seconds) for lufs, seconds in parts if lufs > -70]
    if not audible:
        return -math.inf
    if len(audible) == 1:
        return audible[0][0]
    energy = sum(10 ** (lufs / 10) * seconds for lufs, seconds in audible)
    return 10 * math.log10(energy / sum(seconds for _, seconds in audible))


def table_rows(report: RecordingsReport) -> Iterator[tuple[str, ...]]:
    """One row a speaker, as people read it: see TABLE_TITLES."""
    for speaker in report.speakers:
        low, middle, high = speaker.pitch.range
        rates = [f"{rate / 1000:g}" for rate in speaker.sample_rates]
        clipped = sum(any(problem.kind == "clipped" for problem in file.problems) for file in speaker.files)
        snr = [file.snr_db for file in speaker.files if file.usable and math.isfinite(file.snr_db)]
        yield (
            speaker.name,
            str(len(speaker.files)),
            f"{speaker.seconds / 60:.1f}",
            f"{speaker.sound_seconds / 60:.1f}",
            str(speaker.clips),
            f"{low:.0f} - {middle:.0f} - {high:.0f}" if middle else "-",
            f"{speaker.lufs:.1f}" if math.isfinite(speaker.lufs) else "-",
            f"{speaker.silence_share:.0%}",
            str(clipped),
            f"{np.median(snr):.0f}" if snr else "-",
            ", ".join(rates) or "-",
        )


TABLE_TITLES = (
    "speaker",
    "files",
    "minutes",
    "of sound",
    "clips",
    "f0 low - mid - high, Hz",
    "LUFS",
    "silence",
    "clipped",
    "over noise, dB",
    "kHz",
)


@dataclass(frozen=True)
class ProblemGroup:
    """The same kind of problem in one or more files of a speaker; ``files`` is empty where it is the speaker's own."""

    speaker: str
    kind: str
    files: tuple[str, ...]
    details: tuple[str, ...]  # of each file, or the speaker's one

    def __str__(self) -> str:
        text = MEANINGS[self.kind].format(self.details[0])
        if not self.files:
            return f"{self.speaker}: {text}"
        more = f", and {len(self.files) - 1} more like it" if len(self.files) > 1 else ""
        return f"{self.speaker}/{self.files[0]} {text}{more}"


def problem_groups(report: RecordingsReport) -> list[ProblemGroup]:
    """All problems, those that make a file useless first."""
    groups = []
    for speaker in report.speakers:
        kinds: dict[str, list[tuple[str, str]]] = {}
        for file in speaker.files:
            for problem in file.problems:
                kinds.setdefault(problem.kind, []).append((file.path.name, problem.detail))
        for kind, rows in kinds.items():
            names, details = zip(*rows, strict=True)
            groups.append(ProblemGroup(speaker.name, kind, names, details))
        groups += [ProblemGroup(speaker.name, own.kind, (), (own.detail,)) for own in speaker.problems]
    order = list(MEANINGS)
    return sorted(groups, key=lambda group: order.index(group.kind))


def print_report(report: RecordingsReport) -> None:
    """The table of speakers and the problems, for a terminal."""
    import sys

    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for index, title in enumerate(TABLE_TITLES):
        table.add_column(title, justify="right" if index else "left", no_wrap=True)
    for row in table_rows(report):
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    groups = [str(group) for group in problem_groups(report)] + [f"{path}: {why}" for path, why in report.left_out]
    print("\nproblems:", *(groups or ["none"]), sep="\n  ")
