"""The clips that the synthesiser is trained on: the features beside each wav, cropped, and padded into batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch
from torch import Tensor
from torch.utils.data import Dataset

from modules.config import Config
from modules.data import features
from modules.data.features import FeaturePaths
from modules.data.sampler import Draw
from modules.data.units import stretch_units
from modules.errors import UserError

MAKE_LISTS = "run preprocess_flist_config.py"
MAKE_FEATURES = "run preprocess_hubert_f0.py; it makes what is missing and keeps what is there"
QUIETEST, LOUDEST = 0.1, 10.0  # factors of the loudness augmentation
POWER_FLOOR = 1e-6  # added to the power inside the square root of the spectrogram


class Clip(NamedTuple):
    """One clip, or a window of it, with T frames of everything."""

    units: Tensor  # [C, T]
    f0: Tensor  # [T] Hz
    uv: Tensor  # [T], 1 where voiced
    spec: Tensor  # [F, T], linear magnitude
    audio: Tensor  # [1, T * hop] in [-1, 1]
    speaker_id: int
    volume: Tensor | None  # [T] RMS; only for models with volume embedding

    @property
    def frames(self) -> int:
        return self.f0.shape[0]


class Batch(NamedTuple):
    """Clips padded with zeros to the longest, which comes first."""

    units: Tensor  # [B, C, T]
    f0: Tensor  # [B, T]
    spec: Tensor  # [B, F, T]
    audio: Tensor  # [B, 1, T * hop]
    speaker: Tensor  # int64 [B, 1]
    lengths: Tensor  # int64 [B], frames
    uv: Tensor  # [B, T]
    volume: Tensor | None  # [B, T]

    def to(self, device: torch.device) -> Batch:
        """The batch on ``device``; from pinned memory the copy does not wait."""
        return Batch._make(None if x is None else x.to(device, non_blocking=True) for x in self)


def read_file_list(path: str | Path) -> list[Path]:
    """The wavs of a file list: one a line, up to the first ``|``.

    Raises:
        UserError: the list is missing, not UTF-8, or empty.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError("there is no such file list", path, MAKE_LISTS) from None
    except UnicodeDecodeError:
        raise UserError("the file list is not UTF-8 text", path, "save it as UTF-8, or " + MAKE_LISTS) from None
    # A line ends at a line feed alone: names may hold what else Python takes for an end, U+2028 for one.
    names = (line.split("|")[0].strip(" \t\r") for line in text.split("\n"))
    wavs = [_with_slashes(name) for name in names if name]
    if not wavs:
        raise UserError("the file list is empty", path, f"put wavs into the dataset and {MAKE_LISTS}")
    return wavs


def _with_slashes(name: str) -> Path:
    """The path; backslashes, as in lists made on Windows, separate folders where no file has them in its name."""
    path = Path(name)
    return path if "\\" not in name or path.is_file() else Path(name.replace("\\", "/"))


def leave_out_missing(
    wavs: Sequence[Path], needed: Callable[[Path], Sequence[Path]], skipped: list[tuple[Path, str]], make: str
) -> list[Path]:
    """The wavs for which everything is there; the others go to ``skipped``, with the reason.

    Args:
        needed: the files that training needs beside a wav.
        make: what to do where features are missing.

    Raises:
        UserError: nothing is left.
    """
    complete: list[Path] = []
    first: tuple[Path, str] | None = None
    for wav in wavs:
        missing = [path for path in (wav, *needed(wav)) if not path.is_file()]
        where, fix = missing[0] if missing else wav, make
        if where == wav and missing:
            reason, fix = "there is no such file", "mend the file list, or " + MAKE_LISTS
        elif missing:
            reason = f"{where.name} is missing; {make}"
        elif features.is_outdated(wav):
            reason = f"it was changed after its features were made; {make}"
        else:
            complete.append(wav)
            continue
        skipped.append((wav, reason))
        first = first or (where, fix)
    if first is not None and not complete:
        more = f" (and so it is for {len(wavs) - 1} more clips)" if len(wavs) > 1 else ""
        raise UserError(f"a file that training needs is missing or out of date{more}", *first)
    return complete


