"""Training of the generator against the discriminators, as VITS does it (Kim et al., 2021)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW
from torch.utils.data import DataLoader

import models
from models import MultiPeriodDiscriminator, SynthesizerTrn
from modules.config import Config, load_config
from modules.data.dataset import Batch, Clip, ClipDataset, collate, read_file_list
from modules.data.sampler import ClipSampler
from modules.errors import UserError
from modules.nn.losses import discriminator_loss, feature_loss, generator_loss, kl_loss
from modules.nn.segments import slice_segments
from modules.training import base_model
from modules.training.best import BestCheckpoint
from modules.training.distributed import Ranks
from modules.training.evaluation import (
    Evaluation,
    HeldOutMetrics,
    Plateau,
    choose_clips,
    evaluate,
    mel_of_audio,
    mel_of_spec,
)
from modules.training.folder_lock import only_training
from modules.training.guard import diverged
from modules.training.ignored_keys import ignored_keys
from modules.training.lineage import Lineage
from modules.training.logging import TrainingLog
from modules.training.options import TrainOptions
from modules.training.precision import Precision
from modules.training.resume import (
    GENERATOR,
    Progress,
    TrainedNetwork,
    clean,
    restore,
    save_pair,
)
from modules.training.run import Context, Plan, TrainingRun, describe_left_out, exponential_rate, make_loader

MAX_WORKERS = 5  # beyond that, loading is never what a step waits for


def train(options: TrainOptions, ranks: Ranks) -> int:
    """Train until the config's epochs, a limit of ``options`` or a signal ends it.

    Leaves G_<step>.pth and D_<step>.pth, G_best.pth, config.json, metrics.jsonl and TensorBoard events in the
    model's folder, and goes on from the newest pair there.

    Returns:
        The exit code: 0, or 128 and the signal's number.

    Raises:
        UserError: anything the user can mend, before or in training.
    """
    config, model_dir = load_config(options.config), options.model_dir
    if ranks.is_first:
        print("reading the file lists and features", flush=True)
    loader, sampler, validation = load_clips(config, ranks, options)
    model_dir.mkdir(parents=True, exist_ok=True)
    with only_training(model_dir, ranks):
        return _train(options, ranks, config, loader, sampler, validation)


def _train(
    options: TrainOptions,
    ranks: Ranks,
    config: Config,
    loader: DataLoader[Clip],
    sampler: ClipSampler,
    validation: ClipDataset,
) -> int:
    training = loader.dataset
    assert isinstance(training, ClipDataset)
    sizes = f"{len(training)} clip(s) to train on, {len(validation)} to validate"
    if ranks.is_first:
        print(f"{sizes}; building the networks", flush=True)
    networks, progress, notes = build_networks(config, ranks, options.model_dir, options.base_dir, options.new_speakers)
    configured = config.train.half_type if config.train.fp16_run else "fp32"
    precision = Precision(options.precision or configured, ranks.device)
    if options.compile:
        networks.generator.dec.compile()  # it always sees segments of one length, so it compiles once
    context = Context(options.model_dir, options, ranks, precision, progress)
    left_out = describe_left_out([*training.skipped, *validation.skipped])
    context.begin(options.config, GENERATOR, [*notes, *left_out, *ignored_keys(config)])
    held_out = [validation[index] for index in choose_clips(len(validation))]
    with Run(config, context, networks, held_out, options) as run:
        return run.loop(loader, sampler)


class Run(TrainingRun[Batch, "tuple[Pictures, dict[str, Tensor]]"]):
    """One run of training: what the loop does every step and every so many steps."""

    figure_name = "val/mel_distance"

    def __init__(
        self, config: Config, context: Context, networks: Networks, held_out: Sequence[Clip], options: TrainOptions
    ) -> None:
        train = config.train
        plan = Plan(train.epochs, train.batch_size, train.seed, train.log_interval, train.eval_interval)
        super().__init__(plan, context, networks.pair, (*Losses._fields, "total"))
        self.config, self.networks, self.held_out, self.options = config, networks, held_out, options
        self.best = BestCheckpoint(self.model_dir, self.progress.step)
        self.metrics = HeldOutMetrics.load(config.data)
        self.plateau = Plateau(options.patience, self.best.lowest)

    def learning_rate(self) -> float:
        train = self.config.train
        return exponential_rate(train.learning_rate, train.lr_decay, self.progress.epoch, train.warmup_epochs)

    def train_step(self, batch: Batch, measure: bool) -> tuple[Tensor, tuple[Pictures, dict[str, Tensor]]]:
        adversarial = self.progress.step > self.config.train.adversarial_after
        losses, pictures, norms = train_step(self.networks, batch, self.config, self.precision, measure, adversarial)
        return torch.stack([*losses, losses.generator_total]), (pictures, norms)

    def report(
        self, log: TrainingLog, losses: dict[str, float], rate: float, seen: tuple[Pictures, dict[str, Tensor]]
    ) -> dict[str, float]:
        pictures, norms = seen
        step = self.progress.step
        values = {"loss/d/total": losses["disc"]}
        values |= {f"loss/g/{name}": value for name, value in losses.items() if name != "disc"}
        values |= {name: float(norm) for name, norm in norms.items()} | self.common_scalars(rate)
        log.scalars(step, self.progress.epoch, values)
        log.picture(step, "slice/mel_org", pictures.mel.cpu().numpy())
        log.picture(step, "slice/mel_gen", pictures.generated_mel.float().cpu().numpy())
        if self.config.model.use_automatic_f0_prediction:
            lines = {name: getattr(pictures, name).float().cpu().numpy() for name in ("lf0", "pred_lf0", "norm_lf0")}
            log.curves(step, "all/lf0", lines)
        return {"d": losses["disc"], **{name: losses[name] for name in ("gen", "fm", "mel", "kl", "lf0")}}

    def write_checkpoint(self) -> None:
        save_pair(self.model_dir, self.networks.pair, self.progress, self.config.train.learning_rate)
        clean(self.model_dir, self.config.train.keep_ckpts)

    def diverged(self, step: int, model_dir: Path, last_good: int | None) -> UserError:
        return diverged(step, model_dir, last_good)

    def evaluate(self) -> None:
        """Measure on held-out clips, log what they sound like, and keep the best generator."""
        found = evaluate(self.networks.generator, self.held_out, self.config, self.ranks, self.metrics)
        stuck = self.plateau.see(found.figures)  # on all ranks: they have to end together
        self.enough = stuck and self.options.stop_early
        if self.log is None:
            return
        # The figures are logged last: a run killed before that makes the whole evaluation up when it goes on.
        is_best = self.keep_best(self._best_content, found.distance)
        log = self.log
        self.write_log(lambda: self._log_evaluation(log, found))
        step = self.progress.step
        self.say(f"step {step}: {describe_figures(found.figures)}{', the best so far' if is_best else ''}")
        if stuck:
            self.say(describe_plateau(self.plateau.waiting, self.enough, self.best.is_there))

    def _log_evaluation(self, log: TrainingLog, found: Evaluation) -> None:
        step, sample_rate = self.progress.step, self.config.data.sampling_rate
        for number, sample in enumerate(found.samples):
            log.audio(step, f"gen/audio_{number}", sample.generated.numpy(), sample_rate)
            log.audio(step, f"gt/audio_{number}", sample.audio.numpy(), sample_rate)
            log.picture(step, f"gen/mel_{number}", sample.generated_mel.numpy())
            log.picture(step, f"gt/mel_{number}", sample.mel.numpy())
        log.scalars(step, self.progress.epoch, found.figures)

    def _best_content(self) -> dict[str, Any]:
        rate = self.config.train.learning_rate
        state = self.networks.generator.state_dict()
        return {"model": state, "iteration": self.progress.epoch, "optimizer": None, "learning_rate": rate}


def train_step(
    networks: Networks,
    batch: Batch,
    config: Config,
    precision: Precision,
    measure: bool,
    adversarial: bool = True,
) -> tuple[Losses, Pictures, dict[str, Tensor]]:
    """One update of both networks; with ``measure`` also the norms of their gradients.

    Where it is not ``adversarial``, the discriminators are left as they are.
    """
    discriminator = networks.trained_discriminator if adversarial else None
    losses, pictures = forward_losses(networks.trained_generator, discriminator, batch, config, precision)
    scaler = precision.scaler
    optimizers = {"grad_norm_g": networks.optimizer_g}
    if adversarial:
        optimizers["grad_norm_d"] = networks.optimizer_d
    for optimizer in optimizers.values():
        optimizer.zero_grad(set_to_none=True)
    # Naming the inputs keeps each loss to its own side: the discriminators get no gradient from the generator's
    # loss (none is computed, none is reduced over the ranks), and the other way round.
    if adversarial:
        scaler.scale(losses.disc).backward(inputs=list(networks.discriminator.parameters()), retain_graph=True)
    scaler.scale(losses.generator_total).backward(inputs=list(networks.generator.parameters()))
    norms = {}
    if measure:
        for name, optimizer in optimizers.items():
            scaler.unscale_(optimizer)
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            norms[name] = torch.nn.utils.get_total_norm(gradients)
    for optimizer in optimizers.values():
        scaler.step(optimizer)
    scaler.update()
    return losses, pictures, norms


def forward_losses(
    generator: nn.Module, discriminator: nn.Module | None, batch: Batch, config: Config, precision: Precision
) -> tuple[Losses, Pictures]:
    """Run both networks on a batch and compare.

    Without a discriminator its three losses are 0.

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

    disc = gen = fm = torch.zeros((), device=generated.device)
    if discriminator is not None:
        with precision.autocast():
            of_real, of_generated = discriminator(real, generated)
        disc = discriminator_loss(of_real.scores, of_generated.scores)
        gen = generator_loss(of_generated.scores)
        fm = feature_loss(of_real.features, of_generated.features)
    losses = Losses(
        disc=disc,
        gen=gen,
        fm=fm,
        mel=config.train.c_mel * F.l1_loss(real_mel, generated_mel),
        kl=config.train.c_kl * kl_loss(out.z_p, out.logs_q, out.m_p, out.logs_p, out.spec_mask),
        lf0=F.mse_loss(out.pred_lf0.float(), out.lf0.float()),  # 0 without automatic f0 prediction
    )
    curves = (x[0, 0].detach() for x in (out.pred_lf0, out.lf0, out.norm_lf0))
    return losses, Pictures(real_mel[0], generated_mel[0].detach(), *curves)


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


