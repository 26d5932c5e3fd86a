"""What train_diff.py learns from: windows of clips with units, f0, volume and the vocoder's mel."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import soundfile
import torch
from torch import Tensor
from torch.utils.data import Dataset

from modules.config import DiffusionConfig
from modules.data import features
from modules.data.dataset import leave_out_missing
from modules.data.features import FeaturePaths
from modules.data.sampler import Draw
from modules.data.units import stretch_units
from modules.errors import UserError

MARGIN = 0.1  # seconds by which a clip must be longer than a window
MAKE_FEATURES = "run preprocess_hubert_f0.py --use_diff; it makes what is missing and keeps what is there"


class Random(Protocol):
    """The two draws of a window, in this order: random.Random has both."""

    def uniform(self, a: float, b: float) -> float: ...

    def choice(self, seq: Sequence[bool]) -> bool: ...


class Window(NamedTuple):
    """Frames of one clip. Mel and units are float16 where the config says cache_fp16."""

    mel: Tensor  # [T, n_mels] log mel
    f0: Tensor  # [T, 1] Hz
    volume: Tensor  # [T, 1] RMS
    units: Tensor  # [T, C]
    speaker: Tensor  # int64 [1]
    aug_shift: Tensor  # [1, 1] semitones


class WindowBatch(NamedTuple):
    """Windows of one length, stacked."""

    mel: Tensor  # [B, T, n_mels]
    f0: Tensor  # [B, T, 1]
    volume: Tensor  # [B, T, 1]
    units: Tensor  # [B, T, C]
    speaker: Tensor  # int64 [B, 1]
    aug_shift: Tensor  # [B, 1, 1]

    def to(self, device: torch.device) -> WindowBatch:
        """The batch on ``device``, in float32; half as much is copied where it was kept as float16."""
        moved = WindowBatch._make(x.to(device, non_blocking=True) for x in self)
        return moved._replace(mel=moved.mel.float(), units=moved.units.float())


def collate(windows: Sequence[Window]) -> WindowBatch:
    """Stack windows of one length."""
    return WindowBatch._make(torch.stack(parts) for parts in zip(*windows, strict=True))


class _Clip(NamedTuple):
    """All frames of a clip, as it was recorded and at another loudness and key."""

    mel: Tensor  # [T, n_mels]
    f0: Tensor  # [T, 1]
    volume: Tensor  # [T, 1]
    units: Tensor  # [T, C]
    aug_mel: Tensor | None  # [T, n_mels]; these three only where the model learns key shifts
    aug_volume: Tensor | None  # [T, 1]
    shift: float  # semitones of aug_mel

    def to(self, device: torch.device) -> _Clip:
        return _Clip._make(x.to(device) if isinstance(x, Tensor) else x for x in self)


class DiffusionDataset(Dataset[Window]):
    """Clips with their features. Those too short for a window, or of which something is missing, are left out.

    They are listed in ``skipped``.

    Args:
        wavs: dataset/44k/<speaker>/<name>.wav; the parent folder names the speaker.
        config: duration of a window, widths, speakers; train.cache_fp16 halves mel and units.
        augment: half of the windows are of the augmented clip: its mel, its volume, f0 and aug_shift with its key.
        short_too: keep clips that are shorter than a window, for ``middle`` alone.
        in_memory: read all clips now and keep them on ``cache_device``. The windows are the same without.

    Raises:
        UserError: a speaker that the config does not name, no clip with all features, or all clips too short.
    """

    def __init__(
        self,
        wavs: Sequence[Path],
        config: DiffusionConfig,
        *,
        augment: bool,
        short_too: bool = False,
        in_memory: bool = False,
        cache_device: torch.device | None = None,
    ) -> None:
        self.config = config
        self.augment = augment and config.model.use_pitch_aug
        self.cache_device = cache_device or torch.device("cpu")
        self.skipped: list[tuple[Path, str]] = []
        self.wavs: list[Path] = []
        self.seconds: list[float] = []
        whole = leave_out_missing(wavs, self._needed, self.skipped, MAKE_FEATURES)
        self._choose(whole, 0.0 if short_too else config.data.duration + MARGIN)
        self.speaker_ids = [_speaker_id(wav, config) for wav in self.wavs]
        for wav in self.wavs:
            features.check_encoder(wav, config.data.encoder)
        self._kept: list[_Clip] | None = None
        if in_memory:
            self._kept = [self._load(index).to(self.cache_device) for index in range(len(self.wavs))]

    def __len__(self) -> int:
        return len(self.wavs)

    def __getitem__(self, draw: Draw | int) -> Window:
        """The window that an epoch sees of a clip; it follows from the seed, the epoch and the index alone."""
        epoch, index = (draw.epoch, draw.index) if isinstance(draw, Draw) else (0, draw)
        return self.window(index, random.Random(f"{self.config.train.seed} {epoch} {index}"))

    def window(self, index: int, rng: Random) -> Window:
        """A window drawn with ``rng``: its start, then whether it is augmented."""
        config = self.config.data
        frames_a_second = config.sampling_rate / config.block_size
        start = int(rng.uniform(0, self.seconds[index] - config.duration - MARGIN) * frames_a_second)
        augmented = rng.choice([True, False]) and self.augment
        return self._cut(index, slice(start, start + int(config.duration * frames_a_second)), augmented)

    def middle(self, index: int) -> Window:
        """The middle of a clip, as it was recorded, no longer than a window: the same at every validation."""
        config = self.config.data
        frames_a_second = config.sampling_rate / config.block_size
        start = int(max(0.0, self.seconds[index] - config.duration) / 2 * frames_a_second)
        return self._cut(index, slice(start, start + int(config.duration * frames_a_second)), False)

    def _cut(self, index: int, frames: slice, augmented: bool) -> Window:
        clip = self._load(index) if self._kept is None else self._kept[index]
        mel, volume, f0, shift = clip.mel, clip.volume, clip.f0, 0.0
        if augmented:
            assert clip.aug_mel is not None and clip.aug_volume is not None
            mel, volume, shift = clip.aug_mel, clip.aug_volume, clip.shift
            f0 = f0 * 2 ** (shift / 12)
        device = mel.device
        return Window(
            mel[frames],
            f0[frames],
            volume[frames],
            clip.units[frames],
            torch.tensor([self.speaker_ids[index]], device=device),
            torch.tensor([[shift]], dtype=torch.float32, device=device),
        )

    def _load(self, index: int) -> _Clip:
        data = self.config.data
        kept = torch.float16 if self.config.train.cache_fp16 else torch.float32
        paths = FeaturePaths.of(self.wavs[index])
        f0 = torch.from_numpy(features.load_f0(paths.f0)[0])
        units = features.load_units(paths.units)[0]
        mel = torch.from_numpy(features.load_mel(paths.mel))
        volume = torch.from_numpy(features.load_volume(paths.volume))
        _check_width(paths.units, units.shape[0], data.encoder_out_channels)
        aug_mel, aug_volume, shift = None, None, 0.0
        if self.augment:
            array, shift = features.load_aug_mel(paths.aug_mel)
            aug_mel = torch.from_numpy(array)
            aug_volume = torch.from_numpy(features.load_volume(paths.aug_volume))
        units = torch.from_numpy(stretch_units(units.numpy(), f0.shape[0], data.unit_interpolate_mode)).T
        parts = [mel, f0, volume, units] + ([] if aug_mel is None or aug_volume is None else [aug_mel, aug_volume])
        frames = min(part.shape[0] for part in parts)
        self._check_length(index, frames)
        return _Clip(
            mel[:frames].to(kept),
            f0[:frames].unsqueeze(1),
            volume[:frames].unsqueeze(1),
            units[:frames].to(kept, copy=True).contiguous(),
            None if aug_mel is None else aug_mel[:frames].to(kept),
            None if aug_volume is None else aug_volume[:frames].unsqueeze(1),
            shift,
        )

    def _choose(self, wavs: Iterable[Path], needed: float) -> None:
        """Keep the clips that a window fits into."""
        short: dict[Path, float] = {}
        for wav in wavs:
            seconds = _duration(wav)
            if seconds < needed:
                short[wav] = seconds
                self.skipped.append((wav, f"{seconds:.2f} s long, a window of training needs {needed:g} s"))
            else:
                self.wavs.append(wav)
                self.seconds.append(seconds)
        if not self.wavs:
            longest = max(short, key=lambda wav: short[wav])
            raise UserError(
                f"no clip is as long as a window: the longest of {len(short)} has {short[longest]:.2f} s, "
                f"data.duration asks for {needed:g} s",
                longest.parent,
                "lower data.duration in diffusion.yaml, or cut the recordings into longer clips",
            )

    def _needed(self, wav: Path) -> list[Path]:
        paths = FeaturePaths.of(wav)
        needed = [paths.units, paths.f0, paths.volume, paths.mel]
        return needed + ([paths.aug_mel, paths.aug_volume] if self.augment else [])

    def _check_length(self, index: int, frames: int) -> None:
        data = self.config.data
        expected = int(self.seconds[index] * data.sampling_rate / data.block_size)
        if frames < expected:
            what = f"the features have {frames} frames, the clip has {expected}"
            raise UserError(what, self.wavs[index], "delete its feature files and " + MAKE_FEATURES)


def _duration(wav: Path) -> float:
    """Seconds, from the header alone."""
    try:
        info = soundfile.info(str(wav))
    except soundfile.LibsndfileError as error:
        raise UserError(f"cannot read the audio: {error}", wav, "mend the file list, or run resample.py") from None
    return info.frames / info.samplerate


def _check_width(path: Path, found: int, wanted: int) -> None:
    if found != wanted:
        what = f"the units have {found} channels, data.encoder_out_channels is {wanted}"
        raise UserError(what, path, "use the config that the features were made with, or " + MAKE_FEATURES)


def _speaker_id(wav: Path, config: DiffusionConfig) -> int:
    name = wav.parent.name
    if name not in config.spk:
        known = ", ".join(config.spk) or "nobody"
        raise UserError(
            f"{wav} is of the speaker {name!r}, whom the config does not name (it names {known})",
            "diffusion.yaml, key spk",
            "run preprocess_flist_config.py, which writes lists and configs together",
        )
    speaker_id = config.spk[name]
    if speaker_id >= config.model.n_spk:
        raise UserError(
            f"speaker {name!r} has the id {speaker_id}, the model has room for ids up to {config.model.n_spk - 1}",
            "diffusion.yaml, keys spk and model.n_spk",
            "raise n_spk or mend spk",
        )
    return speaker_id
