"""Converts every source to every speaker, as inference_main.py does, and remembers the pairs."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from modules.audio.resample import resample
from modules.cli import BatchReport
from modules.errors import UserError
from modules.evaluation.base import Pair
from modules.evaluation.melody import choose_semitones
from modules.evaluation.recording import RATE, Encode, Recording
from modules.evaluation.voices import Voices, find_audio
from modules.f0 import F0Predictor
from modules.inference.names import free_path, result_name
from modules.inference.svc import Svc
from modules.progress import track
from modules.quality.request import Request, fill_up


def find_sources(request: Request, report: BatchReport) -> dict[Path, float | None]:
    """The files to convert and the shift of each; what is missing is noted in ``report``.

    Raises:
        UserError: nothing is left to convert.
    """
    found: dict[Path, float | None] = {}
    for place, shift in zip(request.sources, fill_up(request.shifts, len(request.sources)), strict=True):
        files = find_audio(place) if place.exists() else []
        if not files:
            what = "the folder holds no audio" if place.is_dir() else "there is no such file or folder"
            report.fail(place, what)
        found.update(dict.fromkeys(files, shift))
    if not found:
        raise UserError("there is nothing to convert", "--sources", "give audio files or folders that hold some")
    return found


def encoder_of(svc: Svc) -> Encode | None:
    """The speech encoder of a loaded model, None where it does not show it."""
    encode = getattr(svc.voice, "encode", None)
    if encode is None:
        return None

    def units(audio: np.ndarray) -> np.ndarray:
        return encode(resample(audio, RATE, svc.sample_rate)).T

    return units


def choose_targets(svc: Svc, request: Request, voices: Voices) -> list[str]:
    """Names of the speakers to convert to.

    Raises:
        UserError: the model does not know one, or nobody was named and no recordings say who matters.
    """
    if request.speakers:
        for name in request.speakers:
            svc.resolve_speaker(name)
        return list(request.speakers)
    known = [name for name in svc.speakers if name in voices] or (list(svc.speakers) if len(svc.speakers) == 1 else [])
    if not known:
        names = ", ".join(svc.speakers)
        raise UserError("no speaker is chosen", "--spk_list", f"choose one or more of: {names}")
    return known


def convert_all(
    svc: Svc, sources: Mapping[Path, float | None], request: Request, voices: Voices, predictor: F0Predictor,
    report: BatchReport,
) -> list[Pair]:  # fmt: skip
    """Every source to every target, into ``out_dir``/audio; what fails is noted in ``report``."""
    jobs = [
        (source, shift, target)
        for source, shift in sources.items()
        for target in choose_targets(svc, request, voices)
        if request.speakers or voices.owner(source) != target
    ]
    pairs: list[Pair] = []
    taken = {path.resolve() for path in sources}
    for source, shift, target in track(jobs, "converting"):
        try:
            semitones = choose_shift(source, target, voices, predictor) if shift is None else shift
            options = dataclasses.replace(request.inference, trans=semitones)
            name = result_name(source, target, request.model, options, "flac")
            output = free_path(request.out_dir / "audio" / name, taken)
            taken.add(output.resolve())
            start = time.monotonic()
            for warning in svc.convert_file(source, output, target, options).warnings:
                print(f"warning: {source.name} to {target}: {warning}", file=sys.stderr)
            pairs.append(
                Pair(source, output, target, voices.owner(source), semitones, seconds=time.monotonic() - start)
            )
        except (UserError, OSError, RuntimeError, MemoryError) as error:
            if request.debug:
                raise
            report.fail(f"{source} to {target}", error)
    return pairs


def choose_shift(source: Path, target: str, voices: Voices, predictor: F0Predictor) -> float:
    """Semitones from where the source sings to where the target usually does; 0 where that is not known."""
    usual = voices.usual_pitch(target, predictor)
    if not usual:
        return 0.0
    return float(choose_semitones(Recording.load(source).pitch(predictor), usual))
