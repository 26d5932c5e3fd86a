"""Training of the diffusion model, and its checkpoints in the layout of Diffusion-SVC."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.utils.data import DataLoader

from diffusion.unit2mel import Unit2Mel, build_unit2mel
from modules import checkpoint
from modules.config import DiffusionConfig, load_diffusion_config
from modules.data.dataset import read_file_list
from modules.data.diffusion_dataset import DiffusionDataset, Window, WindowBatch, collate
from modules.data.sampler import ClipSampler
from modules.devices import pick_device
from modules.errors import UserError
from modules.training.best import BestCheckpoint
from modules.training.distributed import Ranks
from modules.training.evaluation import choose_clips
from modules.training.folder_lock import only_training
from modules.training.ignored_keys import ignored_keys
from modules.training.lineage import Lineage
from modules.training.logging import TrainingLog
from modules.training.options import DiffusionTrainOptions
from modules.training.precision import Precision
from modules.training.resume import (
    BASE_STEP,
    DIFFUSION,
    Progress,
    TrainedNetwork,
    restore,
    training_checkpoints,
)
from modules.training.run import Context, Plan, TrainingRun, describe_left_out, make_loader
from vdecoder.mel_vocoder import MelVocoder

STEPS_A_CLIP = 4  # noise levels at which a held-out clip is measured, other ones for each clip
SAMPLES = 2  # held-out clips that are sampled, shown and played


def train(options: DiffusionTrainOptions, ranks: Ranks) -> int:
    """Train until the config's epochs, a limit of ``options`` or a signal ends it.

    Leaves model_<step>.pt, model_best.pt, config.yaml, metrics.jsonl and TensorBoard events in env.expdir, and goes
    on from the newest checkpoint there.

    Returns:
        The exit code: 0, or 128 and the signal's number.

    Raises:
        UserError: anything the user can mend, before or in training.
    """
    config = load_diffusion_config(options.config)
    if ranks.is_first:
        print("reading the file lists and features", flush=True)
    loader, sampler, validation = load_windows(config, ranks, options)
    folder = Path(config.env.expdir)
    folder.mkdir(parents=True, exist_ok=True)
    with only_training(folder, ranks):
        return _train(options, ranks, config, loader, sampler, validation)


def _train(
    options: DiffusionTrainOptions,
    ranks: Ranks,
    config: DiffusionConfig,
    loader: DataLoader[Window],
    sampler: ClipSampler,
    validation: DiffusionDataset,
) -> int:
    folder = Path(config.env.expdir)
    network, progress, notes = build_network(config, ranks, folder, options.new_speakers)
    precision = Precision(options.precision or config.train.amp_dtype, ranks.device)
    vocoder, remarks = load_vocoder(config, ranks.device) if ranks.is_first else (None, [])
    training = loader.dataset
    assert isinstance(training, DiffusionDataset)
    remarks += describe_left_out([*training.skipped, *validation.skipped])
    sizes = f"{len(training)} clip(s) to train on, {len(validation)} to validate"
    context = Context(folder, options, ranks, precision, progress)
    context.begin(options.config, DIFFUSION, [sizes, *notes, *remarks, *ignored_keys(config)])
    held_out = [validation.middle(index) for index in choose_clips(len(validation))]
    with Run(config, context, network, held_out, vocoder) as run:
        return run.loop(loader, sampler)


class Run(TrainingRun[WindowBatch, None]):
    """One run of training: what the loop does every step and every so many steps."""

    figure_name = "val/loss"

    def __init__(
        self,
        config: DiffusionConfig,
        context: Context,
        network: Network,
        held_out: Sequence[Window],
        vocoder: MelVocoder | None,
    ) -> None:
        train = config.train
        plan = Plan(train.epochs, train.batch_size, train.seed, train.interval_log, train.interval_val)
        super().__init__(plan, context, (network.saved,), ("noise",))
        self.config, self.network, self.held_out, self.vocoder = config, network, held_out, vocoder
        self.best = BestCheckpoint(self.model_dir, self.progress.step, DIFFUSION, "validation_loss")

    def learning_rate(self) -> float:
        train = self.config.train
        return train.lr * train.gamma ** (self.progress.step // train.decay_step)

    def train_step(self, batch: WindowBatch, measure: bool) -> tuple[Tensor, None]:
        optimizer, scaler = self.network.optimizer, self.precision.scaler
        optimizer.zero_grad(set_to_none=True)
        with self.precision.autocast():
            loss = _loss(self.network.trained, batch)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.unsqueeze(0), None

    def report(self, log: TrainingLog, losses: dict[str, float], rate: float, seen: None) -> dict[str, float]:
        values = {"train/loss": losses["noise"], **self.common_scalars(rate)}
        log.scalars(self.progress.step, self.progress.epoch, values)
        return {"loss": losses["noise"]}

    def write_checkpoint(self) -> None:
        content = {**self._content(), "optimizer": self.network.optimizer.state_dict()}
        checkpoint.save(content, self.model_dir / f"model_{self.progress.step}.pt")
        clean(self.model_dir, self.config.train.interval_force_save)
        if not self.config.train.save_opt:
            drop_optimizer(self.model_dir / f"model_{self.saved_step}.pt")

    def _content(self) -> dict[str, Any]:
        progress = self.progress
        position = {"epoch": progress.epoch, "batch": progress.batch, "batches_per_epoch": progress.batches_per_epoch}
        state = self.network.model.state_dict()
        return {"global_step": progress.step, "model": state, "progress": {**position, "scaler": progress.scaler}}

    def diverged(self, step: int, model_dir: Path, last_good: int | None) -> UserError:
        kept = "there is no checkpoint yet" if not last_good else f"model_{last_good}.pt is kept"
        what = f"the training became NaN or infinite at step {step}; {kept}"
        return UserError(what, model_dir, "lower train.lr, or set train.amp_dtype to bf16 or fp32, and start again")

    def evaluate(self) -> None:
        """Measure the loss on held-out clips, sample a few of them, and keep the best model."""
        model, step = self.network.model, self.progress.step
        loss = held_out_loss(model, self.held_out, self.ranks)
        if self.log is None:
            return
        # The figure is logged last: a run killed before that makes the whole evaluation up when it goes on.
        is_best = self.keep_best(self._content, loss)
        log = self.log
        self.write_log(lambda: self._log_evaluation(log, loss))
        self.say(f"step {step}: validation loss {loss:.4f}{', the best so far' if is_best else ''}")

    def _log_evaluation(self, log: TrainingLog, loss: float) -> None:
        for number, window in enumerate(self.held_out[:SAMPLES]):
            self._show(log, number, window)
        log.scalars(self.progress.step, self.progress.epoch, {"val/loss": loss})

    def _show(self, log: TrainingLog, number: int, window: Window) -> None:
        """Pictures of a recorded mel and of the model's, and what they sound like."""
        step = self.progress.step
        mels = dict(
            zip(("gt", "gen"), sample_mel(self.network.model, window, self.config, self.ranks.device), strict=True)
        )
        for name, mel in mels.items():
            log.picture(step, f"{name}/mel_{number}", mel.T.numpy())
            if self.vocoder is not None:
                generator = torch.Generator().manual_seed(self.config.train.seed)
                audio = self.vocoder.synthesise(mel.unsqueeze(0), window.f0.T, generator)[0, 0].float().cpu().numpy()
                log.audio(step, f"{name}/audio_{number}", audio, self.vocoder.config.sampling_rate)


