"""The feature files beside a wav: names, readers, writers, and the stamp that says what they were made from.

Names and layouts are those of so-vits-svc 4.1, so that either program reads what the other wrote. Files go through
memory and one atomic write. Old .npy files hold pickled objects; they are read as data (modules/pickles.py).
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modules import checkpoint, npy
from modules.errors import UserError
from modules.files import write_bytes, write_text
from modules.pickles import RefusedName
from modules.text_formats import read_as

STAMP_VERSION = 1  # raise it when the same settings come to mean other numbers

FeatureKey = dict[str, Any]  # what a feature was made with: plain JSON values


@dataclass(frozen=True)
class FeaturePaths:
    """Where the features of one wav lie; T is samples // hop."""

    units: Path  # float32 [1, C, F] of the encoder, 50 frames a second
    f0: Path  # float32 (2, T): f0 in Hz, voiced flag
    spec: Path  # float32 [n_fft // 2 + 1, T]
    volume: Path  # float32 (T,)
    mel: Path  # float32 (T, n_mels) of the vocoder
    aug_mel: Path  # [float32 (T, n_mels), key shift in semitones]
    aug_volume: Path  # float32 (T,)
    stamp: Path  # JSON: what the others were made from

    @classmethod
    def of(cls, wav: str | Path) -> FeaturePaths:
        """The files of ``wav``. Only the spectrogram's name has no .wav in it."""
        wav = Path(wav)
        return cls(
            units=_beside(wav, ".soft.pt"),
            f0=_beside(wav, ".f0.npy"),
            spec=wav.with_suffix(".spec.pt"),
            volume=_beside(wav, ".vol.npy"),
            mel=_beside(wav, ".mel.npy"),
            aug_mel=_beside(wav, ".aug_mel.npy"),
            aug_volume=_beside(wav, ".aug_vol.npy"),
            stamp=_beside(wav, ".stamp.json"),
        )

    def all(self) -> list[Path]:
        """Every file, the stamp last."""
        return [getattr(self, entry.name) for entry in fields(self)]

    def of_feature(self, name: str) -> tuple[Path, ...]:
        """The files of a feature. The mel, its augmented version and that one's volume are of one draw: one feature."""
        return (self.mel, self.aug_mel, self.aug_volume) if name == "mel" else (getattr(self, name),)


def _beside(wav: Path, ending: str) -> Path:
    return wav.with_name(wav.name + ending)


def save_units(path: Path, units: Tensor) -> None:
    """Write units [1, C, F]."""
    _save_tensor(path, units)


def load_units(path: Path) -> Tensor:
    """Units float32 [1, C, F]. Raises UserError where the file is missing, broken or of another shape."""
    return _load_tensor(path, 3)


def save_spec(path: Path, spec: Tensor) -> None:
    """Write a linear spectrogram [n_fft // 2 + 1, T]."""
    _save_tensor(path, spec)


def load_spec(path: Path) -> Tensor:
    """Linear spectrogram float32 [n_fft // 2 + 1, T]. Raises UserError as load_units."""
    return _load_tensor(path, 2)


def save_f0(path: Path, f0: np.ndarray, uv: np.ndarray) -> None:
    """Write f0 [T] in Hz and uv [T] (1 voiced, 0 not) as one plain float32 array (2, T)."""
    _save_array(path, np.stack([f0, uv]).astype(np.float32))


