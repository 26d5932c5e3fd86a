"""What every script does with what the system refuses."""

from __future__ import annotations

import argparse
import errno
import os
from pathlib import Path

import pytest

from modules.cli import EXIT_CANNOT_START, run
from modules.files import write_text


def outcome(error: Exception, debug: bool = False) -> int:
    def body(args: argparse.Namespace) -> int:
        raise error

    return run(body, argparse.Namespace(debug=debug))


@pytest.mark.parametrize(
    ("number", "fix"),
    [
        (errno.EISDIR, "not of a folder"),
        (errno.ENAMETOOLONG, "shorter name"),
        (errno.EIO, "drive is there"),
        (errno.ENOTCONN, "drive is there"),
        (errno.EPERM, "who may write"),
        (errno.ENOENT, "check the path"),
        (errno.EMFILE, "close other programs"),
        (errno.ENOSPC, "free some space"),
    ],
)
def test_what_the_system_refuses_is_a_message(number: int, fix: str, capsys: pytest.CaptureFixture[str]) -> None:
    error = OSError(number, os.strerror(number), "logs/m/G_8.pth")
    assert outcome(error) == EXIT_CANNOT_START
    message = capsys.readouterr().err
    assert os.strerror(number) in message and "logs/m/G_8.pth" in message and fix in message
    with pytest.raises(OSError):
        outcome(error, debug=True)


def test_an_error_that_no_system_raised_keeps_its_traceback() -> None:
    with pytest.raises(OSError, match="a fault of the program"):
        outcome(OSError("a fault of the program"))


def test_a_file_that_cannot_be_put_in_its_place_is_named_as_the_user_knows_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json/inside").mkdir(parents=True)
    assert run(lambda _: write_text(tmp_path / "config.json", "{}") or 0, argparse.Namespace(debug=False)) == 2
    assert f"where: {tmp_path / 'config.json'}\n" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
