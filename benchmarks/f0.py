"""The f0 predictors beside each other, and the decoding of salience beside a loop over frames.

    python -m benchmarks.f0 [--audio FILE] [--seconds 30] [--device cpu] [--names pm dio ...] [--rounds 3]

Prints for each predictor how long it takes to build, its real-time factor (seconds of work a second of audio, the
best round), the share of voiced frames, and the median distance in cents to the median of all predictors where
both are voiced. rmvpe without pretrain/rmvpe.pt is timed with random weights, which cost the same and find
nothing. Then the 10 ms frames of the same audio are decoded at once and by a plain loop that reads back every
frame's maximum, as a first version would.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.timing import best_of, timed
from modules.audio import load_audio
from modules.devices import pick_device
from modules.f0 import PREDICTORS, F0Contour, get_predictor
from modules.f0.neural import NEIGHBOURS, local_average_f0
from modules.f0.rmvpe import BINS, CENTS_PER_BIN, LOWEST_CENTS, RmvpeNetwork
from tests.parity.signals import voice_like

RATE = 44100


def loop_f0(salience: Tensor, cents: Tensor, threshold: float) -> Tensor:
    """The plain form of local_average_f0: one frame after the other."""
    result = torch.zeros(len(salience), device=salience.device)
    for index, frame in enumerate(salience):
        highest = int(frame.argmax())  # waits for the device
        low, high = max(0, highest - NEIGHBOURS), highest + NEIGHBOURS + 1
        if float(frame[highest]) > threshold:
            mean = (frame[low:high] * cents[low:high]).sum() / frame[low:high].sum()
            result[index] = 10 * 2 ** (mean / 1200)
    return result


def time_predictors(args: argparse.Namespace, audio: np.ndarray, device: torch.device) -> None:
    """Print the table of predictors."""
    seconds = len(audio) / RATE
    rows: list[tuple[str, float, float]] = []
    contours: dict[str, F0Contour] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in args.names:
            weights = PREDICTORS[name].weights
            random = weights is not None and not (args.pretrain_dir / weights).is_file()
            if random:
                torch.save({"model": RmvpeNetwork().state_dict()}, Path(folder) / "rmvpe.pt")
            place = Path(folder) if random else args.pretrain_dir
            built, predictor = timed(partial(get_predictor, name, device=str(device), pretrain_dir=place))
            predictor(audio[:RATE])
            best = best_of({name: partial(predictor, audio)}, args.rounds, device)[name]
            if not random:
                contours[name] = predictor(audio)
            rows.append((f"{name}{' (random weights)' if random else ''}", built, best))
            print(f"  {name} done", flush=True)
    middle = np.median([contour.f0 for contour in contours.values()], axis=0)
    voiced = np.median([contour.uv for contour in contours.values()], axis=0) > 0.5
    print(f"\n{seconds:.1f} s of audio, {device}, {torch.get_num_threads()} thread(s)")
    print(f"{'predictor':24}{'build s':>9}{'RTF':>9}{'voiced':>9}{'cents':>9}")
    for label, built, best in rows:
        line = f"{label:24}{built:9.2f}{best / seconds:9.4f}"
        contour = contours.get(label)
        if contour is not None:
            both = voiced & (contour.uv > 0)
            distance = np.abs(1200 * np.log2(contour.f0[both] / middle[both]))
            line += f"{contour.uv.mean():9.2f}{np.median(distance) if both.any() else np.nan:9.1f}"
        print(line)


def time_decoding(frames: int, rounds: int, device: torch.device) -> None:
    """Print what decoding costs in both forms."""
    salience = torch.rand(frames, BINS, generator=torch.Generator().manual_seed(0)).to(device)
    cents = LOWEST_CENTS + CENTS_PER_BIN * torch.arange(BINS, device=device)
    with torch.inference_mode():
        torch.testing.assert_close(
            local_average_f0(salience, cents, 0.05), loop_f0(salience, cents, 0.05), rtol=1e-5, atol=0
        )
        forms = {"ours": local_average_f0, "loop": loop_f0}
        best = best_of({name: partial(form, salience, cents, 0.05) for name, form in forms.items()}, rounds, device)
    ours, loop = best["ours"], best["loop"]
    print(
        f"\ndecoding {frames} frames: loop {1e3 * loop:.1f} ms, ours {1e3 * ours:.2f} ms, ratio {loop / ours:.0f}"
    )


def main() -> None:
    """Run both measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, help="a recording; a synthetic voice by default")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--device")
    parser.add_argument("--names", nargs="+", choices=list(PREDICTORS), default=list(PREDICTORS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pretrain_dir", type=Path, default=Path("pretrain"))
    args = parser.parse_args()
    device = pick_device(args.device)
    audio = load_audio(args.audio, RATE)[0] if args.audio else voice_like(RATE, args.seconds, seed=1)
    audio = audio[: int(args.seconds * RATE)]
    time_predictors(args, audio, device)
    time_decoding(int(100 * len(audio) / RATE), args.rounds, device)


if __name__ == "__main__":
    main()
