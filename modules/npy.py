"""Reads .npy files whose headers are not believed: numpy would allocate what they say, and unpickle what they hold."""

from __future__ import annotations

import io
import math

import numpy as np

from modules import pickles


def loads(data: bytes, objects: bool = False) -> np.ndarray:
    """The numbers of a .npy file; a view of ``data`` where they are plain.

    Args:
        objects: admit arrays of numbers and arrays, as old feature files hold them.

    Raises:
        ValueError: the bytes are no such file.
    """
    try:
        file = io.BytesIO(data)
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(file)
    except Exception as error:  # numpy parses the header as Python text, which fails in many ways
        raise ValueError(f"no header of an array ({type(error).__name__})") from None
    start = file.tell()
    if dtype.hasobject and objects:
        array = pickles.loads(data[start:])
        if not isinstance(array, np.ndarray) or array.shape != shape:
            raise ValueError("the pickle holds no array of the header's shape")
        return array
    if dtype.kind not in "biuf" or math.prod(shape) * dtype.itemsize != len(data) - start or len(shape) > 8:
        raise ValueError(f"{len(data)} bytes do not hold {shape} numbers of {dtype}")
    return np.frombuffer(data, dtype, offset=start).reshape(shape, order="F" if fortran else "C")
