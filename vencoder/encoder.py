"""What every speech encoder does the same way: precision, overlapped windows, batches of equal length."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from modules.audio.resample import SPEECH_RATE
from modules.devices import fastest_dtype
from vencoder.layers import Model, reading, set_precision

HOP_LENGTH = 320  # samples of a frame: 50 frames a second
MAX_WINDOW = 30 * SPEECH_RATE // HOP_LENGTH - 1  # frames of one pass: they see 30 s at most
SHORTEST_WINDOW = 22 * SPEECH_RATE // HOP_LENGTH  # frames of a window of a longer clip
CPU_BATCH, DEVICE_BATCH = MAX_WINDOW, 8 * MAX_WINDOW  # frames in one batch

Precision = Literal["auto", "fp32"]


class Window(NamedTuple):
    """Frames [start, stop) of a prepared clip."""

    clip: Any
    start: int
    stop: int


class SpeechEncoder(ABC):
    """Turns a voice at 16 kHz into units, 50 a second.

    A subclass prepares a clip once (``prepare``) and encodes frame ranges of it (``encode_windows``). Clips
    over 30 s are cut into overlapped windows of one length and cross-faded in the middle of each overlap, where
    both windows have seen ``overlap / 2`` frames beyond the joint.

    Attributes:
        width: channels of the units.
        overlap: frames that neighbouring windows share.
    """

    width: int

    @classmethod
    def from_file(
        cls, path: Path, device: str | torch.device = "cpu", precision: Precision = "auto", **options: Any
    ) -> Self:
        """Load the weights in ``path``; ``options`` are those of the encoder's kind.

        Raises:
            UserError: the file is missing, broken, or holds something else.
        """
        with reading(path, f"{cls.__name__.removesuffix('Encoder')} encoder"):
            return cls._from_file(path, device, precision, **options)

    @classmethod
    def _from_file(cls, *path_device_precision: Any, **options: Any) -> Self:
        """What from_file does; any exception says that the file is none."""
        raise NotImplementedError

    overlap = 200  # 4 s; docs/encoders.md gives the difference it leaves at the joints
    fade = 50  # 1 s

    def __init__(self, device: str | torch.device = "cpu", precision: Precision = "auto") -> None:
        self.device = torch.device(device)
        # docs/encoders.md: the units stay within 30 dB SNR of float32
        self.dtype = fastest_dtype(self.device) if precision == "auto" else torch.float32

    def ready(self, model: Model) -> Model:
        """``model`` in evaluation mode, in the encoder's precision and on its device."""
        model.eval().requires_grad_(False)
        set_precision(model, self.dtype)
        return model.to(self.device)

    def encode(self, audio: Tensor) -> Tensor:
        """Units of one clip.

        Args:
            audio: [T] at 16 kHz, any length; what is shorter than one frame is filled up with zeros.

        Returns:
            float32 [1, width, frames] on the encoder's device.
        """
        return self.encode_batch([audio])[0]

    @torch.inference_mode()
    def encode_batch(self, audios: Sequence[Tensor]) -> list[Tensor]:
        """Units of several clips, each as ``encode`` gives them; windows of one length run together."""
        clips = [self.prepare(self._as_input(audio)) for audio in audios]
        plans = [self.plan(self.frames(audio.shape[-1])) for audio in audios]
        jobs = [(index, start, stop) for index, plan in enumerate(plans) for start, stop in plan]
        pieces: dict[tuple[int, int, int], Tensor] = {}
        for batch in equal_batches(jobs, CPU_BATCH if self.device.type == "cpu" else DEVICE_BATCH):
            units = self.encode_windows([Window(clips[index], start, stop) for index, start, stop in batch])
            pieces.update(zip(batch, units.float().unbind(0), strict=True))
        return [
            join_windows([pieces[index, start, stop] for start, stop in plan], plan, self.fade).T[None].contiguous()
            for index, plan in enumerate(plans)
        ]

    def frames(self, samples: int) -> int:
        """How many frames a clip of ``samples`` samples gives."""
        return max(1, samples // HOP_LENGTH)

    def plan(self, frames: int) -> list[tuple[int, int]]:
        """The windows of a clip, as ranges of frames of one length."""
        return plan_windows(frames, MAX_WINDOW, self.overlap)

    @abstractmethod
    def prepare(self, audio: Tensor) -> Any:
        """What the windows of a clip need in common; ``audio`` is float32 [T] on the encoder's device."""

    @abstractmethod
    def encode_windows(self, windows: Sequence[Window]) -> Tensor:
        """Units [B, frames, width] of windows that all have the same number of frames."""

    def _as_input(self, audio: Tensor) -> Tensor:
        if audio.dim() != 1:
            raise ValueError(f"the encoder takes mono audio [T], not {list(audio.shape)}")
        audio = audio.to(self.device, torch.float32)
        return F.pad(audio, (0, max(0, HOP_LENGTH + 80 - audio.shape[0])))


def plan_windows(frames: int, longest: int, overlap: int, shortest: int = SHORTEST_WINDOW) -> list[tuple[int, int]]:
    """Ranges of one length that cover ``frames``: one, or as few as can be of up to ``longest`` frames.

    They share at least ``overlap`` frames, and are no longer than that takes, but ``shortest`` where there are
    several: what a window sees shapes its units, and the shorter it is, the more they differ from one pass.
    """
    if frames <= longest:
        return [(0, frames)]
    count = -(-(frames - overlap) // (longest - overlap))
    length = max(-(-(frames + (count - 1) * overlap) // count), min(shortest, longest))
    starts = [index * (frames - length) // (count - 1) for index in range(count)]
    return [(start, start + length) for start in starts]


def equal_batches(jobs: Sequence[tuple[int, int, int]], limit: int) -> list[list[tuple[int, int, int]]]:
    """Group (clip, start, stop) by length; a group holds at most ``limit`` frames in all, or one window."""
    by_length: dict[int, list[tuple[int, int, int]]] = {}
    for job in jobs:
        by_length.setdefault(job[2] - job[1], []).append(job)
    batches = []
    for length, group in by_length.items():
        size = max(1, limit // length)
        batches += [group[at : at + size] for at in range(0, len(group), size)]
    return batches


def join_windows(pieces: Sequence[Tensor], plan: Sequence[tuple[int, int]], fade: int) -> Tensor:
    """Put windows [frames, width] together, cross-faded over ``fade`` frames in the middle of each overlap."""
    if len(pieces) == 1:
        return pieces[0]
    joined = pieces[0].new_empty(plan[-1][1], pieces[0].shape[1])
    done = 0  # frames before this are final
    for index, (piece, (start, stop)) in enumerate(zip(pieces, plan, strict=True)):
        if index:
            ramp_stop = done + min(fade, (plan[index - 1][1] - start))
            weight = torch.linspace(0, 1, ramp_stop - done + 2, device=piece.device)[1:-1, None]
            joined[done:ramp_stop].lerp_(piece[done - start : ramp_stop - start], weight)
            done = ramp_stop
        end = stop if index + 1 == len(plan) else (plan[index + 1][0] + stop + fade) // 2
        joined[done:end] = piece[done - start : end - start]
        done = end if index + 1 == len(plan) else max(done, end - fade)
    return joined