class ClipDataset(Dataset[Clip]):
    """Clips with their features, looked at once when made so that nothing is missing hours later.

    Clips of which something is missing are left out and listed in ``skipped``.

    Args:
        wavs: dataset/44k/<speaker>/<name>.wav; the parent folder names the speaker.
        config: data settings, speakers, train.max_speclen, train.vol_aug and the widths of the model.
        training: crop clips over max_speclen frames at random, and change the loudness of half of them where
            vol_aug is on. Otherwise clips are whole and as they were recorded.
        in_memory: read all clips now and keep them.

    Raises:
        UserError: a speaker that the config does not name, no clip with all features, or units of another encoder;
            the message names the file.
    """

    def __init__(self, wavs: Sequence[Path], config: Config, *, training: bool, in_memory: bool = False) -> None:
        self.config = config
        self.training = training
        self.has_volume = config.model.vol_embedding
        self.skipped: list[tuple[Path, str]] = []
        self.wavs = leave_out_missing(wavs, self._needed, self.skipped, MAKE_FEATURES)
        self.speaker_ids = [_speaker_id(wav, config) for wav in self.wavs]
        for wav in self.wavs:
            features.check_encoder(wav, config.model.speech_encoder)
        self._kept = [self._load(index, None) for index in range(len(self.wavs))] if in_memory else None

    def __len__(self) -> int:
        return len(self.wavs)

    def __getitem__(self, draw: Draw | int) -> Clip:
        """The clip at an index, or, for a Draw, as that epoch sees it.

        Windows and loudness follow from the seed, the epoch and the index, whichever process loads the clip.
        """
        epoch, index = (draw.epoch, draw.index) if isinstance(draw, Draw) else (0, draw)
        rng = np.random.default_rng([abs(self.config.train.seed), epoch, index]) if self.training else None
        clip = self._load(index, rng) if self._kept is None else self._crop(self._kept[index], rng)
        if rng is not None and self.config.train.vol_aug and clip.volume is not None and rng.random() < 0.5:
            return change_loudness(clip, rng)
        return clip

    def _window(self, frames: int, rng: np.random.Generator | None) -> slice:
        """The frames to take of a clip: all, or max_speclen of them from a random place on."""
        longest = self.config.train.max_speclen
        if rng is None or frames <= longest:
            return slice(0, frames)
        start = int(rng.integers(frames - longest + 1))
        return slice(start, start + longest)

    def _crop(self, clip: Clip, rng: np.random.Generator | None) -> Clip:
        window = self._window(clip.frames, rng)
        hop = self.config.data.hop_length
        return Clip(
            clip.units[:, window],
            clip.f0[window],
            clip.uv[window],
            clip.spec[:, window],
            clip.audio[:, window.start * hop : window.stop * hop],
            clip.speaker_id,
            None if clip.volume is None else clip.volume[window],
        )

    def _load(self, index: int, rng: np.random.Generator | None) -> Clip:
        """Read a clip, or the window of it that the training sees."""
        wav, data = self.wavs[index], self.config.data
        paths = FeaturePaths.of(wav)
        f0, uv = (torch.from_numpy(row) for row in features.load_f0(paths.f0))
        spec = features.load_spec(paths.spec)
        units = features.load_units(paths.units)[0]
        self._check_sizes(paths, units, spec)
        window = self._window(min(f0.shape[0], spec.shape[-1]), rng)
        units = torch.from_numpy(stretch_units(units.numpy(), f0.shape[0], data.unit_interpolate_mode))[:, window]
        audio = _read_audio(wav, data.sampling_rate, window.start * data.hop_length, window.stop * data.hop_length)
        volume = torch.from_numpy(features.load_volume(paths.volume))[window] if self.has_volume else None
        return Clip(units, f0[window], uv[window], spec[:, window], audio, self.speaker_ids[index], volume)

    def _check_sizes(self, paths: FeaturePaths, units: Tensor, spec: Tensor) -> None:
        for path, found, wanted, key in (
            (paths.units, units.shape[0], self.config.model.ssl_dim, "model.ssl_dim"),
            (paths.spec, spec.shape[0], self.config.spec_channels, "data.filter_length // 2 + 1"),
        ):
            if found != wanted:
                fix = "use the config that the features were made with, or " + MAKE_FEATURES
                raise UserError(f"the features have {found} channels, {key} of the config is {wanted}", path, fix)

    def _needed(self, wav: Path) -> list[Path]:
        paths = FeaturePaths.of(wav)
        return [paths.units, paths.f0, paths.spec, *([paths.volume] if self.has_volume else [])]