@torch.no_grad()
def held_out_loss(model: Unit2Mel, windows: Sequence[Window], ranks: Ranks) -> float:
    """The mean squared error of the predicted noise on held-out windows.

    Deterministic: the same windows, noise levels and noise every time, and the random numbers of training are not
    touched. Each clip is measured once, as one batch of a few noise levels that lie evenly over all of them; the
    levels of the clips interlock. Each rank takes its share of the clips.
    """
    model.eval()
    total, count = 0.0, 0
    for index in range(ranks.rank, len(windows), ranks.world_size):
        batch = collate([windows[index]] * STEPS_A_CLIP).to(ranks.device)
        offset = (index * 0.618034) % 1  # the golden ratio spreads any number of points evenly
        levels = (torch.arange(STEPS_A_CLIP) + offset) / STEPS_A_CLIP * model.k_step_max
        noise = torch.randn(
            STEPS_A_CLIP, 1, batch.mel.shape[2], batch.mel.shape[1], generator=torch.Generator().manual_seed(index)
        )
        total += float(_loss(model, batch, step=levels.long(), noise=noise))
        count += 1
    model.train()
    total, count_all = ranks.total([total, count])
    return total / count_all


def _loss(model: nn.Module, batch: WindowBatch, **given: Tensor) -> Tensor:
    return model(batch.units, batch.f0, batch.volume, batch.speaker, batch.mel, batch.aug_shift, **given)


