"""The worker processes behind the preprocessing scripts."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from modules.data.worker_pool import CannotStart, Failure, process_count, run_all
from modules.errors import UserError


@dataclass(frozen=True)
class Job:
    """Squares; some items fail in one way or another."""

    broken: bool = False

    def __call__(self, worker: int) -> Callable[[int], int]:
        if self.broken:
            raise UserError("the weights are missing", "pretrain/x.pt", "fetch them")
        return square


def square(item: int) -> int:
    if item == 3:
        raise ValueError("three")
    if item == 4:
        raise UserError("four", "item 4", "take five")
    if item == 100:
        raise CannotStart("no model", "model.pt", "get it")
    if item == 200:
        raise OSError(28, "No space left on device")
    if item == 300:
        os._exit(9)  # as the kernel does when memory runs out
    return item * item


@pytest.mark.parametrize("processes", [1, 2])
def test_failures_come_with_their_reason_and_the_rest_with_results(processes: int) -> None:
    got = dict(run_all(Job(), [1, 2, 3, 4, 5], processes))
    assert got == {1: 1, 2: 4, 3: Failure("ValueError: three"), 4: Failure("four; take five"), 5: 25}


@pytest.mark.parametrize("processes", [1, 2])
def test_what_concerns_every_item_ends_the_batch(processes: int) -> None:
    with pytest.raises(UserError) as caught:
        list(run_all(Job(broken=True), [1, 2], processes))
    assert caught.value.where == "pretrain/x.pt" and caught.value.fix == "fetch them"
    with pytest.raises(UserError, match="no model"):
        list(run_all(Job(), [1, 100, 2], processes))
    with pytest.raises(OSError, match="No space left") as full:
        list(run_all(Job(), [1, 200, 2], processes))
    assert full.value.errno == 28


def test_a_worker_that_dies_is_reported() -> None:
    with pytest.raises(UserError, match="worker process died") as caught:
        list(run_all(Job(), [1, 300, 2], 2))
    assert "fewer processes" in caught.value.fix


def test_process_count_follows_cores_and_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert [process_count(wanted, 5) for wanted in (0, 1, 3, 9)] == [5, 1, 3, 5]
    assert process_count(0, 100) == 8 and process_count(0, 0) == 1