@dataclass
class Networks:
    """Both networks, bare and as they are trained (under DDP with several ranks), with their optimizers."""

    generator: SynthesizerTrn
    discriminator: MultiPeriodDiscriminator
    trained_generator: nn.Module
    trained_discriminator: nn.Module
    optimizer_g: AdamW
    optimizer_d: AdamW

    @property
    def pair(self) -> tuple[TrainedNetwork, TrainedNetwork]:
        """Generator and discriminator as checkpoints know them."""
        return (
            TrainedNetwork("G", self.generator, self.optimizer_g),
            TrainedNetwork("D", self.discriminator, self.optimizer_d),
        )


def build_networks(
    config: Config, ranks: Ranks, model_dir: Path, base_dir: Path | None = None, new_speakers: bool = False
) -> tuple[Networks, Progress, list[str]]:
    """Make the networks, fill them from the newest checkpoint or a base model, and wrap them for training.

    Args:
        base_dir: where the base model lies that serves where ``model_dir`` holds no pair; None is none.
        new_speakers: the speakers may all be others than those the run began with.

    Returns:
        The networks, where the run goes on, and notes for the user.
    """
    torch.manual_seed(config.train.seed)  # the same random weights on every rank
    generator = models.build(config)
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
    progress, notes = restore(model_dir, bare.pair, GENERATOR, Lineage.of(config), new_speakers)
    if not notes:
        notes = [base_model.start(base_dir, config, generator, discriminator)]
    wrapped = Networks(generator, discriminator, ranks.wrap(generator), ranks.wrap(discriminator), *optimizers)
    return wrapped, progress, notes


