"""Measures recordings for modules/data/recordings_report.py.

Every file is read once, block by block, in bounded memory.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from modules.audio.clips import count_clips
from modules.audio.io import stream_channels
from modules.audio.loudness import loudness
from modules.audio.slicer import slice_rms, slicing_curve
from modules.data.preprocess_resample import SILENCE, Source, find_recordings
from modules.data.recordings_report import (
    FileReport,
    PitchCounts,
    Problem,
    RecordingsReport,
    SpeakerReport,
    mean_lufs,
)
from modules.data.worker_pool import Failure, process_count, run_all
from modules.errors import UserError

BLOCK_SECONDS = 60.0  # up to here the loudness is BS.1770's; longer files are gated block by block
SHORTEST = 0.3  # seconds; step 2 leaves shorter clips out
LOW_RATE = 32000  # Hz; below it the upper octave of a voice is missing
LITTLE_SOUND = 10 * 60  # seconds of a speaker
QUIET_LUFS = -40.0
NOISY_DB = 25.0  # of the loud frames over the quietest ones; a cheap microphone in a room reaches 30
CLIPPED_SHARE = 1e-4  # of the samples; a single overshoot is not heard
CLIPPED_RUN = 3  # samples in a row at the extreme value: a sound wave has one
UNEVEN_LU = 12.0  # between the files of a speaker
CANCELLED_DB = -10.0  # of the mono mix under the channels
SILENT_SHARE = 0.6
VOICED_SHARE = 0.1  # of the sound; whispered and percussive files stay under it
F0_RANGE = (50.0, 1100.0)  # Hz


def measure_folder(
    folder: Path, speakers: Sequence[str] = (), processes: int = 1, debug: bool = False
) -> Iterator[FileReport | RecordingsReport]:
    """Measure every recording of the speakers' folders; yields each file's report as it is done, the whole one last.

    Args:
        speakers: only these; all where there are none named.
        processes: worker processes; 0 is one a core.

    Raises:
        UserError: no such folder, speaker, or no recordings.
    """
    sources, left_out = find_recordings(folder, folder, speakers)
    if not sources:
        fix = f"put recordings into one folder for each speaker, such as {folder.as_posix()}/alice/song.wav"
        raise UserError("there are no recordings", folder, fix)
    done = {}
    for source, outcome in run_all(MeasureJob(), sources, process_count(processes, len(sources)), debug):
        if isinstance(outcome, Failure):
            outcome = FileReport(source.path, source.folder.name, problems=(Problem("unreadable", outcome.reason),))
        done[source.path] = outcome
        yield outcome
    yield summarise(folder, [done[source.path] for source in sources], left_out)


def count_recordings(folder: Path, speakers: Sequence[str] = ()) -> int:
    """How many files measure_folder is going to read. Raises as it does."""
    return len(find_recordings(folder, folder, speakers)[0])


@dataclass(frozen=True)
class MeasureJob:
    """Makes the function that a worker process applies to every recording."""

    def __call__(self, worker: int) -> Callable[[Source], FileReport]:
        return lambda source: measure(source.path, source.folder.name)


def measure(path: Path, speaker: str = "") -> FileReport:
    """Read a recording once and measure it by itself."""
    meter = _RecordingMeter()
    try:
        for block, rate in stream_channels(path, BLOCK_SECONDS):
            meter.push(block, rate)
    except UserError as error:
        return FileReport(path, speaker, problems=(Problem("unreadable", error.what),))
    report = meter.report(path, speaker)
    return replace(report, problems=tuple(_problems(report, meter)))


class _RecordingMeter:
    """Takes the blocks of one file and keeps what its report needs."""

    def __init__(self) -> None:
        self.samples = self.rate = self.channels = self.not_finite = 0
        self.clipping: list[_Clipping] = []
        self.loudness: list[tuple[float, float]] = []
        self.power_of_channels = self.power_of_mix = 0.0
        self.top = 0.0
        self.pitch = PitchCounts()
        self.hash = hashlib.blake2b(digest_size=16)

    def push(self, block: np.ndarray, rate: int) -> None:
        """Add a block [n, C]."""
        if not self.rate:
            self.rate, self.channels = rate, block.shape[1]
            self.curve = slicing_curve(rate)
            self.clipping = [_Clipping() for _ in range(self.channels)]
        block = self._without_nan(block)
        mono = block.mean(axis=1)
        for channel, clipping in enumerate(self.clipping):
            clipping.push(block[:, channel])
        self.power_of_channels += float(np.square(block, dtype=np.float64).mean(axis=1).sum())
        self.power_of_mix += float(np.square(mono, dtype=np.float64).sum())
        self.top = max(self.top, float(np.abs(mono).max(initial=0.0)))
        self.curve.push(mono)
        self.loudness.append((loudness(mono, rate), len(mono) / rate))
        self.pitch += PitchCounts.of(_pitch_of(mono, rate))
        # to 16 bits, so that a flac and a float copy of the same take are the same
        self.hash.update(np.round(np.clip(mono, -1, 1) * 32767).astype("<i2").tobytes())
        self.samples += len(mono)

    def _without_nan(self, block: np.ndarray) -> np.ndarray:
        finite = np.isfinite(block)
        if finite.all():
            return block
        self.not_finite += int(np.count_nonzero(~finite))
        return np.where(finite, block, 0)

    def report(self, path: Path, speaker: str) -> FileReport:
        """The figures, without what is wrong with them."""
        peak = max(clipping.peak for clipping in self.clipping)
        threshold = 20 * math.log10(max(self.top, 1e-5)) - 40  # as resample.py slices
        rms = self.curve.finish()
        levels = 20 * np.log10(np.maximum(rms, 1e-6))
        live = levels[levels > -90]  # digital silence says nothing about the room
        floor, loud = np.percentile(live, [2, 95]) if len(live) else (-math.inf, -math.inf)
        chunks = slice_rms(rms, self.samples, self.rate, threshold, max_silence_ms=500)
        return FileReport(
            path,
            speaker,
            seconds=self.samples / self.rate,
            sample_rate=self.rate,
            channels=self.channels,
            peak_db=20 * math.log10(peak) if peak else -math.inf,
            lufs=mean_lufs(self.loudness),
            clipped_share=sum(c.clipped for c in self.clipping) / (self.samples * self.channels),
            silence_share=float(np.mean(levels < threshold)),
            noise_floor_db=float(floor),
            snr_db=float(loud - floor) if len(live) else math.inf,
            clips=count_clips(chunks, self.rate),
            pitch=self.pitch,
            digest=self.hash.hexdigest(),
        )


class _Clipping:
    """Counts samples that stand in runs at the extreme of one channel, or beyond full scale."""

    def __init__(self) -> None:
        self.peak = 0.0
        self.clipped = 0

    def push(self, samples: np.ndarray) -> None:
        """Add samples [n]."""
        magnitude = np.abs(samples)
        peak = float(magnitude.max(initial=0.0))
        if peak > self.peak + 1 / 32768:
            self.clipped = 0  # what seemed to be the extreme was not
        self.peak = max(self.peak, peak)
        if self.peak < 0.1:
            return
        at_top = magnitude >= min(self.peak, 1.0) - 0.5 / 32768
        edges = np.flatnonzero(np.diff(np.concatenate([[False], at_top, [False]]).astype(np.int8)))
        runs = edges[1::2] - edges[::2]
        self.clipped += int(runs[runs >= CLIPPED_RUN].sum())


def _pitch_of(mono: np.ndarray, rate: int) -> np.ndarray:
    """f0 [T] in Hz each 10 ms, 0 where unvoiced: Praat's, the cheapest predictor."""
    from modules.f0.pm import praat_track

    if float(np.abs(mono).max(initial=0.0)) <= SILENCE:
        return np.zeros(0)
    return praat_track(mono, rate, max(1, rate // 100), F0_RANGE[0], min(F0_RANGE[1], 0.49 * rate))


def _problems(file: FileReport, meter: _RecordingMeter) -> Iterator[Problem]:
    if meter.not_finite:
        yield Problem("not_finite", str(meter.not_finite))
        return
    mix_db = _decibel(meter.power_of_mix, meter.power_of_channels)
    cancelled = file.channels > 1 and mix_db < CANCELLED_DB
    if cancelled:
        yield Problem("out_of_phase", f"{-mix_db:.0f} dB" if math.isfinite(mix_db) else "∞ dB")
    if meter.top <= SILENCE:
        yield Problem("silent")
        return
    if file.seconds < SHORTEST:
        yield Problem("too_short", f"{file.seconds:.2f} s")
        return
    if file.clipped_share > CLIPPED_SHARE:
        yield Problem("clipped", f"{file.clipped_share:.2%}")
    if file.lufs < QUIET_LUFS and not cancelled:
        yield Problem("quiet", f"{file.lufs:.0f} LUFS" if math.isfinite(file.lufs) else f"peak {file.peak_db:.0f} dB")
    if file.snr_db < NOISY_DB and file.seconds > 3:  # a shorter one need not hold a pause
        yield Problem("noisy", f"{file.snr_db:.0f} dB")
    if file.sample_rate < LOW_RATE:
        yield Problem("low_rate", f"{file.sample_rate / 1000:g} kHz")
    if file.silence_share > SILENT_SHARE:
        yield Problem("mostly_silent", f"{file.silence_share:.0%}")
    voiced = file.pitch.frames / 100 / max(file.sound_seconds, 0.1)
    if voiced < VOICED_SHARE:
        yield Problem("unvoiced", f"{voiced:.0%}")


def _decibel(power: float, reference: float) -> float:
    if reference <= 0:
        return 0.0
    return 10 * math.log10(power / reference) if power > 0 else -math.inf


def summarise(folder: Path, files: Sequence[FileReport], left_out: Sequence[tuple[Path, str]] = ()) -> RecordingsReport:
    """Put the files together by speaker, and see what only shows beside the others: copies, levels, amounts."""
    first: dict[str, FileReport] = {}
    speakers: dict[str, list[FileReport]] = {}
    for file in files:
        if file.digest and file.usable:
            original = first.setdefault(file.digest, file)
            if original is not file:
                copy_of = Problem("duplicate", f"{original.speaker}/{original.path.name}")
                file = replace(file, problems=(*file.problems, copy_of))
        speakers.setdefault(file.speaker, []).append(file)
    reports = tuple(_speaker(name, tuple(own)) for name, own in sorted(speakers.items()))
    return RecordingsReport(folder, reports, tuple(left_out))


def _speaker(name: str, files: tuple[FileReport, ...]) -> SpeakerReport:
    report = SpeakerReport(name, files)
    problems = []
    if report.sound_seconds < LITTLE_SOUND:
        problems.append(Problem("little_sound", f"{report.sound_seconds / 60:.1f} min"))
    levels = [file.lufs for file in files if file.usable and math.isfinite(file.lufs)]
    if levels and max(levels) - min(levels) > UNEVEN_LU:
        problems.append(Problem("uneven", f"{max(levels) - min(levels):.0f} LU"))
    return replace(report, problems=tuple(problems))
