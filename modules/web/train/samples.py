"""Audio that training leaves in its TensorBoard events: held-out clips, recorded and sung by the model."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SAMPLES = 3  # held-out clips that training shows


@dataclass(frozen=True)
class Sample:
    """A held-out clip and what the model makes of it, as wav files."""

    step: int
    recorded: Path
    sung: Path


class SampleReader:
    """Finds the audio that training wrote, newest first; one a server, since events are read from where it stopped."""

    def __init__(self) -> None:
        self._readers: dict[Path, Any] = {}
        self._lock = threading.Lock()

    def newest(self, logs: Path, folder: Path) -> list[Sample]:
        """The newest audio of a model, written into ``folder``."""
        with self._lock:
            reader = self._reader(logs)
            tags = reader.Tags()["audio"]
            return [
                self._write(reader, number, folder)
                for number in range(SAMPLES)
                if {f"gen/audio_{number}", f"gt/audio_{number}"} <= set(tags)
            ]

    def _reader(self, logs: Path) -> Any:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        kinds = ("audio", "images", "scalars", "tensors", "histograms", "compressedHistograms")
        if logs not in self._readers:
            self._readers[logs] = EventAccumulator(str(logs), size_guidance=dict.fromkeys(kinds, 1))
        self._readers[logs].Reload()
        return self._readers[logs]

    @staticmethod
    def _write(reader: Any, number: int, folder: Path) -> Sample:
        sung, recorded = (reader.Audio(f"{side}/audio_{number}")[-1] for side in ("gen", "gt"))
        paths = [folder / f"{side}_{number}_step_{sung.step}.wav" for side in ("recording", "model")]
        for path, event in zip(paths, (recorded, sung), strict=True):
            path.write_bytes(event.encoded_audio_string)
        return Sample(sung.step, *paths)
