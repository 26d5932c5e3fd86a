"""Training of the generator against the discriminators, as VITS does it (Kim et al., 2021)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW
from torch.utils.data import DataLoader

from models import MultiPeriodDiscriminator, SynthesizerTrn
from modules import checkpoint
from modules.cli import EXIT_OK
from modules.config import Config, load_config
from modules.data.dataset import Batch, Clip, ClipDataset, collate, read_file_list
from modules.data.sampler import ClipSampler
from modules.errors import UserError
from modules.files import write_text
from modules.nn.losses import discriminator_loss, feature_loss, generator_loss, kl_loss
from modules.nn.segments import slice_segments
from modules.training.checkpoints import (
    BestCheckpoint,
    Player,
    Progress,
    remove_leftovers,
    restore,
    save_pair,
)
from modules.training.distributed import Ranks
from modules.training.evaluation import choose_clips, evaluate, mel_of_audio, mel_of_spec
from modules.training.guard import FiniteGuard, all_finite, lost
from modules.training.logging import LiveLine, Speedometer, TrainingLog, progress_line
from modules.training.precision import Precision
from modules.training.schedule import exponential_rate, seed_step, set_rate
from modules.training.stop import StopSignals, leave_signals_to_parent

MAX_WORKERS = 5  # beyond that, loading is never what a step waits for


@dataclass(frozen=True)
class Options:
    """What the command line adds to the config."""

    max_steps: int | None = None  # the step at which training ends, counted from the very first one
    max_minutes: float | None = None  # of this run
    num_workers: int | None = None  # processes that load clips; None: as many as are useful
    precision: str | None = None  # fp32, bf16 or fp16; None: as the config says
    compile: bool = False


class Losses(NamedTuple):
    """The parts of a step, weighted as they are summed; each a scalar tensor."""

    disc: Tensor
    gen: Tensor
    fm: Tensor
    mel: Tensor
    kl: Tensor
    lf0: Tensor

    @property
    def generator_total(self) -> Tensor:
        """What the generator minimises."""
        return self.gen + self.fm + self.mel + self.kl + self.lf0


class Pictures(NamedTuple):
    """What a step shows in TensorBoard, of the first clip of the batch."""

    mel: Tensor  # [n_mels, segment]
    generated_mel: Tensor  # [n_mels, segment]
    pred_lf0: Tensor  # [T]; these three are zeros without automatic f0 prediction
    lf0: Tensor  # [T]
    norm_lf0: Tensor  # [T]


def forward_losses(
    generator: nn.Module, discriminator: nn.Module, batch: Batch, config: Config, precision: Precision
) -> tuple[Losses, Pictures]:
    """Run both networks on a batch and compare.

    The discriminators run once, on real and generated audio in one batch, and both sides take their losses from
    that run: real features are computed once, and they are compared with generated features of the same weights.
    """
    segment, hop = config.segment_frames, config.data.hop_length
    with precision.autocast():
        out = generator(
            batch.units, batch.f0, batch.uv, batch.spec, batch.speaker, batch.lengths, batch.lengths, batch.volume
        )
    generated = out.audio.float()
    real = slice_segments(batch.audio, out.ids_slice * hop, segment * hop)
    real_mel = mel_of_spec(slice_segments(batch.spec, out.ids_slice, segment), config.data)
    generated_mel = mel_of_audio(generated[:, 0], config.data)

    with precision.autocast():
        judged_real, judged_generated = discriminator(real, generated)
    losses = Losses(
        disc=discriminator_loss(judged_real.scores, judged_generated.scores)[0],
        gen=generator_loss(judged_generated.scores)[0],
        fm=feature_loss(judged_real.features, judged_generated.features),
        mel=config.train.c_mel * F.l1_loss(real_mel, generated_mel),
        kl=config.train.c_kl * kl_loss(out.z_p, out.logs_q, out.m_p, out.logs_p, out.spec_mask),
        lf0=F.mse_loss(out.pred_lf0.float(), out.lf0.float()),  # 0 without automatic f0 prediction
    )
    curves = (x[0, 0].detach() for x in (out.pred_lf0, out.lf0, out.norm_lf0))
    return losses, Pictures(real_mel[0], generated_mel[0].detach(), *curves)


@dataclass
class Networks:
    """Both players, bare and as they are trained (under DDP with several ranks), with their optimizers."""

    generator: SynthesizerTrn
    discriminator: MultiPeriodDiscriminator
    trained_generator: nn.Module
    trained_discriminator: nn.Module
    optimizer_g: AdamW
    optimizer_d: AdamW

    @property
    def players(self) -> tuple[Player, Player]:
        """Generator and discriminator as checkpoints know them."""
        return Player("G", self.generator, self.optimizer_g), Player("D", self.discriminator, self.optimizer_d)


def build_networks(config: Config, ranks: Ranks, model_dir: Path) -> tuple[Networks, Progress, list[str]]:
    """Make the networks, fill them from the newest checkpoint or the base model, and wrap them for training."""
    torch.manual_seed(config.train.seed)  # the same random weights on every rank
    generator = SynthesizerTrn(config.spec_channels, config.segment_frames, **config.model.model_dump())
    discriminator = MultiPeriodDiscriminator(config.model.use_spectral_norm, width=config.model.discriminator_width)
    generator.to(ranks.device)
    discriminator.to(ranks.device)
    optimizers = [
        AdamW(
            module.parameters(),
            config.train.learning_rate,
            betas=config.train.betas,
            eps=config.train.eps,
            fused=True,  # one kernel for all parameters, on CUDA, MPS and CPU
        )
        for module in (generator, discriminator)
    ]
    bare = Networks(generator, discriminator, generator, discriminator, *optimizers)
    progress, notes = restore(model_dir, bare.players)
    wrapped = Networks(generator, discriminator, ranks.wrap(generator), ranks.wrap(discriminator), *optimizers)
    return wrapped, progress, notes


def train_step(
    networks: Networks, batch: Batch, config: Config, precision: Precision, measure: bool
) -> tuple[Losses, Pictures, dict[str, Tensor]]:
    """One update of both networks; with ``measure`` also the norms of their gradients."""
    losses, pictures = forward_losses(
        networks.trained_generator, networks.trained_discriminator, batch, config, precision
    )
    scaler = precision.scaler
    optimizer_g, optimizer_d = networks.optimizer_g, networks.optimizer_d
    optimizer_g.zero_grad(set_to_none=True)
    optimizer_d.zero_grad(set_to_none=True)
    # Naming the inputs keeps each loss to its own side: the discriminators get no gradient from the generator's
    # loss (none is computed, none is reduced over the ranks), and the other way round.
    scaler.scale(losses.disc).backward(inputs=list(networks.discriminator.parameters()), retain_graph=True)
    scaler.scale(losses.generator_total).backward(inputs=list(networks.generator.parameters()))
    norms = {}
    if measure:
        for name, optimizer in (("grad_norm_g", optimizer_g), ("grad_norm_d", optimizer_d)):
            scaler.unscale_(optimizer)
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            norms[name] = torch.nn.utils.get_total_norm(gradients)
    scaler.step(optimizer_d)
    scaler.step(optimizer_g)
    scaler.update()
    return losses, pictures, norms


def make_loader(
    config: Config, ranks: Ranks, options: Options
) -> tuple[DataLoader[Clip], ClipSampler, ClipDataset]:
    """The training clips of this rank, and all validation clips."""
    training = ClipDataset(
        read_file_list(config.data.training_files), config, training=True, in_memory=config.train.all_in_mem
    )
    validation = ClipDataset(read_file_list(config.data.validation_files), config, training=False)
    sampler = ClipSampler(training, ranks.rank, ranks.world_size, config.train.seed)
    workers = options.num_workers
    if workers is None:
        # On the CPU, training itself needs the cores; in memory, there is nothing to wait for.
        spare = 0 if config.train.all_in_mem or ranks.device.type == "cpu" else (os.cpu_count() or 1)
        workers = min(MAX_WORKERS, spare // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    loader = DataLoader(
        training,
        batch_size=config.train.batch_size,
        sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=ranks.device.type == "cuda",
        worker_init_fn=leave_signals_to_parent,
    )
    return loader, sampler, validation


def config_precision(config: Config) -> str:
    """fp32, bf16 or fp16."""
    return config.train.half_type if config.train.fp16_run else "fp32"


def refuse_swapped_speakers(config: Config, model_dir: Path) -> None:
    """Refuse to go on where a name has another id than the run began with: voices would change places.

    Raises:
        UserError: names the speaker.
    """
    path = model_dir / "config.json"
    if not path.is_file():
        return
    before = load_config(path).spk
    for name, speaker_id in config.spk.items():
        if before.get(name, speaker_id) != speaker_id:
            raise UserError(
                f"speaker {name!r} had the id {before[name]} so far and has {speaker_id} in the new config",
                path,
                "train with the config this run began with, or begin a new model with -m",
            )


def train(config_path: Path, model_dir: Path, options: Options, ranks: Ranks) -> int:
    """Train until the config's epochs, a limit of ``options`` or a signal ends it.

    Leaves G_<step>.pth and D_<step>.pth, G_best.pth, config.json, metrics.jsonl and TensorBoard events in
    ``model_dir``, and goes on from the newest pair there.

    Returns:
        The exit code: 0, or 128 and the signal's number.

    Raises:
        UserError: anything the user can mend, before or in training.
    """
    config = load_config(config_path)
    loader, sampler, validation = make_loader(config, ranks, options)
    model_dir.mkdir(parents=True, exist_ok=True)
    networks, progress, notes = build_networks(config, ranks, model_dir)
    precision = Precision(options.precision or config_precision(config), ranks.device)
    if progress.step:
        refuse_swapped_speakers(config, model_dir)
    if progress.scaler:
        precision.scaler.load_state_dict(progress.scaler)
    if options.compile:
        networks.generator.dec.compile()  # it always sees segments of one length, so it compiles once
    ranks.wait()  # every rank has read the folder before the first one writes there
    if ranks.is_first:
        remove_leftovers(model_dir)
        write_text(model_dir / "config.json", config_path.read_text(encoding="utf-8"))
        for note in notes:
            print(note, flush=True)
    held_out = [validation[index] for index in choose_clips(len(validation))]
    with Run(config, model_dir, options, ranks, precision, networks, progress, held_out) as run:
        return run.loop(loader, sampler)


class Run:
    """One run of training: the loop, and what it does every so many steps.

    Use as a context manager: it then holds the signal handlers and the log files.
    """

    def __init__(
        self,
        config: Config,
        model_dir: Path,
        options: Options,
        ranks: Ranks,
        precision: Precision,
        networks: Networks,
        progress: Progress,
        held_out: Sequence[Clip],
    ) -> None:
        self.config, self.model_dir, self.options, self.ranks = config, model_dir, options, ranks
        self.precision, self.networks, self.progress, self.held_out = precision, networks, progress, held_out
        self.saved_step = progress.step
        self.guard = FiniteGuard(ranks, has_scaler=precision.scaler.is_enabled())
        self.best = BestCheckpoint(model_dir, progress.step)
        self.speed, self.line = Speedometer(), LiveLine()
        self.sums = torch.zeros(len(Losses._fields) + 1, device=ranks.device)  # of the losses since the last line
        self.summed = 0

    def __enter__(self) -> Run:
        self.stop = StopSignals(self.options.max_minutes).__enter__()
        self.log = TrainingLog(self.model_dir, self.progress.step) if self.ranks.is_first else None
        return self

    def __exit__(self, *error: Any) -> None:
        if self.log is not None:
            self.log.close()
        self.stop.__exit__(*error)

    def loop(self, loader: DataLoader[Clip], sampler: ClipSampler) -> int:
        """Train to the end; returns the exit code."""
        config, progress = self.config.train, self.progress
        batches = len(loader)
        self._find_position(batches)
        last_step = progress.step + (config.epochs - progress.epoch + 1) * batches - progress.batch
        last_step = min(last_step, self.options.max_steps or last_step)
        if progress.step >= last_step:
            self._say(f"nothing to do: step {progress.step} of {last_step} is done")
            return EXIT_OK
        if progress.step == 0:
            self._evaluate()
        while progress.step < last_step:
            rate = exponential_rate(config.learning_rate, config.lr_decay, progress.epoch, config.warmup_epochs)
            set_rate(self.networks.optimizer_g, rate)
            set_rate(self.networks.optimizer_d, rate)
            sampler.set_position(progress.epoch, skip=progress.batch * config.batch_size)
            for batch in loader:
                progress.step += 1
                progress.batch += 1
                step = progress.step
                due = step % config.log_interval == 0
                seed_step(config.seed, self.ranks.rank, step)
                batch = batch.to(self.ranks.device)
                losses, pictures, norms = train_step(self.networks, batch, self.config, self.precision, due)
                self._watch(step, losses)
                if due:
                    self._report(last_step, rate, norms, pictures)
                if step % config.eval_interval == 0:
                    self._save()
                    self._evaluate()
                received, expired = self.ranks.highest([self.stop.received or 0, self.stop.expired])
                if received or expired or step == last_step:
                    return self._finish(received)
            progress.epoch += 1
            progress.batch = 0
        return self._finish(0)

    def _find_position(self, batches: int) -> None:
        """Go on in the middle of an epoch, or start it again where the data or the ranks are not the same."""
        progress = self.progress
        if progress.batches_per_epoch != batches:
            progress.batch = 0
        progress.batches_per_epoch = batches
        if progress.batch >= batches:
            progress.epoch, progress.batch = progress.epoch + 1, 0

    def _watch(self, step: int, losses: Losses) -> None:
        """Add up the losses and see that they are finite, all on the device."""
        parts = torch.stack([*losses, losses.generator_total]).detach()
        self.guard.watch(step, parts.sum())
        self.sums += parts
        self.summed += 1
        self.speed.step()
        self.line.update(f"step {step}, {self.speed.rate:.2f} steps/s")

    def _report(self, last_step: int, rate: float, norms: dict[str, Tensor], pictures: Pictures) -> None:
        """Log the mean losses since the last line; here the host waits for the device."""
        progress = self.progress
        self.guard.check(self.model_dir, self.saved_step)
        means = self.ranks.mean_tensor(self.sums / self.summed).tolist()
        self.sums.zero_()
        self.summed = 0
        if self.log is None:
            return
        named = dict(zip((*Losses._fields, "total"), means, strict=True))
        values = {"loss/d/total": named.pop("disc"), **{f"loss/g/{name}": value for name, value in named.items()}}
        values |= {"learning_rate": rate, **{name: float(norm) for name, norm in norms.items()}}
        if self.precision.scaler.is_enabled():
            values["grad_scale"] = self.precision.scaler.get_scale()
        values["steps_per_second"] = self.speed.rate
        self.log.scalars(progress.step, progress.epoch, values)
        self.log.picture(progress.step, "slice/mel_org", pictures.mel.cpu().numpy())
        self.log.picture(progress.step, "slice/mel_gen", pictures.generated_mel.float().cpu().numpy())
        if self.config.model.use_automatic_f0_prediction:
            lines = {name: getattr(pictures, name).float().cpu().numpy() for name in ("lf0", "pred_lf0", "norm_lf0")}
            self.log.curves(progress.step, "all/lf0", lines)
        shown = {"d": values["loss/d/total"], **{name: named[name] for name in ("gen", "fm", "mel", "kl", "lf0")}}
        self._say(progress_line(progress.step, last_step, progress.epoch, self.speed.rate, shown))

    def _save(self) -> None:
        """Write the pair of this step, unless its numbers are not finite, and delete the oldest ones."""
        if self.saved_step == self.progress.step:
            return
        self.guard.check(self.model_dir, self.saved_step)
        networks = self.networks
        if not all_finite((networks.generator, networks.discriminator)):
            raise lost(self.progress.step, self.model_dir, self.saved_step)
        if self.ranks.is_first:
            self.progress.scaler = self.precision.scaler.state_dict()
            save_pair(self.model_dir, networks.players, self.progress, self.config.train.learning_rate)
            checkpoint.clean(self.model_dir, self.config.train.keep_ckpts)
        self.saved_step = self.progress.step
        self.speed.pause()

    def _evaluate(self) -> None:
        """Measure the held-out mel distance, show what it sounds like, and keep the best generator."""
        distance, samples = evaluate(self.networks.generator, self.held_out, self.config, self.ranks)
        self.speed.pause()
        if self.log is None:
            return
        step, sample_rate = self.progress.step, self.config.data.sampling_rate
        self.log.scalars(step, self.progress.epoch, {"val/mel_distance": distance})
        for number, sample in enumerate(samples):
            self.log.audio(step, f"gen/audio_{number}", sample.generated.numpy(), sample_rate)
            self.log.audio(step, f"gt/audio_{number}", sample.audio.numpy(), sample_rate)
            self.log.picture(step, f"gen/mel_{number}", sample.generated_mel.numpy())
            self.log.picture(step, f"gt/mel_{number}", sample.mel.numpy())
        is_best = step > 0 and self.best.offer(
            self.networks.generator, self.progress, distance, self.config.train.learning_rate
        )
        self._say(f"step {step}: held-out mel distance {distance:.4f}{', the best so far' if is_best else ''}")

    def _finish(self, received: int) -> int:
        """Save, and unless a signal asks for haste evaluate; returns the exit code."""
        fresh = self.saved_step != self.progress.step
        self._save()
        if fresh and not received:
            self._evaluate()
        self._say(f"saved at step {self.progress.step}; the same command goes on from here")
        return 128 + received if received else EXIT_OK

    def _say(self, text: str) -> None:
        if self.ranks.is_first:
            self.line.clear()
            print(text, flush=True)
