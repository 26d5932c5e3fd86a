"""Pictures of sound: spectrograms of a song and of its conversion, one above the other, with their melodies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from modules.audio.io import audio_info, stream_audio
from modules.files import atomic_path

COLUMNS = 1200  # of a picture; a longer song is looked at now and then
BINS = 160
LOWEST, HIGHEST = 50.0, 12000.0  # Hz
N_FFT = 2048
FLOOR_DB = -80.0
BLOCK_SECONDS = 10.0
GREY = "#748195"  # of letters: the picture has no ground of its own, and is seen on a light page and on a dark one


@dataclass(frozen=True)
class Panel:
    """What one row shows.

    Attributes:
        path: the audio.
        f0: [T] Hz over the whole length of the audio, 0 where unvoiced.
    """

    path: Path
    f0: np.ndarray


def draw(panels: Sequence[Panel], sample_rate: int, target: Path) -> None:
    """Write a PNG with a spectrogram for each panel, and its melody drawn over it."""
    figure = Figure(figsize=(12, 3.1 * len(panels)), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(len(panels), 1, number + 1)
        seconds = audio_info(panel.path).duration
        picture = log_spectrogram(stream_audio(panel.path, sample_rate, BLOCK_SECONDS), seconds, sample_rate)
        extent = (0.0, seconds, 0.0, float(BINS))
        top = picture.max(initial=FLOOR_DB + 1)
        axes.imshow(picture, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=top + FLOOR_DB, vmax=top)
        times = (np.arange(len(panel.f0)) + 0.5) * seconds / max(1, len(panel.f0))
        axes.plot(times, _bin_of(np.where(panel.f0 > 0, panel.f0, np.nan)), color="#3ff5d0", linewidth=1.6)
        ticks = [100, 200, 400, 800, 1600, 3200, 6400]
        axes.set_yticks(_bin_of(np.array(ticks, dtype=float)), [f"{tick}" for tick in ticks])
        axes.set_ylabel("Hz", color=GREY)
        axes.tick_params(colors=GREY)
        for edge in axes.spines.values():
            edge.set_color(GREY)
        axes.set_xlim(0, seconds)
        axes.set_ylim(0, BINS)
    axes.set_xlabel("s", color=GREY)
    with atomic_path(target) as temporary:
        figure.patch.set_alpha(0)
        canvas.print_png(str(temporary))


def log_spectrogram(blocks: Iterable[np.ndarray], seconds: float, sample_rate: int) -> np.ndarray:
    """dB [BINS, columns] over log-spaced frequencies; holds one block of audio at a time."""
    length = max(1, round(seconds * sample_rate))
    columns = int(np.clip(length // 512, 1, COLUMNS))
    starts = np.linspace(0, max(0, length - N_FFT), columns).astype(np.int64)
    centres = np.geomspace(LOWEST, HIGHEST, BINS)
    frequencies = np.fft.rfftfreq(N_FFT, 1 / sample_rate)
    picture = np.full((BINS, columns), FLOOR_DB * 2)
    for first, frames in _frames(blocks, starts):
        power = np.abs(np.fft.rfft(frames * np.hanning(N_FFT))) ** 2 / N_FFT
        for offset, spectrum in enumerate(power):
            picture[:, first + offset] = 10 * np.log10(np.interp(centres, frequencies, spectrum) + 1e-16)
    return picture


def _frames(blocks: Iterable[np.ndarray], starts: np.ndarray) -> Iterable[tuple[int, np.ndarray]]:
    """(number of the first one, frames [n, N_FFT]) of audio that comes in blocks; the end is filled with zeros."""
    held, position, done = np.zeros(0, dtype=np.float32), 0, 0  # ``held`` begins at sample ``position``
    for block in blocks:
        held = np.concatenate([held, block])
        stop = int(np.searchsorted(starts, position + len(held) - N_FFT, side="right"))
        if stop > done:
            yield done, np.stack([held[start - position : start - position + N_FFT] for start in starts[done:stop]])
            done = stop
        kept = int(starts[done]) - position if done < len(starts) else len(held)
        held, position = held[max(0, kept) :], position + min(max(0, kept), len(held))
    rest = [np.pad(part, (0, N_FFT - len(part))) for part in (held[s - position :][:N_FFT] for s in starts[done:])]
    if rest:
        yield done, np.stack(rest)


def _bin_of(frequency: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = np.log(frequency / LOWEST) / np.log(HIGHEST / LOWEST) * (BINS - 1) + 0.5
    return scaled
