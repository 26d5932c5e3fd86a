"""Mutate valid files and hand them to every reader: each must give a result or a UserError, soon and in bounded memory.

    python scripts/fuzz.py --count 1000            # mutations a reader, over all readers
    python scripts/fuzz.py --only checkpoint wav --count 200 --seed 5 --keep findings

Each reader runs in a process of its own, which is replaced where it crashes or hangs. The same seed gives the same
files. Exit code 1 where any file did anything else than that; --keep saves those files.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":  # run as a file: the project's root is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from modules.cli import make_parser, run
from modules.options import add_arguments, check, from_namespace, setting

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 10.0  # of CPU time a file may take
PATIENCE = 6  # times that, on the clock of a busy machine
TIMES_ITS_SIZE = 10  # memory that a file may take beside what a valid one takes
SLACK = 96 * 2**20  # bytes: allocators do not give back all that was freed before
ADDRESS_SPACE = 8 * 2**30  # bytes beyond what the reader's libraries take
VERDICTS = ("read", "refused", "traceback", "hang", "memory", "crash")
START_SECONDS = 120.0  # for imports


@dataclass(frozen=True)
class FuzzOptions:
    """How many files, of which readers."""

    count: int = setting(100, "--count", help="mutated files a reader", low=1)
    seed: int = setting(1234, "--seed", help="the same seed gives the same files", low=0)
    only: tuple[str, ...] = setting((), "--only", help="these readers; default: all", many=True, metavar="READER")
    keep: Path | None = setting(None, "--keep", help="folder for the files that were taken wrongly")
    processes: int = setting(2, "--processes", help="readers at a time", low=1)
    worker: str = setting("", "--worker", help=argparse.SUPPRESS)  # the name of a reader: this process is its worker
    first: int = setting(0, "--first", help=argparse.SUPPRESS, low=0)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = make_parser("Hand mutated files to every reader of files that people exchange.")
    add_arguments(parser, FuzzOptions)
    return parser


def fuzz(options: FuzzOptions) -> int:
    """Run the readers side by side and print what became of their files."""
    from scripts.fuzz_readers import READERS

    names = list(options.only) or list(READERS)
    results: dict[str, list[dict[str, str]]] = {}
    queue = list(names)

    def work() -> None:
        while queue:
            name = queue.pop(0)
            results[name] = run_reader(name, options)
            print(describe(name, results[name]), flush=True)

    threads = [threading.Thread(target=work) for _ in range(options.processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = Counter(row["verdict"] for rows in results.values() for row in rows)
    print(f"{sum(total.values())} files: " + ", ".join(f"{total[verdict]} {verdict}" for verdict in VERDICTS))
    wrong = [(name, row) for name, rows in results.items() for row in rows if row["verdict"] not in VERDICTS[:2]]
    for name, row in wrong[:40]:
        print(f"  {name} {row['number']}: {row['verdict']} {row['detail']}")
    return 1 if wrong else 0


def describe(name: str, rows: list[dict[str, str]]) -> str:
    """One line of the table."""
    counts = Counter(row["verdict"] for row in rows)
    return f"{name:18}" + "".join(f"{counts[verdict]:>7} {verdict}" for verdict in VERDICTS)


def run_reader(name: str, options: FuzzOptions) -> list[dict[str, str]]:
    """Every file of one reader; its worker is started again behind a file that it did not survive."""
    rows: list[dict[str, str]] = []
    while len(rows) < options.count:
        command = [sys.executable, __file__, "--worker", name, "--first", str(len(rows)), "--count", str(options.count)]
        command += ["--seed", str(options.seed), *(["--keep", str(options.keep)] if options.keep else [])]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT)
        started = len(rows)
        end = _collect(process, rows)
        if process.returncode or len(rows) < options.count:
            if len(rows) == started and end == "never started":
                raise RuntimeError(f"the worker of {name} does not start")
            rows.append({"number": str(len(rows)), "verdict": end, "detail": f"exit code {process.returncode}"})
    return rows


def _collect(process: subprocess.Popen[str], rows: list[dict[str, str]]) -> str:
    """Take the worker's rows as they come; kill it where none comes for too long."""
    assert process.stdout is not None
    last = [time.monotonic() + START_SECONDS]
    verdict = ["crash"]

    def watch() -> None:
        while process.poll() is None:
            if time.monotonic() > last[0] + PATIENCE * SECONDS:
                verdict[0] = "hang"
                process.kill()
                return
            time.sleep(0.1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    ready = False
    for line in process.stdout:
        if not line.startswith("{"):
            continue
        row = json.loads(line)
        ready = True
        if row:
            rows.append(row)
        last[0] = time.monotonic()
    process.wait()
    watcher.join()
    return verdict[0] if ready else "never started"


def work(options: FuzzOptions) -> int:
    """As the worker of one reader: read its mutated files, one row each on the standard output."""
    import random

    from modules.errors import UserError
    from scripts.fuzz_mutations import mutate
    from scripts.fuzz_readers import READERS

    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # readers may print warnings
    reader = READERS[options.worker]
    with tempfile.TemporaryDirectory(prefix="fuzz_") as folder:
        seeds = reader.seeds(Path(folder))
        originals = [seed.read_bytes() for seed in seeds]
        growth = 0
        for seed in seeds:  # once to warm up; then what a valid file takes
            for _ in range(2):
                before = _reset_peak()
                reader.read(seed)
                growth = max(growth, _peak() - before)
        _limit_memory()
        print("{}", file=out)
        for number in range(options.first, options.count):
            rng = random.Random(f"{options.seed} {options.worker} {number}")
            which = rng.randrange(len(seeds))
            path, data = seeds[which], mutate(originals[which], seeds[which].suffix, rng)
            path.write_bytes(data)
            start, before = time.process_time(), _reset_peak()
            verdict, detail = "read", ""
            try:
                reader.read(path)
            except UserError as error:
                verdict, detail = "refused", error.what[:120]
            except Exception as error:
                frame = traceback.extract_tb(error.__traceback__)[-1]
                verdict = "memory" if isinstance(error, MemoryError) else "traceback"
                detail = f"{type(error).__name__}: {error} ({frame.filename.rpartition('/')[2]}:{frame.lineno})"[:200]
            if _peak() - before > growth + TIMES_ITS_SIZE * len(data) + SLACK:
                verdict, detail = "memory", f"{(_peak() - before) / 1e6:.0f} MB for {len(data)} bytes; {detail}"
            if time.process_time() - start > SECONDS:
                verdict = "hang"
            if options.keep and verdict not in VERDICTS[:2]:
                options.keep.mkdir(parents=True, exist_ok=True)
                (options.keep / f"{options.worker}_{number}{path.suffix}").write_bytes(data)
            print(json.dumps({"number": str(number), "verdict": verdict, "detail": detail}), file=out)
            path.write_bytes(originals[which])
    return 0


def _reset_peak() -> int:
    """Forget the peak of this process's memory, and tell what it takes now, bytes; Linux only."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _peak()


def _peak() -> int:
    return int(Path("/proc/self/status").read_text(encoding="ascii").split("VmHWM:")[1].split()[0]) * 1024


def _limit_memory() -> None:
    import resource

    taken = int(Path("/proc/self/status").read_text(encoding="ascii").split("VmSize:")[1].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (taken + ADDRESS_SPACE, taken + ADDRESS_SPACE))


def fuzz_from_args(args: argparse.Namespace) -> int:
    """A worker, or the whole run."""
    options = from_namespace(FuzzOptions, args)
    check(options)
    return work(options) if options.worker else fuzz(options)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return run(fuzz_from_args, build_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
