"""What a run leaves for its user: TensorBoard events, metrics.jsonl, and lines with speed and ETA."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modules.files import write_text
from modules.progress import format_seconds

METRICS_NAME = "metrics.jsonl"


class MetricsFile:
    """One JSON object a line: ``step``, ``epoch``, ``seconds`` and whatever was measured.

    Lines beyond ``resume_step`` belong to steps that a killed run did not save and that are done again: they
    are dropped, and so is a last line that was cut off.
    """

    def __init__(self, model_dir: Path, resume_step: int) -> None:
        self.path = model_dir / METRICS_NAME
        kept = [row for row in read_metrics(self.path) if resume_step and row["step"] <= resume_step]
        self.started = time.monotonic() - (kept[-1].get("seconds", 0.0) if kept else 0.0)
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = self.path.open("a", encoding="utf-8", newline="\n")

    def write(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Append one line and hand it to the system at once; what is not finite becomes null, as JSON has it."""
        if self._file.closed:
            # A drive that went away and came back no longer knows the file that was open. Half a line stands alone.
            self._file = self.path.open("a", encoding="utf-8", newline="\n")
            self._file.write("\n")
        seconds = round(time.monotonic() - self.started, 3)
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps({"step": step, "epoch": epoch, "seconds": seconds, **finite}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; an unfinished last line is left out, a missing file has none."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


class TrainingLog:
    """TensorBoard and metrics.jsonl of one run; made by the first rank only."""

    def __init__(self, model_dir: Path, resume_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.metrics = MetricsFile(model_dir, resume_step)
        # purge_step hides the events of steps that were not saved and are done again
        self.board = SummaryWriter(str(model_dir), purge_step=resume_step + 1 if resume_step else None)

    def scalars(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Write numbers to both."""
        self.metrics.write(step, epoch, values)
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def picture(self, step: int, name: str, mel: np.ndarray) -> None:
        """Write a log-mel [n_mels, T] as a picture."""
        self.board.add_image(name, spectrogram_picture(mel), step, dataformats="HWC")

    def curves(self, step: int, name: str, lines: Mapping[str, np.ndarray]) -> None:
        """Write curves over frames, each [T], as one picture."""
        self.board.add_image(name, curves_picture(lines), step, dataformats="HWC")

    def audio(self, step: int, name: str, audio: np.ndarray, sample_rate: int) -> None:
        """Write audio [T] in [-1, 1]."""
        self.board.add_audio(name, np.clip(audio, -1, 1)[None], step, sample_rate=sample_rate)

    def reopen(self) -> None:
        """Begin new files after a write that failed: TensorBoard's writer never writes again."""
        with contextlib.suppress(OSError):
            self.metrics.close()
        with contextlib.suppress(OSError):
            self.board.close()
        with contextlib.suppress(OSError):
            self.board = type(self.board)(self.board.log_dir)

    def close(self) -> None:
        """Flush and close both."""
        self.board.close()
        self.metrics.close()


def spectrogram_picture(mel: np.ndarray) -> np.ndarray:
    """A log-mel [n_mels, T] as colours [2*n_mels, T, 3] uint8, low frequencies at the bottom."""
    import matplotlib

    low, high = float(mel.min()), float(mel.max())
    scaled = (mel - low) / max(high - low, 1e-6)
    colours = matplotlib.colormaps["viridis"](np.repeat(scaled[::-1], 2, axis=0))[..., :3]
    return np.round(colours * 255).astype(np.uint8)


def curves_picture(lines: Mapping[str, np.ndarray]) -> np.ndarray:
    """Named curves [T] drawn into one picture [H, W, 3] uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="tight")
    axes = figure.subplots()
    for name, values in lines.items():
        axes.plot(values, label=name)
    axes.legend()
    axes.set_xlabel("frame")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


class Speedometer:
    """Steps a second over the last minute or so, without the time spent on evaluation and saving."""

    def __init__(self, window: int = 200) -> None:
        self._durations: deque[float] = deque(maxlen=window)
        self._last: float | None = None

    def step(self) -> None:
        """Count one step that ends now."""
        now = time.monotonic()
        if self._last is not None:
            self._durations.append(now - self._last)
        self._last = now

    def pause(self) -> None:
        """The time until the next ``step`` call is not a step's alone; leave it out."""
        self._last = None

    @property
    def rate(self) -> float:
        """Steps a second; 0 before two steps were seen."""
        return len(self._durations) / sum(self._durations) if self._durations else 0.0


def progress_line(step: int, last_step: int, epoch: int, rate: float, values: Mapping[str, float]) -> str:
    """One line for the terminal: where the run is, how fast it goes, when it ends, and a few losses."""
    left = f", {format_seconds((last_step - step) / rate)} left" if rate else ""
    losses = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
    return f"step {step} of {last_step} (epoch {epoch}): {rate:.2f} steps/s{left}; {losses}"


class LiveLine:
    """A status line that is overwritten in place; nothing where there is no terminal."""

    INTERVAL = 0.5  # seconds

    def __init__(self) -> None:
        self._active = sys.stderr.isatty()
        self._next = 0.0

    def update(self, text: str) -> None:
        """Show ``text`` if the last one is old enough."""
        now = time.monotonic()
        if self._active and now >= self._next:
            self._next = now + self.INTERVAL
            print(f"\r\x1b[2K{text}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Make room for an ordinary line."""
        if self._active:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)
            self._next = 0.0
