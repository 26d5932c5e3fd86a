"""Reads files of torch.save (.pth, .pt) without torch.load: sizes are checked before anything is allocated.

A file is a zip archive (data.pkl, and one entry a storage) or, before torch 1.6, a row of pickles with the storages
behind them. Its pickle is read as data (modules/pickles.py); tensors are views of storages that are as large as the
file says they are, never larger than they are.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from modules.files import unfolds_too_far
from modules.pickles import Admit, BrokenPickle, Budget, Call, load, numbers_and, refuse

MAGIC = 0x1950A86A20F9469CFC6C  # of the older format
MAX_DIMENSIONS = 16

_DTYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
}


def read(path: Path, device: str | torch.device = "cpu", admit: Admit = refuse) -> Any:
    """What a file of torch.save holds: tensors, arrays and plain values in dicts and lists.

    Args:
        admit: what the file may name besides tensors and arrays.

    Raises:
        modules.pickles.RefusedName: it names something else.
        modules.pickles.BrokenPickle, zipfile.BadZipFile: it is broken or is no such file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                return _read_zip(archive, size, torch.device(device), admit)
        file.seek(0)
        return _read_legacy(file, size, torch.device(device), admit)


@dataclass
class _Storage:
    """The numbers behind one or more tensors."""

    flat: Tensor  # [n]


@dataclass
class _Storages:
    """Makes the storages of one file by their keys, each once."""

    device: torch.device
    made: dict[str, _Storage] = field(default_factory=dict)

    def persistent(self, key: Any) -> _Storage:
        """The storage that the pickle means by ("storage", type, key, location, n)."""
        if not isinstance(key, tuple) or len(key) < 5 or key[0] != "storage" or not isinstance(key[1], torch.dtype):
            raise BrokenPickle("it refers to something that is no storage")
        if len(key) > 5 and key[5] is not None:
            raise BrokenPickle("a view of a storage, of torch before 0.4")
        name, count = str(key[2]), key[4]
        if not isinstance(count, int) or count < 0:
            raise BrokenPickle("a storage without a size")
        if name not in self.made:
            self.made[name] = _Storage(self.make(name, key[1], count))
        return self.made[name]

    def make(self, name: str, dtype: torch.dtype, count: int) -> Tensor:
        """``count`` numbers of the storage ``name``."""
        raise NotImplementedError


@dataclass
class _ZipStorages(_Storages):
    archive: zipfile.ZipFile = field(kw_only=True)
    folder: str = field(kw_only=True)

    def make(self, name: str, dtype: torch.dtype, count: int) -> Tensor:
        info = self.archive.getinfo(f"{self.folder}data/{name}")
        if info.file_size != count * dtype.itemsize:
            raise BrokenPickle(f"storage {name} has {info.file_size} bytes and should have {count * dtype.itemsize}")
        content = bytearray(self.archive.read(info))
        if len(content) != info.file_size:
            raise BrokenPickle(f"storage {name} is cut off")
        flat = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        return flat.to(self.device)


@dataclass
class _LegacyStorages(_Storages):
    """Allocates first; the numbers stand behind the pickles."""

    left: int = field(kw_only=True)  # bytes of the file

    def make(self, name: str, dtype: torch.dtype, count: int) -> Tensor:
        self.left -= count * dtype.itemsize
        if self.left < 0:
            raise BrokenPickle("storages larger than the file")
        return torch.empty(count, dtype=dtype)

    def fill(self, file: IO[bytes], names: list[Any]) -> None:
        """Read the numbers of the storages ``names`` in this order."""
        for name in names:
            flat = self.made[str(name)].flat
            count = struct.unpack("<q", file.read(8))[0]
            if count != len(flat):
                raise BrokenPickle(f"storage {name} has {count} numbers and should have {len(flat)}")
            target = memoryview(flat.view(torch.uint8).numpy().data) if count else memoryview(bytearray())
            if file.readinto(target) != len(target):  # type: ignore[attr-defined]
                raise BrokenPickle(f"storage {name} is cut off")