def _speaker_id(wav: Path, config: Config) -> int:
    name = wav.parent.name
    if name not in config.spk:
        known = ", ".join(config.spk) or "nobody"
        raise UserError(
            f"{wav} is of the speaker {name!r}, whom the config does not name (it names {known})",
            "config.json, key spk",
            "run preprocess_flist_config.py, which writes lists and config together",
        )
    speaker_id = config.spk[name]
    if speaker_id >= config.model.n_speakers:
        raise UserError(
            f"speaker {name!r} has the id {speaker_id}, the model has room for ids up to {config.model.n_speakers - 1}",
            "config.json, keys spk and model.n_speakers",
            "raise n_speakers or mend spk",
        )
    return speaker_id


def _read_audio(wav: Path, sample_rate: int, start: int, stop: int) -> Tensor:
    """Samples of a wav of any format as float32 [1, stop - start] in [-1, 1], channels averaged."""
    try:
        with soundfile.SoundFile(wav) as sound:
            if sound.samplerate != sample_rate:
                fix = "run resample.py and then preprocess_hubert_f0.py"
                raise UserError(f"the clip has {sound.samplerate} Hz, the config wants {sample_rate} Hz", wav, fix)
            sound.seek(start)
            samples = sound.read(stop - start, dtype="float32", always_2d=True).mean(axis=1)
    except soundfile.LibsndfileError as error:
        raise UserError(f"cannot read the audio: {error}", wav, "run resample.py again for this file") from None
    if len(samples) < stop - start:
        raise UserError("the clip is shorter than its features", wav, MAKE_FEATURES)
    return torch.from_numpy(samples)[None]


def change_loudness(clip: Clip, rng: np.random.Generator) -> Clip:
    """Scale a clip by 10**u, u uniform from -1 to what keeps the peak at full scale (at most 1).

    The spectrogram follows in closed form, so no transform is needed: it is the square root of the power, which
    grows with the square of the factor, plus a floor.
    """
    peak = float(clip.audio.abs().max())
    highest = min(math.log10(LOUDEST), -math.log10(max(peak, 1e-5)))
    factor = 10 ** rng.uniform(math.log10(QUIETEST), highest)
    power = (clip.spec.double().square() - POWER_FLOOR).clamp_(min=0) * factor**2
    return clip._replace(
        audio=clip.audio * factor,
        spec=(power + POWER_FLOOR).sqrt_().float(),
        volume=None if clip.volume is None else clip.volume * factor,
    )


def collate(clips: Sequence[Clip]) -> Batch:
    """Pad clips into a batch, the longest first; volume only where every clip has it."""
    clips = sorted(clips, key=lambda clip: -clip.frames)
    longest, hop = clips[0].frames, clips[0].audio.shape[-1] // clips[0].frames
    volumes = [clip.volume for clip in clips if clip.volume is not None]
    return Batch(
        units=_stack([clip.units for clip in clips], longest),
        f0=_stack([clip.f0 for clip in clips], longest),
        spec=_stack([clip.spec for clip in clips], longest),
        audio=_stack([clip.audio for clip in clips], longest * hop),
        speaker=torch.tensor([[clip.speaker_id] for clip in clips]),
        lengths=torch.tensor([clip.frames for clip in clips]),
        uv=_stack([clip.uv for clip in clips], longest),
        volume=_stack(volumes, longest) if len(volumes) == len(clips) else None,
    )


def _stack(tensors: Sequence[Tensor], length: int) -> Tensor:
    """[..., T_i] tensors as one [B, ..., length], zeros behind each."""
    batch = torch.zeros(len(tensors), *tensors[0].shape[:-1], length)
    for row, tensor in zip(batch, tensors, strict=True):
        row[..., : tensor.shape[-1]] = tensor
    return batch