@torch.inference_mode()
def sample_mel(model: Unit2Mel, window: Window, config: DiffusionConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """The recorded mel of a window and the one that the model makes of its units, [T, n_mels] on the CPU."""
    batch = collate([window]).to(device)
    model.eval()
    made = model.infer(
        batch.units,
        batch.f0,
        batch.volume,
        batch.speaker,
        source_mel=batch.mel if model.shallow_only else None,
        k_step=model.k_step_max,
        speedup=config.infer.speedup,
        method=config.infer.method,
        generator=torch.Generator().manual_seed(config.train.seed),
    )
    model.train()
    return batch.mel[0].cpu(), made[0].float().cpu()


@dataclass
class Network:
    """The model, bare and as it is trained (under DDP with several ranks), with its optimizer."""

    model: Unit2Mel
    trained: nn.Module
    optimizer: AdamW

    @property
    def saved(self) -> TrainedNetwork:
        """The model as checkpoints know it."""
        return TrainedNetwork("model", self.model, self.optimizer)


def build_network(
    config: DiffusionConfig, ranks: Ranks, folder: Path, new_speakers: bool = False
) -> tuple[Network, Progress, list[str]]:
    """Make the model, fill it from the newest checkpoint or the base model, and wrap it for training."""
    torch.manual_seed(config.train.seed)  # the same random weights on every rank
    model = build_unit2mel(config).to(ranks.device)
    optimizer = AdamW(model.parameters(), config.train.lr, weight_decay=config.train.weight_decay, fused=True)
    trained = [TrainedNetwork("model", model, optimizer)]
    progress, notes = restore(folder, trained, DIFFUSION, Lineage.of(config), new_speakers)
    if not notes:
        notes = ["starting from random weights: there is no model_0.pt to start from"]
    return Network(model, ranks.wrap(model), optimizer), progress, notes


def load_windows(
    config: DiffusionConfig, ranks: Ranks, options: DiffusionTrainOptions
) -> tuple[DataLoader[Window], ClipSampler, DiffusionDataset]:
    """The training windows of this rank, and the validation clips."""
    train = config.train
    kept_on = pick_cache_device(train.cache_device) if train.cache_all_data else torch.device("cpu")
    training = DiffusionDataset(
        read_file_list(config.data.training_files),
        config,
        augment=True,
        in_memory=train.cache_all_data,
        cache_device=ranks.device if kept_on.type == ranks.device.type else kept_on,
    )
    validation = DiffusionDataset(read_file_list(config.data.validation_files), config, augment=False, short_too=True)
    workers = train.num_workers if options.num_workers is None else options.num_workers
    if train.cache_all_data:
        workers = 0  # there is nothing to wait for
    elif options.num_workers is None and ranks.device.type == "cpu":
        workers = 0  # training itself needs the cores
    pinned = ranks.device.type == "cuda" and training.cache_device.type == "cpu"
    workers = min(workers, os.cpu_count() or 1)
    loader, sampler = make_loader(training, collate, train.batch_size, train.seed, workers, ranks, pinned)
    return loader, sampler, validation


def pick_cache_device(name: str) -> torch.device:
    """Where the data is kept. Raises UserError that names the key of the config."""
    try:
        return pick_device(name)
    except UserError as error:
        raise UserError(error.what, "diffusion.yaml, key train.cache_device", error.fix) from None


def checkpoints(folder: Path) -> dict[int, Path]:
    """The model_<step>.pt of a folder by step, the base model among them."""
    return training_checkpoints(folder, "model", DIFFUSION.suffix)


def clean(folder: Path, force_save: int) -> None:
    """Delete all but the newest checkpoint, the base model, and every ``force_save``-th step."""
    found = checkpoints(folder)
    for step, path in found.items():
        if step not in (0, max(found)) and step % force_save:
            path.unlink(missing_ok=True)


def drop_optimizer(path: Path) -> None:
    """Take the optimizer, two thirds of it, out of a checkpoint that is no longer the newest; it may be gone."""
    if path.is_file() and path.name != f"model_{BASE_STEP}.pt":
        with contextlib.suppress(UserError):  # whoever needs a broken file is told then
            content = checkpoint.load(path)
            if content.pop("optimizer", None) is not None:
                checkpoint.save(content, path)


def choose_device(config: DiffusionConfig, name: str | None) -> str | None:
    """The device of the command line, else of the config; a config that says cuda means the best there is."""
    if name is not None or config.device != "cuda":
        return name or config.device
    wanted = config.env.gpu_id
    return f"cuda:{wanted}" if torch.cuda.is_available() and wanted < torch.cuda.device_count() else None


def load_vocoder(config: DiffusionConfig, device: torch.device) -> tuple[MelVocoder | None, list[str]]:
    """The vocoder for the audio in TensorBoard; training goes on without, and says so."""
    try:
        return MelVocoder.load(config.vocoder.ckpt, config.vocoder.type, device), []
    except UserError as error:
        return None, [f"no audio in TensorBoard: {error.what} ({error.where})"]