def _read_zip(archive: zipfile.ZipFile, size: int, device: torch.device, admit: Admit) -> Any:
    if unfolds_too_far(archive, size):
        raise BrokenPickle("it unfolds to much more than its size")
    mains = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
    if len(mains) != 1:
        raise BrokenPickle("an archive without data.pkl")
    folder = mains[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in archive.namelist():
        raise BrokenPickle("a TorchScript program, not weights")
    if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
        raise BrokenPickle("numbers in the byte order of another kind of machine")
    storages = _ZipStorages(device, archive=archive, folder=folder)
    pickled = io.BytesIO(archive.read(mains[0]))
    return load(pickled, _admit(admit, Budget.of(size)), storages.persistent)


def _read_legacy(file: IO[bytes], size: int, device: torch.device, admit: Admit) -> Any:
    plain = _admit(refuse, Budget.of(size))
    if load(file, plain) != MAGIC:
        raise BrokenPickle("it is no file of torch.save")
    load(file, plain), load(file, plain)  # the format's version and the sizes of the machine's integers
    storages = _LegacyStorages(torch.device("cpu"), left=size)
    value = load(file, _admit(admit, Budget.of(size)), storages.persistent)
    keys = load(file, plain)
    if not isinstance(keys, list) or {str(key) for key in keys} != storages.made.keys():
        raise BrokenPickle("storages that do not belong to its tensors")
    storages.fill(file, keys)
    return value if device.type == "cpu" else _moved(value, device)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(item, device) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_moved(item, device) for item in value)
    return value


def _admit(more: Admit, budget: Budget) -> Admit:
    """Admits tensors, number formats, arrays, and what ``more`` admits."""
    return numbers_and(lambda name: _NAMES[name] if name in _NAMES else more(name), budget)


def _no_constructor(*_: Any) -> None:
    raise BrokenPickle("a tensor without a storage")


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_grad_and_hooks: Any) -> Tensor:
    """A view of a storage, checked against its size: torch itself would enlarge the storage."""
    if not isinstance(storage, _Storage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise BrokenPickle("a tensor without a storage")
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or len(size) > MAX_DIMENSIONS or any(type(n) is not int or n < 0 for n in numbers):
        raise BrokenPickle("a tensor whose shape is none")
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if count else 0
    if count > len(storage.flat) or last >= max(1, len(storage.flat)) or (count == 0 and max(size) > 2**31):
        raise BrokenPickle("a tensor larger than its storage")
    return storage.flat.as_strided(size, stride, offset) if count else storage.flat.new_empty(size)


def _parameter(data: Any, *_grad_and_hooks: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise BrokenPickle("a parameter that is no tensor")
    return data


def _of_type(function: Any, _kind: Any, arguments: Any, *_state: Any) -> Any:
    if not isinstance(function, Call) or not isinstance(arguments, tuple):
        raise BrokenPickle("a tensor of an unknown kind")
    return function.apply(*arguments)


_NAMES: dict[str, Any] = {
    "torch._utils._rebuild_tensor": Call(_tensor),
    "torch._utils._rebuild_tensor_v2": Call(_tensor),
    "torch._utils._rebuild_parameter": Call(_parameter),
    "torch._utils._rebuild_parameter_with_state": Call(_parameter),
    "torch._tensor._rebuild_from_type_v2": Call(_of_type),
    "torch.Tensor": Call(_no_constructor),
    "torch.nn.parameter.Parameter": Call(_no_constructor),
    "torch.Size": Call(lambda sizes=(): tuple(sizes)),
    "torch.device": Call(lambda *words: ":".join(map(str, words))),
    **{f"torch.{name}Storage": dtype for name, dtype in _DTYPES.items()},
    **{str(dtype): dtype for dtype in _DTYPES.values()},
}
