"""Reads the model.bin of CTranslate2: plain tensors, nothing in it can run.

Layout, little-endian: u32 version 6, string spec name, u32 revision, u32 count, then for each variable: string
name, u8 rank, u32 shape[rank], u8 dtype, u32 bytes, data. A string is a u16 length, that many bytes and among
them a closing NUL.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from modules.errors import UserError

VERSION = 6
DTYPES = {0: torch.float32, 1: torch.int8, 2: torch.int16, 3: torch.int32, 4: torch.float16, 5: torch.bfloat16}
MAX_VARIABLES, MAX_RANK = 100_000, 8


def read_model(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> tuple[str, dict[str, Tensor]]:
    """Spec name and the variables whose names are ``wanted``.

    Raises:
        UserError: the file is missing, cut off, or not a CTranslate2 model.
    """
    try:
        with path.open("rb") as file:
            return _read(file, path.stat().st_size, wanted)
    except FileNotFoundError:
        raise UserError("there is no such file", path, "check the path") from None
    except (struct.error, ValueError, UnicodeDecodeError, KeyError) as error:
        raise UserError(f"this is not a whole CTranslate2 model.bin ({error})", path, "get it again") from None


def _read(file: BinaryIO, size: int, wanted: Callable[[str], bool]) -> tuple[str, dict[str, Tensor]]:
    version = _number(file, "<I")
    if version != VERSION:
        raise ValueError(f"version {version}, {VERSION} is known")
    spec = _string(file)
    _revision, count = _number(file, "<I"), _number(file, "<I")
    if count > MAX_VARIABLES:
        raise ValueError(f"{count} variables")
    variables = {}
    for _ in range(count):
        name = _string(file)
        rank = _number(file, "<B")
        if rank > MAX_RANK:
            raise ValueError(f"rank {rank} of {name}")
        shape = [_number(file, "<I") for _ in range(rank)]
        dtype = DTYPES[_number(file, "<B")]
        length = _number(file, "<I")
        if length != int(np.prod(shape, dtype=object)) * dtype.itemsize or file.tell() + length > size:
            raise ValueError(f"{name} has {length} bytes where its shape is {shape}")
        if wanted(name):
            variables[name] = torch.frombuffer(bytearray(file.read(length)), dtype=dtype).reshape(shape)
        else:
            file.seek(length, 1)
    return spec, variables


def _number(file: BinaryIO, form: str) -> int:
    return int(struct.unpack(form, file.read(struct.calcsize(form)))[0])


def _string(file: BinaryIO) -> str:
    raw = file.read(_number(file, "<H"))
    if not raw.endswith(b"\0"):
        raise ValueError("a name without its end")
    return raw[:-1].decode("ascii")
