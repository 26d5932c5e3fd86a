"""Pickles and torch files are read as data: what a hostile one tries fails, whatever a real one holds is the same."""

from __future__ import annotations

import collections
import io
import pickle
import resource
import struct
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modules import checkpoint, pickles, torch_files
from modules.data import features
from modules.errors import UserError
from tests.conftest import ROOT


def forged_array(shape: bytes, dtype: bytes, state: bytes, content: bytes) -> bytes:
    """A pickle that asks numpy to make an array of a dtype with a state of its own."""
    return (
        b"\x80\x02cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85c_codecs\nencode\n(X\x01\x00\x00\x00bX"
        b"\x06\x00\x00\x00latin1tR\x87R(K\x01" + shape + b"cnumpy\ndtype\n(" + dtype + b"I00\nI01\ntR" + state + b"\x89"
        + content + b"tb."
    )  # fmt: skip


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


OBJECT_STATE = b"(K\x03" + text("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"  # flags 0: not marked as objects
ADDRESSES = b"C\x08" + b"\x41" * 8


@pytest.mark.parametrize("value", [
    np.arange(12, dtype=np.float32).reshape(3, 4), np.asfortranarray(np.arange(12.0).reshape(3, 4)), np.array(3.5),
    np.arange(3, dtype=">i2"), np.float64(2.5), np.bool_(True), np.zeros((0, 3)), np.array([True, False]),
    {"a": [1, (2, "three", b"4", None, True, 1.5, 10**30, -1)], "b": {1, 2}, "c": frozenset({"x"})},
    collections.OrderedDict(a=1), [[1], [2]], "\ud800 lone", bytearray(b"abc"),
])  # fmt: skip
@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_are_read_as_pickle_reads_them(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    read, expected = pickles.loads(data), pickle.loads(data)
    if isinstance(expected, (np.ndarray, np.generic)):
        np.testing.assert_array_equal(read, expected)
        assert read.dtype == expected.dtype.newbyteorder("=") and read.shape == expected.shape
    else:
        assert read == expected


def test_an_array_of_addresses_is_refused() -> None:
    """numpy would take the eight bytes for a pointer to an object."""
    data = forged_array(b"K\x01\x85", text("O8"), OBJECT_STATE, ADDRESSES)
    with pytest.raises(pickles.BrokenPickle):
        pickles.loads(data)


def test_an_array_of_addresses_in_a_feature_file_is_refused_by_every_reader(tmp_path: Path) -> None:
    data = forged_array(b"K\x01\x85", text("O8"), OBJECT_STATE, ADDRESSES)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": (1,)})
    path = tmp_path / "clip.wav.f0.npy"
    path.write_bytes(header.getvalue() + data)
    for read in (features.load_f0, features.load_mel, features.load_aug_mel, features.load_volume):
        with pytest.raises(UserError):
            read(path)


def test_a_file_cannot_change_numpys_own_number_formats() -> None:
    """dtype('f8') is one object in the whole process: a state given to it would change it everywhere."""
    swapped = b"(K\x03" + text(">") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    data = forged_array(b"K\x01\x85", text("f8"), swapped, b"C\x08" + struct.pack(">d", 2.0))
    assert pickles.loads(data)[0] == 2.0
    assert np.dtype("f8").isnative and np.frombuffer(struct.pack("<d", 2.0), np.float64)[0] == 2.0


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02" + b")" + b"\x85" * 200_000 + b"K\x01}" + b"q\x00" + b"00" + b".",  # deep, thrown away
        b"\x80\x02})" + b"\x85" * 200_000 + b"K\x01s.",  # a deep tuple as a key: hashing it overflows the C stack
        b"\x80\x04\x8f(" + b")" + b"\x85" * 200_000 + b"\x90.",  # in a set
        b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
        b"\x80\x02K\x01r\xff\xff\xff\x7f.",  # memo slot 2**31
        b"\x80\x05\x96\xff\xff\xff\xff\x00\x00\x00\x00.",  # a bytearray of 4 GiB
        b"\x80\x02\x8b\xff\xff\xff\x7f.",  # an integer of 2 GiB
        b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.",  # bytearray(2**31)
        forged_array(b"K\x01J\xff\xff\xff\x7f\x86", text("f8"), b"", b"C\x00"),
        forged_array(b"J\xff\xff\xff\x7fK\x00\x86", text("O8"), b"", b"]"),
        b"\x80\x02c_codecs\nencode\nq\x00" + text("x" * 5000) + b"q\x010"
        + b"h\x00h\x01X\x06\x00\x00\x00latin1\x86R" * 5000 + b".",
    ],
)  # fmt: skip
def test_bombs_stay_small_and_do_not_crash(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "bomb").write_bytes(data)
    code = textwrap.dedent("""
        import resource, sys
        from modules import pickles
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            pickles.loads(open(sys.argv[1], "rb").read())
        except (pickles.BrokenPickle, pickles.RefusedName):
            pass
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """)
    command = [sys.executable, "-c", code, str(tmp_path / "bomb")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 100_000  # KiB


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_training_checkpoints_are_read_as_torch_reads_them(zipped: bool, tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.randn(5, 4)).sum().backward()
    optimizer.step()
    shared = torch.randn(6, 8)
    content = {
        "model": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "iteration": 3,
        "views": [shared, shared[1:, ::2], shared.t(), shared.half(), torch.tensor(5), torch.empty(0, 3)],
        "kinds": [shared.to(kind) for kind in (torch.bfloat16, torch.int16, torch.bool, torch.complex64, torch.uint8)],
        "parameter": module[0].weight,
        "centres": {"alice": {"cluster_centers_": np.eye(3, dtype=np.float32)}},
    }
    path = tmp_path / "G_1.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    read = checkpoint.load(path)
    expected = torch.load(path, weights_only=False)
    torch.testing.assert_close(read["model"], dict(expected["model"]), rtol=0, atol=0)
    for name in ("optimizer", "views", "kinds", "parameter", "iteration"):
        torch.testing.assert_close(read[name], expected[name], rtol=0, atol=0)
    assert not read["parameter"].requires_grad
    np.testing.assert_array_equal(read["centres"]["alice"]["cluster_centers_"], np.eye(3))


def test_tensors_cannot_be_larger_than_their_storage(tmp_path: Path) -> None:
    path = tmp_path / "G_1.pth"
    torch.save({"w": torch.zeros(1).expand(2**31)}, path)  # 4 bytes that say 8 GiB
    with pytest.raises(UserError, match="larger than its storage"):
        checkpoint.load(path)
    torch.save({"w": torch.zeros(3)}, path)
    forged = tmp_path / "forged.pth"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(forged, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("data.pkl"):
                assert data.count(b"QK\x00K\x03\x85") == 1  # storage, offset 0, size (3,)
                data = data.replace(b"QK\x00K\x03\x85", b"QK\x00J\x00\x00\x00\x7f\x85")
            target.writestr(name, data)
    with pytest.raises(UserError, match="larger than its storage"):
        checkpoint.load(forged)


def test_archives_that_unfold_are_refused_before_they_do(tmp_path: Path) -> None:
    path = tmp_path / "G_1.pth"
    torch.save({"w": torch.zeros(25_000_000)}, path)
    packed = tmp_path / "packed.pth"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert packed.stat().st_size < 200_000
    with pytest.raises(UserError, match="unfolds"):
        checkpoint.load(packed)


@pytest.mark.parametrize("tensor", [
    torch.eye(3).to_sparse(), torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    torch.ones(3, device="meta"),
    torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
])  # fmt: skip
def test_tensors_that_are_no_plain_numbers_are_refused(tensor: torch.Tensor, tmp_path: Path) -> None:
    torch.save({"model": {"w": tensor}}, tmp_path / "G_1.pth")
    with pytest.raises(UserError):
        checkpoint.load(tmp_path / "G_1.pth")


def test_reading_takes_no_more_memory_than_the_file_holds(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(50_000_000)}, tmp_path / "G_1.pth")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert torch_files.read(tmp_path / "G_1.pth")["w"].shape == (50_000_000,)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB; the file has 195,000
