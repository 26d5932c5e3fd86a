"""A training step: ours beside a plain one of the same losses, in one run, taking turns.

    python -m benchmarks.training [--config configs_template/config_micro_template.json] [--rounds 8]

The plain step is written as a first version would be: the discriminators run on real and on generated audio apart
and again for the generator's loss, keep computing gradients of their own weights there, every parameter's norm
is read back to the host, the mel is taken of whole clips before the segment is cut out, and AdamW loops over the
parameters. "frozen" is the plain step without the discriminators' useless gradients. Prints seconds a step
(median), steps a second and the ratio to the plain step.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import AdamW

import models
from models import MultiPeriodDiscriminator
from modules.config import Config, load_config
from modules.data.dataset import Batch
from modules.devices import pick_device
from modules.nn.losses import discriminator_loss, feature_loss, generator_loss, kl_loss
from modules.nn.segments import slice_segments
from modules.training.evaluation import mel_of_audio, mel_of_spec
from modules.training.precision import Precision
from modules.training.vits import Networks, train_step


def random_batch(config: Config, frames: int, device: torch.device) -> Batch:
    """A batch of the config's size; values do not matter for the time a step takes."""
    torch.manual_seed(0)
    size, hop = config.train.batch_size, config.data.hop_length
    batch = Batch(
        units=torch.randn(size, config.model.ssl_dim, frames),
        f0=torch.full((size, frames), 220.0),
        spec=torch.rand(size, config.spec_channels, frames),
        audio=torch.rand(size, 1, frames * hop) - 0.5,
        speaker=torch.zeros(size, 1, dtype=torch.long),
        lengths=torch.full((size,), frames),
        uv=torch.ones(size, frames),
        volume=torch.rand(size, frames) if config.model.vol_embedding else None,
    )
    return batch.to(device)


def make_networks(config: Config, device: torch.device, fused: bool) -> Networks:
    """Fresh networks and optimizers."""
    torch.manual_seed(0)
    generator = models.build(config).to(device)
    discriminator = MultiPeriodDiscriminator(width=config.model.discriminator_width).to(device)
    how: dict[str, bool] = {"fused": True} if fused else {"foreach": False}
    optimizers = [AdamW(module.parameters(), 1e-4, **how) for module in (generator, discriminator)]
    return Networks(generator, discriminator, generator, discriminator, *optimizers)


def plain_step(networks: Networks, batch: Batch, config: Config, freeze: bool) -> None:
    """The step as a first version would have it."""
    generator, discriminator = networks.generator, networks.discriminator
    segment, hop = config.segment_frames, config.data.hop_length
    out = generator(
        batch.units, batch.f0, batch.uv, batch.spec, batch.speaker, batch.lengths, batch.lengths, batch.volume
    )
    real_mel = slice_segments(mel_of_spec(batch.spec, config.data), out.ids_slice, segment)
    real = slice_segments(batch.audio, out.ids_slice * hop, segment * hop)
    (of_real,) = discriminator(real)
    (of_fake,) = discriminator(out.audio.detach())
    loss = discriminator_loss(of_real.scores, of_fake.scores)
    _ = [score.float().square().mean().item() for score in (*of_real.scores, *of_fake.scores)]
    networks.optimizer_d.zero_grad()
    loss.backward()
    read_norms(discriminator)
    networks.optimizer_d.step()

    discriminator.requires_grad_(not freeze)
    (of_real,), (of_fake,) = discriminator(real), discriminator(out.audio)
    discriminator.requires_grad_(True)
    loss = (
        generator_loss(of_fake.scores)
        + feature_loss(of_real.features, of_fake.features)
        + config.train.c_mel * F.l1_loss(real_mel, mel_of_audio(out.audio[:, 0], config.data))
        + config.train.c_kl * kl_loss(out.z_p, out.logs_q, out.m_p, out.logs_p, out.spec_mask)
        + F.mse_loss(out.pred_lf0, out.lf0)
    )
    networks.optimizer_g.zero_grad()
    loss.backward()
    read_norms(generator)
    networks.optimizer_g.step()


def read_norms(module: nn.Module) -> float:
    """The gradients' norm, one parameter at a time; each read waits for the device."""
    return sum(p.grad.norm().item() ** 2 for p in module.parameters() if p.grad is not None) ** 0.5


def main() -> None:
    """Run all steps in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs_template/config_micro_template.json"))
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--frames", type=int, default=300, help="length of the clips, hops")
    parser.add_argument("--device")
    args = parser.parse_args()
    config, device = load_config(args.config), pick_device(args.device)
    batch = random_batch(config, args.frames, device)
    plain, ours = (make_networks(config, device, fused) for fused in (False, True))
    fp32, bf16 = Precision("fp32", device), Precision("bf16", device)
    steps: dict[str, Callable[[], object]] = {
        "plain": lambda: plain_step(plain, batch, config, freeze=False),
        "frozen": lambda: plain_step(plain, batch, config, freeze=True),
        "ours": lambda: train_step(ours, batch, config, fp32, False),
        "ours, bf16": lambda: train_step(ours, batch, config, bf16, False),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(args.rounds + 1):
        for name, step in steps.items():
            synchronize(device)
            start = time.perf_counter()
            step()
            synchronize(device)
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    base = statistics.median(seconds["plain"])
    clips = f"{config.train.batch_size} clips of {args.frames} frames a batch"
    print(f"{args.config}, {clips}, {device}, {torch.get_num_threads()} thread(s)")
    print("| step | s/step | steps/s | against plain |\n|---|---|---|---|")
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"| {name} | {median:.3f} | {1 / median:.2f} | {base / median:.2f}x |")


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
