"""The short form of scripts/fuzz.py: mutated files give a result or a UserError, reader by reader."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from modules.errors import UserError
from scripts import fuzz
from scripts.fuzz_mutations import mutate
from scripts.fuzz_readers import READERS

MUTATIONS, OF_LARGE_FILES = 12, 2
LARGE = 4_000_000  # bytes


@pytest.mark.parametrize("name", READERS)
def test_mutated_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
    reader = READERS[name]
    seeds = reader.seeds(tmp_path)
    originals = [seed.read_bytes() for seed in seeds]
    for seed in seeds:
        reader.read(seed)
    refused = 0
    count = OF_LARGE_FILES if max(map(len, originals)) > LARGE else MUTATIONS
    for number in range(count):
        rng = random.Random(f"test {name} {number}")
        which = rng.randrange(len(seeds))
        seeds[which].write_bytes(mutate(originals[which], seeds[which].suffix, rng))
        try:
            reader.read(seeds[which])
        except UserError:
            refused += 1
        seeds[which].write_bytes(originals[which])
    assert refused or name == "notes" or count < MUTATIONS  # a broken note is no note


def test_the_fuzzer_counts_what_is_neither(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A worker that dies is replaced, and its file counts."""
    options = fuzz.FuzzOptions(count=4, only=("notes",), processes=1)
    rows = fuzz.run_reader("notes", options)
    assert [row["number"] for row in rows] == ["0", "1", "2", "3"]
    assert {row["verdict"] for row in rows} <= {"read", "refused"}
    rows[1]["verdict"] = "crash"
    assert "1 crash" in fuzz.describe("notes", rows)
