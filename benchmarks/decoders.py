"""The decoders beside each other: what a second of audio costs to sing, and to learn from.

    python -m benchmarks.decoders [--frames 172] [--rows 4] [--device cpu] [--rounds 3]

"nsf-hifigan" is the decoder of the default config and the plain baseline; the others are those of the tiny and the
micro template, and NSF-HiFiGAN at the width that the micro template had before it took nsf-istft. Random weights and
latents; weight norm is folded for singing and not for learning, as it is in use. Prints the real-time factor (seconds
of work a second of audio, the best round) and the ratio to the baseline. On the CPU the seconds are those of its
cores, so that other work on the machine does not count; on a device they are those of the clock.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from benchmarks.timing import best_of, clock_for
from modules.config import ModelSection, load_config
from modules.devices import pick_device
from modules.nn.noise import Noise
from modules.nn.weight_norm import fold_weight_norm
from vdecoder import DecoderSizes, get_vocoder

TEMPLATES = Path(__file__).resolve().parent.parent / "configs_template"
RATE = 44100


def configs() -> dict[str, ModelSection]:
    """The sizes that are compared, the baseline first."""
    default, tiny, micro = (
        load_config(TEMPLATES / f"config{size}_template.json").model for size in ("", "_tiny", "_micro")
    )
    narrow = default.model_copy(update={"upsample_initial_channel": 128, "inter_channels": 96})
    return {"default": default, "tiny": tiny, "narrow": narrow, "micro": micro}


def make_decoder(model: ModelSection, device: torch.device) -> nn.Module:
    """With random weights."""
    torch.manual_seed(0)
    shared = {name: getattr(model, name) for name in DecoderSizes._fields if name != "sampling_rate"}
    return get_vocoder(model.vocoder_name)(DecoderSizes(**shared, sampling_rate=RATE)).to(device)


def make_work(model: ModelSection, rows: int, frames: int, device: torch.device, learn: bool) -> Callable[[], None]:
    """One pass over ``rows`` segments of ``frames`` frames; with ``learn`` there and back."""
    decoder = make_decoder(model, device)
    if not learn:
        fold_weight_norm(decoder.eval())
    x = torch.randn(rows, model.inter_channels, frames, device=device)
    g = torch.randn(rows, model.gin_channels, 1, device=device)
    f0 = torch.full((rows, frames), 220.0, device=device)

    def work() -> None:
        with torch.set_grad_enabled(learn):
            audio = decoder(x, f0, g, Noise(device))
            if learn:
                audio.square().mean().backward()

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=172, help="of each segment; 86 are a second")
    parser.add_argument("--rows", type=int, default=4, help="segments at once")
    parser.add_argument("--device")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    device = pick_device(args.device)
    audio_seconds = args.rows * args.frames * 512 / RATE
    print(f"{args.rows} segments of {args.frames} frames on {device}, {torch.get_num_threads()} threads")
    for title, learn in (("singing", False), ("learning", True)):
        works = {name: make_work(model, args.rows, args.frames, device, learn) for name, model in configs().items()}
        best = best_of(works, args.rounds, device, clock_for(device))
        for name, seconds in best.items():
            ratio = best["default"] / seconds
            print(f"  {title:9s} {name:9s} {seconds:7.2f} s   RTF {seconds / audio_seconds:7.4f}   {ratio:6.1f} x")


if __name__ == "__main__":
    main()