def load_clips(
    config: Config, ranks: Ranks, options: TrainOptions
) -> tuple[DataLoader[Clip], ClipSampler, ClipDataset]:
    """The training clips of this rank, and all validation clips."""
    training = ClipDataset(
        read_file_list(config.data.training_files), config, training=True, in_memory=config.train.all_in_mem
    )
    validation = ClipDataset(read_file_list(config.data.validation_files), config, training=False)
    workers = options.num_workers
    if workers is None:
        # On the CPU, training itself needs the cores; in memory, there is nothing to wait for.
        spare = 0 if config.train.all_in_mem or ranks.device.type == "cpu" else (os.cpu_count() or 1)
        workers = min(MAX_WORKERS, spare // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    pinned = ranks.device.type == "cuda"
    loader, sampler = make_loader(training, collate, config.train.batch_size, config.train.seed, workers, ranks, pinned)
    return loader, sampler, validation


def describe_figures(figures: Mapping[str, float]) -> str:
    """An evaluation in words."""
    words = [f"held-out mel distance {figures['val/mel_distance']:.4f}"]
    if "val/f0_cents" in figures:
        words.append(f"f0 error {figures['val/f0_cents']:.1f} cents")
    if "val/speaker_similarity" in figures:
        words.append(f"voice similarity {figures['val/speaker_similarity']:.3f}")
    return ", ".join(words)


def describe_plateau(evaluations: int, ends: bool, has_best: bool) -> str:
    """What to tell the user where training no longer helps."""
    best = f"{GENERATOR.best_name} is the one to use" if has_best else "no step was better than the model it began with"
    end = "training ends here (--stop_early)" if ends else "end with Ctrl-C if it sounds as good, or give --stop_early"
    return f"nothing has improved for {evaluations} evaluations: {best}; {end}"
