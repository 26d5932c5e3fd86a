"""How much memory a conversion takes: not more for a longer song."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile

from tests.conftest import ROOT
from tests.standin_voice import RATE, sine


def write_note(path: Path, seconds: int, silences: bool) -> Path:
    """A tone, with a pause of half a second every 12 s where ``silences``; written second by second."""
    second = sine(1, 220.0)
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        for number in range(seconds):
            block = second.copy()
            if silences and number % 12 == 11:
                block[RATE // 2 :] = 0
            file.write(block)
    return path


def peak_megabytes(kind: str, source: Path) -> tuple[float, float]:
    """Peak memory of a process before and after it converts."""
    command = [sys.executable, "-m", "tests.memory_of_conversion", kind, str(source), str(source.with_suffix(".flac"))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    before, after = (float(number) for number in done.stdout.split())
    assert soundfile.info(source.with_suffix(".flac")).frames == soundfile.info(source).frames
    return before, after


def test_memory_does_not_grow_with_the_song(tmp_path: Path) -> None:
    """(C8) 5 minutes more are 53 MB of samples; none of the copies of a song may be in memory."""
    short, long = (
        peak_megabytes("identity", write_note(tmp_path / f"{minutes}.wav", 60 * minutes, silences=True))[1]
        for minutes in (1, 6)
    )
    assert long - short < 25


def test_a_held_note_of_a_minute_takes_no_more_than_twice_the_memory_of_ten_seconds(tmp_path: Path) -> None:
    """Over what the loaded model takes; attention over a minute would take 36 times as much."""
    grown = []
    for seconds in (10, 60):
        before, after = peak_megabytes("model", write_note(tmp_path / f"{seconds}.wav", seconds, silences=False))
        grown.append(after - before)
    assert np.all(np.array(grown) > 1)
    assert grown[1] < 2 * grown[0]
