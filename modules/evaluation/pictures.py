"""Pictures and players for pages that need nothing beside them."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modules.evaluation.recording import HOP, RATE
from modules.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from modules.f0 import F0Contour

N_MELS = 80
SOURCE_COLOUR, RESULT_COLOUR = "#2b6cb0", "#c05621"
PAGE_STYLE = Path(__file__).with_name("page.css")


def draw_pair(
    audios: tuple[np.ndarray, np.ndarray],
    titles: tuple[str, str],
    contours: tuple[F0Contour, F0Contour],
    semitones: float,
    path: Path,
) -> None:
    """Mel spectrograms of source and result and, under them, both f0 curves, as a PNG.

    Args:
        audios: [T] of source and result at RATE.
        semitones: by which the source's curve is moved.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    for axes, audio, title in zip((top, middle), audios, titles, strict=True):
        axes.imshow(
            mel_picture(audio),
            origin="lower",
            aspect="auto",
            cmap="magma",
            extent=(0, len(audio) / RATE, 0, N_MELS),
            vmin=-9,
            vmax=1.5,
        )
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_ylabel("mel band")
    moved = f"source, moved by {semitones:+g} semitones"
    lines = (
        (contours[0], semitones, SOURCE_COLOUR, 3.5, moved),
        (contours[1], 0, RESULT_COLOUR, 1.4, "result"),
    )
    seen = []
    for contour, shift, colour, width, label in lines:
        hertz = np.where(contour.uv > 0.5, contour.f0 * 2 ** (shift / 12), np.nan)
        times = np.arange(len(hertz)) * HOP / RATE
        bottom.plot(times, hertz, color=colour, linewidth=width, alpha=0.9 if width < 2 else 0.45, label=label)
        seen.append(hertz[np.isfinite(hertz)])
    bottom.set_yscale("log", base=2)
    if np.concatenate(seen).size:  # single frames that the predictor gets wrong do not set the scale
        low, high = np.percentile(np.concatenate(seen), (1, 99))
        bottom.set_ylim(low / 1.5, high * 1.5)
    bottom.yaxis.set_major_formatter("{x:.0f}")
    bottom.set_title("f0, the pitch that is sung", loc="left", fontsize=11)
    bottom.set_ylabel("Hz")
    bottom.set_xlabel("seconds")
    bottom.grid(alpha=0.3)
    bottom.legend(loc="upper right", fontsize=9, ncols=2)
    save_figure(figure, path)


def mel_picture(audio: np.ndarray) -> np.ndarray:
    """The log mel [N_MELS, T // HOP] of audio [T]."""
    import torch

    from modules.audio.spectrogram import mel_spectrogram

    mel = mel_spectrogram(
        torch.from_numpy(audio)[None].float(),
        n_fft=2048,
        n_mels=N_MELS,
        sample_rate=RATE,
        hop_length=HOP,
        win_length=2048,
        fmin=0.0,
        fmax=RATE / 2,
    )
    return mel[0].numpy()


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, atomically; names of speakers are no formulas, whatever signs they have."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100)


def audio_tag(audio: np.ndarray) -> str:
    """A player with the audio [T] inside the page."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, audio, RATE, format="MP3", subtype="MPEG_LAYER_III", compression_level=0.2)
    return f'<audio controls src="data:audio/mpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"></audio>'


def picture_uri(path: Path) -> str:
    """A PNG as an address that carries it."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def page_style() -> str:
    """The style sheet of all pages."""
    return PAGE_STYLE.read_text(encoding="utf-8").strip()
