"""The ONNX path against the torch path: start, conversion and memory, on the same song, each in processes of its own.

    python -m benchmarks.onnx WORK [--song song.wav] [--seconds 30] [--repeats 2]

WORK is a folder; where it holds none, a model of the default size with random weights is made there, with a full-size
vec768l12 and fcpe, and exported (a minute or two; --repeats 0 does no more). A model of one's own is measured by
putting it there: WORK/checkpoints/model with model.pth, config.json and the graphs, WORK/pretrain with its encoder.

The ways take turns. Seconds are of the CPU, summed over the cores (other programs on the machine disturb them least),
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
SONG = ROOT / "demo/held_out/taro/scarborough_fair.flac"
START_SECONDS = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder of the model; made where it is empty")
    parser.add_argument("--song", type=Path, default=SONG)
    parser.add_argument("--seconds", type=float, default=30.0, help="of the song, from its first second on")
    parser.add_argument("--f0_predictor", default="fcpe")
    parser.add_argument("--speaker", default="0")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--ways", nargs="+", help="some of: torch fp32, torch auto, onnx")
    args = parser.parse_args()
    folder = args.work.resolve() / "checkpoints/model"
    if not (folder / "parts.json").is_file():
        make_model(args.work.resolve(), folder)
    common = ["-d", "cpu", "-s", args.speaker, "-f0p", args.f0_predictor]
    model = ["-m", str(folder / "model.pth"), "-c", str(folder / "config.json")]
    ways = {
        "torch fp32": [*common, *model, "--precision", "fp32"],
        "torch auto": [*common, *model],
        "onnx": [*common, "--onnx", str(folder)],
    }
    rows: dict[str, list[tuple[float, ...]]] = {way: [] for way in args.ways or ways}
    with tempfile.TemporaryDirectory() as name:
        audio, rate = soundfile.read(args.song, dtype="float32", always_2d=True)
        songs = []
        for label, length in (("short", START_SECONDS), ("song", args.seconds)):
            songs.append(Path(name) / f"{label}.wav")
            soundfile.write(songs[-1], audio[rate : round((1 + length) * rate)], rate)
        for _ in range(args.repeats):
            for way, measured in rows.items():
                runs = [measure(ways[way], song, args.work, Path(name)) for song in songs]
                measured.append((*runs[0], *runs[1]))
                print(way, [round(value, 2) for value in measured[-1]], file=sys.stderr, flush=True)
    if args.repeats:
        show(rows, args)


def make_model(work: Path, folder: Path) -> None:
    """A model of the default template with random weights, its encoder, and their graphs."""
    import torch

    import models
    import onnx_export
    from benchmarks.encoders import write_full
    from modules.config import load_config

    config = load_config(ROOT / "configs_template/config_template.json")
    config.model.n_speakers, config.spk = 1, {"singer": 0}
    folder.mkdir(parents=True)
    (work / "pretrain").mkdir(exist_ok=True)
    write_full(config.model.speech_encoder, work / "pretrain")
    torch.manual_seed(1)
    model = models.SynthesizerTrn(config.spec_channels, config.segment_frames, **config.model.model_dump())
    torch.save({"model": model.state_dict(), "iteration": 1}, folder / "model.pth")
    config.save(folder / "config.json")
    flags = ["--root", str(folder.parent), "--pretrain", str(work / "pretrain")]
    if onnx_export.main(["-n", folder.name, *flags, "--parts", "encoder", "fcpe"]) != 0:
        raise SystemExit("the export failed")


def measure(flags: list[str], song: Path, work: Path, out: Path) -> tuple[float, float, float]:
    """CPU seconds, wall seconds and peak memory in MB of one conversion."""
    command = [sys.executable, str(ROOT / "inference_main.py"), "-n", str(song), "--out_dir", str(out), *flags]
    start = time.monotonic()
    process = subprocess.Popen(command, cwd=work, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - start
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"failed: {' '.join(command)}")
    return usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / 1024


def show(rows: dict[str, list[tuple[float, ...]]], args: argparse.Namespace) -> None:
    """Print the medians."""
    print(f"{args.song.name}, {args.seconds:g} s, medians of {args.repeats}, {os.cpu_count()} cores\n")
    print("| path | start, CPU s | start, wall s | song, CPU s | song, wall s | CPU s a second of song | peak MB |")
    print("|---|---|---|---|---|---|---|")
    for way, measured in rows.items():
        cpu, wall, _, song_cpu, song_wall, memory = (median(column) for column in np.array(measured).T.tolist())
        rate_of_work = (song_cpu - cpu) / max(args.seconds - START_SECONDS, 1e-9)
        figures = f"{cpu:.1f} | {wall:.1f} | {song_cpu:.1f} | {song_wall:.1f} | {rate_of_work:.2f} | {memory:.0f}"
        print(f"| {way} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
