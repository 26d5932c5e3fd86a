"""The ONNX path against the torch path: start, conversion and memory, on the same song, each in processes of its own.

python -m benchmarks.onnx checkpoints/NAME song.wav [--f0_predictor fcpe] [--repeats 3]

The two take turns. Seconds are of the CPU, summed over the cores (other programs on the machine disturb them least),
and on the wall. Start is what a song of half a second takes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 0.5


def measure(flags: list[str], song: Path, out: Path) -> tuple[float, float, float]:
    """CPU seconds, wall seconds and peak memory in MB of one conversion."""
    command = [sys.executable, str(ROOT / "inference_main.py"), "-n", str(song), "--out_dir", str(out), *flags]
    start = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - start
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"failed: {' '.join(command)}")
    return usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="checkpoints/NAME with model.pth, config.json and the graphs")
    parser.add_argument("song", type=Path)
    parser.add_argument("--f0_predictor", default="fcpe")
    parser.add_argument("--speaker", default="0")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    common = ["-d", "cpu", "-s", args.speaker, "-f0p", args.f0_predictor]
    model = ["-m", str((args.folder / "model.pth").resolve()), "-c", str((args.folder / "config.json").resolve())]
    ways = {
        "torch fp32": [*common, *model, "--precision", "fp32"],
        "torch auto": [*common, *model],
        "onnx": [*common, "--onnx", str(args.folder.resolve())],
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        audio, rate = soundfile.read(args.song, dtype="float32", always_2d=True)
        short = folder / "short.wav"
        soundfile.write(short, audio[rate : int((1 + START_SECONDS) * rate)], rate)
        seconds = len(audio) / rate
        rows: dict[str, list[tuple[float, ...]]] = {way: [] for way in ways}
        for _ in range(args.repeats):
            for way, flags in ways.items():
                rows[way].append((*measure(flags, short, folder), *measure(flags, args.song.resolve(), folder)))
    print(f"{args.song.name}, {seconds:.1f} s, medians of {args.repeats}\n")
    print("| path | start, CPU s | start, wall s | song, CPU s | song, wall s | CPU s a second of song | peak MB |")
    print("|---|---|---|---|---|---|---|")
    for way, measured in rows.items():
        cpu, wall, _, song_cpu, song_wall, memory = (median(column) for column in np.array(measured).T.tolist())
        rate_of_work = (song_cpu - cpu) / max(seconds - START_SECONDS, 1e-9)
        figures = f"{cpu:.1f} | {wall:.1f} | {song_cpu:.1f} | {song_wall:.1f} | {rate_of_work:.2f} | {memory:.0f}"
        print(f"| {way} | {figures} |")


if __name__ == "__main__":
    main()