def load_f0(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """f0 [T] in Hz and uv [T], float32; also from the object arrays of the original. Raises UserError."""
    array = _load_array(path)
    if array.ndim != 2 or len(array) != 2:
        raise _wrong(path, f"an array of shape {array.shape} instead of (2, T)")
    values = _as_float32(array, path)
    return values[0], values[1]


def save_volume(path: Path, volume: np.ndarray) -> None:
    """Write the loudness of each frame, (T,)."""
    _save_array(path, np.asarray(volume, np.float32))


def load_volume(path: Path) -> np.ndarray:
    """Loudness of each frame, float32 (T,). Raises UserError."""
    return _as_float32(_load_array(path, ndim=1), path)


def save_mel(path: Path, mel: np.ndarray) -> None:
    """Write the vocoder's log mel, (T, n_mels)."""
    _save_array(path, np.asarray(mel, np.float32))


def load_mel(path: Path) -> np.ndarray:
    """Log mel of the vocoder, float32 (T, n_mels). Raises UserError."""
    return _as_float32(_load_array(path, ndim=2), path)


def save_aug_mel(path: Path, mel: np.ndarray, keyshift: float) -> None:
    """Write the augmented log mel (T, n_mels) and its key shift in semitones, in the layout of the original."""
    pair = np.empty(2, dtype=object)
    pair[0] = np.ascontiguousarray(mel, np.float32)
    pair[1] = float(keyshift)
    _save_array(path, pair)


def load_aug_mel(path: Path) -> tuple[np.ndarray, float]:
    """Augmented log mel float32 (T, n_mels) and its key shift in semitones. Raises UserError."""
    pair = _load_array(path)
    if pair.shape != (2,) or not isinstance(pair[0], np.ndarray) or pair[0].ndim != 2:
        raise _wrong(path, "something else than a mel and its key shift")
    return _as_float32(pair[0], path), float(pair[1])


def _save_tensor(path: Path, tensor: Tensor) -> None:
    # Through memory: torch.save to a path reports a full disk as a RuntimeError without its cause. The clone
    # drops a storage larger than the tensor.
    buffer = io.BytesIO()
    torch.save(tensor.detach().to("cpu", torch.float32).contiguous().clone(), buffer)
    write_bytes(path, buffer.getvalue())


def _load_tensor(path: Path, ndim: int) -> Tensor:
    if not path.is_file():
        raise UserError("a feature file is missing", path, "run preprocess_hubert_f0.py")
    try:
        tensor = checkpoint.load(path)
    except UserError as error:
        raise _wrong(path, f"no readable tensor ({error.what})") from None
    if not isinstance(tensor, Tensor) or tensor.ndim != ndim:
        shape = list(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
        raise _wrong(path, f"{shape} instead of a tensor with {ndim} axes")
    return tensor.float()


def _save_array(path: Path, array: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_bytes(path, buffer.getvalue())


def _load_array(path: Path, ndim: int | None = None) -> np.ndarray:
    try:
        array = npy.loads(path.read_bytes(), objects=True)
    except FileNotFoundError:
        raise UserError("a feature file is missing", path, "run preprocess_hubert_f0.py") from None
    except RefusedName as error:
        raise _wrong(path, f"no array (refused: it carries {error}, which is code and not numbers)") from None
    except ValueError as error:
        raise _wrong(path, f"no readable array ({error})") from None
    if ndim is not None and array.ndim != ndim:
        raise _wrong(path, f"an array of shape {array.shape} instead of {ndim} axes")
    return array


def _as_float32(array: np.ndarray, path: Path) -> np.ndarray:
    try:
        return array.astype(np.float32)
    except (ValueError, TypeError):
        raise _wrong(path, "values that are not numbers") from None


def _wrong(path: Path, found: str) -> UserError:
    return UserError(f"the feature file holds {found}", path, "delete it and run preprocess_hubert_f0.py again")


@dataclass(frozen=True)
class Stamp:
    """What the features beside a wav were made from.

    A feature is current when the wav's content is the stamped one, its key is the stamped one and its files exist.
    The stamp is written after the files, and loses a feature before its files are made anew: whatever moment a run
    is killed at, no half set counts as whole.
    """

    digest: str  # of the wav's bytes
    keys: Mapping[str, FeatureKey]  # by feature: units, f0, spec, volume, mel
    sizes: Mapping[str, int] = field(default_factory=dict)  # bytes of each file, by its name; older stamps have none

    @property
    def encoder(self) -> str | None:
        """Name of the speech encoder that made the units; None where there are none."""
        key = self.keys.get("units")
        return None if key is None else key.get("encoder")

    def is_whole(self, path: Path) -> bool:
        """Whether a feature file is there in the size it was written in: copies that broke off are not."""
        return path.is_file() and self.sizes.get(path.name, size := path.stat().st_size) == size


def digest(data: bytes) -> str:
    """The identity of a wav's content."""
    return hashlib.sha256(data).hexdigest()


def read_stamp(wav: str | Path) -> Stamp | None:
    """The stamp beside ``wav``; None where there is none, or none that this version writes."""
    file = read_as(_StampFile, FeaturePaths.of(wav).stamp)
    return Stamp(file.wav, file.features, file.sizes) if file and file.version == STAMP_VERSION else None


@dataclass(frozen=True)
class _StampFile:
    version: int
    wav: str
    features: dict[str, FeatureKey]
    sizes: dict[str, int] = field(default_factory=dict)


def is_outdated(wav: str | Path) -> bool:
    """Whether a wav was changed after its features were made; its content is only read where the times say so."""
    path = FeaturePaths.of(wav).stamp
    if not path.is_file() or Path(wav).stat().st_mtime <= path.stat().st_mtime:
        return False
    stamp = read_stamp(wav)
    return stamp is not None and stamp.digest != digest(Path(wav).read_bytes())


def write_stamp(wav: str | Path, stamp: Stamp) -> None:
    """Write the stamp beside ``wav``, atomically."""
    paths = FeaturePaths.of(wav)
    files = [path for name in stamp.keys for path in paths.of_feature(name)]
    sizes = {path.name: path.stat().st_size for path in files if path.is_file()}
    values = {"version": STAMP_VERSION, "wav": stamp.digest, "features": dict(stamp.keys), "sizes": sizes}
    write_text(paths.stamp, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def check_encoder(wav: str | Path, encoder: str) -> None:
    """Refuse units that another encoder made (those of one width cannot be told apart by shape).

    Wavs without a stamp, preprocessed by the original, pass.

    Raises:
        UserError: the stamp names another encoder than ``encoder``.
    """
    stamp = read_stamp(wav)
    if stamp is not None and stamp.encoder not in (None, encoder):
        raise UserError(
            f"the units were made by {stamp.encoder}, the config wants {encoder}",
            FeaturePaths.of(wav).units,
            "run preprocess_hubert_f0.py again",
        )
