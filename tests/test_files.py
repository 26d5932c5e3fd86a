"""Atomic writes, and what becomes of their temporary files."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from modules import files
from tests.leftovers import left_by_a_killed_process


def test_a_killed_process_leaves_no_file_behind_the_next_start(tmp_path: Path) -> None:
    left = left_by_a_killed_process(tmp_path / "model.pth")
    files.write_text(tmp_path / "other.txt", "x")
    assert not left.exists() and (tmp_path / "other.txt").read_text() == "x"


def test_temporary_files_of_living_processes_and_files_of_users_stay(tmp_path: Path) -> None:
    dead = left_by_a_killed_process(tmp_path / "model.pth")
    alive = dead.with_name(dead.name.replace(dead.name.split("-")[-2], str(os.getppid())))
    elsewhere = dead.with_name(dead.name.replace(dead.name.split(".")[-2].split("-")[0], "abcdef"))
    yesterday = dead.with_name("." + elsewhere.name[1:].replace("model", "old"))
    kept = [tmp_path / name for name in (".hidden", ".config.json", ".model.pth.notes.pth")]
    for path in (alive, elsewhere, yesterday, *kept):
        path.write_bytes(b"")
    os.utime(yesterday, (time.time() - 2 * files.DAY,) * 2)
    files.write_text(tmp_path / "other.txt", "x")
    there = set(tmp_path.iterdir())
    assert not {dead, yesterday} & there and {alive, elsewhere, *kept} < there


@pytest.mark.parametrize("name", ["a" * 251 + ".wav", "\u58f0" * 80 + ".wav"], ids=["ascii", "chinese"])
def test_the_longest_names_can_be_written(name: str, tmp_path: Path) -> None:
    files.write_bytes(tmp_path / name, b"x")
    assert (tmp_path / name).read_bytes() == b"x"


def test_file_systems_without_modes_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CIFS, FUSE and cloud drives refuse to change a mode."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refuse)
    files.write_text(tmp_path / "a.txt", "x")
    assert (tmp_path / "a.txt").read_text() == "x"
