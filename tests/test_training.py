"""Training in this process: losses, precision, resuming, checkpoints, logs, and what stops a run."""

from __future__ import annotations

import errno
import itertools
import json
import math
import os
import re
import resource
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import train as script
from models import MultiPeriodDiscriminator, SynthesizerTrn
from modules import checkpoint
from modules.audio.spectrogram import spectrogram
from modules.config import Config, load_config
from modules.data import features
from modules.data.dataset import Batch, ClipDataset, collate, read_file_list
from modules.data.features import FeaturePaths
from modules.errors import UserError
from modules.training.distributed import Ranks, join_ranks
from modules.training.evaluation import MAX_CLIPS, choose_clips, evaluate
from modules.training.guard import TOLERATED_WITH_SCALER, FiniteGuard
from modules.training.logging import MetricsFile, read_metrics, spectrogram_picture
from modules.training.options import TrainOptions
from modules.training.precision import Precision
from modules.training.resume import (
    Progress,
    TrainedNetwork,
    newest,
    optimizer_incompatibility,
    restore,
    save_pair,
    training_checkpoints,
)
from modules.training.run import exponential_rate, seed_step
from modules.training.stop import StopSignals
from modules.training.vits import Networks, build_networks, forward_losses, train, train_step
from tests.leftovers import left_by_a_killed_process
from tests.parity import fill, golden, signals
from tests.tiny_voice import make_dataset, tiny_config

GOLDENS = Path(__file__).parent / "parity/goldens"
CPU = Ranks(torch.device("cpu"))
NEVER = 10**6


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of six training clips and two for validation."""
    root = tmp_path_factory.mktemp("voice")
    make_dataset(root, tiny_config())
    return root


@pytest.fixture
def voice(prepared: Path, tmp_path: Path) -> Path:
    """A folder of its own for each test, with the dataset's lists and no logs yet."""
    shutil.copytree(prepared / "configs", tmp_path / "configs")
    return tmp_path


def settings(voice: Path, train_values: dict[str, Any] | None = None, **model: Any) -> Path:
    """The voice's config.json, changed."""
    path = voice / "configs/config.json"
    values = json.loads(path.read_text())
    values["train"].update(train_values or {})
    values["model"].update(model)
    path.write_text(json.dumps(values))
    return path


def options_of(voice: Path, name: str = "m", **options: Any) -> TrainOptions:
    return TrainOptions(config=voice / "configs/config.json", log_dir=voice / "logs", model=name, **options)


def run(voice: Path, max_steps: int, name: str = "m", **options: Any) -> Path:
    """Train up to a step; returns the model's folder."""
    given = options_of(voice, name, max_steps=max_steps, **options)
    assert train(given, CPU) == 0
    return given.model_dir


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return checkpoint.load(folder / name)["model"]


def assert_equal_weights(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for key in left:
        assert torch.equal(left[key], right[key]), key


def a_batch(prepared: Path, config: Config, count: int = 2) -> Batch:
    wavs = read_file_list(load_config(prepared / "configs/config.json").data.training_files)
    clips = ClipDataset(wavs, config, training=True)
    return collate([clips[index] for index in range(count)])


def networks_of(config: Config, folder: Path) -> Networks:
    return build_networks(config, CPU, folder)[0]


# --- losses and the step -------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["c_default", "c_vol"])
def test_losses_of_a_step_equal_the_golden_ones(case: str) -> None:
    meta, arrays = golden.load(GOLDENS / f"{case}.npz")
    config = Config.model_validate({name: meta["config"][name] for name in ("train", "data", "model")})
    generator = SynthesizerTrn(config.spec_channels, config.segment_frames, **meta["config"]["model"])
    discriminator = MultiPeriodDiscriminator()
    for module, name in ((generator, case), (discriminator, "sovits_D")):
        manifest = json.loads((GOLDENS / f"manifests/{name}.json").read_text())
        module.load_state_dict({key: torch.from_numpy(value) for key, value in fill.fill_state_dict(manifest).items()})
        module.eval()
    batch = golden_batch(meta, arrays)
    torch.manual_seed(1234)
    losses, pictures = forward_losses(generator, discriminator, batch, config, Precision("fp32", CPU.device))
    values = [*losses, losses.generator_total]
    golden.compare(meta, arrays, "losses", np.array([float(value.detach()) for value in values]))
    np.testing.assert_allclose(pictures.mel.numpy(), arrays["out_y_mel"][0], atol=1e-3)


def golden_batch(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> Batch:
    x = {key: torch.from_numpy(value) for key, value in golden.inputs(meta, arrays).items()}
    lengths = x["lengths"]
    audio, units = torch.zeros(len(lengths), 20480), x["c"].clone()
    for row, length in enumerate(lengths.tolist()):
        sung = signals.voice_like(44100, 40 * 512 / 44100 + 0.01, [180 + 40 * row, 220, 260, -1, 230, 200], seed=row)
        audio[row] = torch.from_numpy(sung[:20480])
        audio[row, length * 512 :] = 0
        units[row, :, length:] = 0
    spec = spectrogram(audio, 2048, 512, 2048)
    for row, length in enumerate(lengths.tolist()):
        spec[row, :, length:] = 0
    return Batch(units, x["f0"], spec, audio[:, None], x["g"], lengths, x["uv"], x.get("vol"))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_losses_go_down(prepared: Path, tmp_path: Path, precision: str) -> None:
    config = tiny_config({"learning_rate": 2e-3})
    networks, batch = networks_of(config, tmp_path), a_batch(prepared, config)
    numbers = Precision(precision, CPU.device)
    history = []
    for step in range(24):
        seed_step(1, 0, step % 2)  # the same two segments again and again
        history.append([float(x.detach()) for x in train_step(networks, batch, config, numbers, False)[0]])
    first, last = np.mean(history[:4], axis=0), np.mean(history[-4:], axis=0)
    disc, _, _, mel, kl, lf0 = range(6)
    assert last[mel] < 0.85 * first[mel]
    assert last[kl] < 0.5 * first[kl] and last[lf0] < 0.5 * first[lf0] and last[disc] < 0.9 * first[disc]
    assert all(p.dtype == torch.float32 for p in networks.generator.parameters())


def test_each_loss_moves_its_own_side_only_and_the_discriminators_run_once(prepared: Path, tmp_path: Path) -> None:
    config = tiny_config()
    networks, batch = networks_of(config, tmp_path), a_batch(prepared, config)
    numbers = Precision("fp32", CPU.device)
    calls = []
    networks.discriminator.register_forward_hook(lambda *_: calls.append(1))

    seed_step(1, 0, 1)
    losses, _ = forward_losses(networks.generator, networks.discriminator, batch, config, numbers)
    expected_d = torch.autograd.grad(losses.disc, list(networks.discriminator.parameters()), retain_graph=True)
    expected_g = torch.autograd.grad(losses.generator_total, list(networks.generator.parameters()))
    seed_step(1, 0, 1)
    train_step(networks, batch, config, numbers, False)

    assert len(calls) == 2  # one for each of the two runs above
    for module, expected in ((networks.discriminator, expected_d), (networks.generator, expected_g)):
        for parameter, gradient in zip(module.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-4)


def test_a_step_that_is_not_adversarial_trains_the_generator_alone(prepared: Path, tmp_path: Path) -> None:
    config = tiny_config()
    networks, batch = networks_of(config, tmp_path), a_batch(prepared, config)
    before = {key: value.clone() for key, value in networks.discriminator.state_dict().items()}
    losses, _, norms = train_step(networks, batch, config, Precision("fp32", CPU.device), True, adversarial=False)
    assert [float(x.detach()) for x in (losses.disc, losses.gen, losses.fm)] == [0, 0, 0]
    assert set(norms) == {"grad_norm_g"} and float(norms["grad_norm_g"]) > 0
    assert all(torch.equal(value, before[key]) for key, value in networks.discriminator.state_dict().items())


class _Reads(TorchDispatchMode):
    """Counts reads of a tensor's value, for which a GPU would have to be waited for."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


def test_a_step_reads_no_value_back(prepared: Path, tmp_path: Path) -> None:
    config = tiny_config(model={"vol_embedding": True})
    networks, batch = networks_of(config, tmp_path), a_batch(prepared, config)
    guard = FiniteGuard(CPU, has_scaler=False)
    with _Reads() as reads:
        losses, _, _ = train_step(networks, batch, config, Precision("fp32", CPU.device), False)
        guard.watch(1, losses.generator_total)
    assert reads.count == 0
    with _Reads() as reads:
        guard.check(tmp_path, None)
    assert reads.count == 1  # the counter itself counts


def test_gradient_norms_are_those_of_the_gradients(prepared: Path, tmp_path: Path) -> None:
    config = tiny_config()
    networks, batch = networks_of(config, tmp_path), a_batch(prepared, config)
    _, _, norms = train_step(networks, batch, config, Precision("fp32", CPU.device), True)
    for module, name in ((networks.generator, "grad_norm_g"), (networks.discriminator, "grad_norm_d")):
        squares = sum(float(p.grad.double().square().sum()) for p in module.parameters() if p.grad is not None)
        assert float(norms[name]) == pytest.approx(math.sqrt(squares), rel=1e-4)


def test_fp16_without_cuda_takes_bf16_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert Precision("fp16", CPU.device).name == "bf16"
    assert "bf16" in capsys.readouterr().err


def test_the_rate_falls_each_epoch_after_a_linear_warmup() -> None:
    rates = [exponential_rate(1e-4, 0.5, epoch, warmup_epochs=2) for epoch in (1, 2, 3, 4)]
    assert rates == pytest.approx([0.5e-4, 1e-4, 0.25e-4, 0.125e-4])
    assert exponential_rate(1e-4, 0.999875, 1) == 1e-4


def test_ranks_and_steps_draw_other_random_numbers() -> None:
    """(A18)"""

    def draw(seed: int, rank: int, step: int) -> float:
        seed_step(seed, rank, step)
        return float(torch.rand(()))

    draws = {draw(seed, rank, step) for seed, rank, step in itertools.product((1, 2), range(3), range(5))}
    assert len(draws) == 30 and draw(1, 2, 3) in draws


# --- a run and its files -------------------------------------------------------------------------------------


def test_a_run_leaves_pairs_the_best_and_readable_logs(voice: Path) -> None:
    settings(voice, {"keep_ckpts": 2, "eval_interval": 2})
    folder = run(voice, max_steps=7)

    for letter in "GD":  # 6 and 7 are kept; 7 is the end of the run
        assert list(training_checkpoints(folder, letter)) == [6, 7]
        content = checkpoint.load(folder / f"{letter}_7.pth")
        assert content["iteration"] == 3 and content["learning_rate"] == 1e-3
        assert not any(key.startswith("module.") for key in content["model"])
    rows = read_metrics(folder / "metrics.jsonl")
    distances = {row["step"]: row["val/mel_distance"] for row in rows if "val/mel_distance" in row}
    assert list(distances) == [0, 2, 4, 6, 7]
    best = json.loads((folder / "best.json").read_text())
    assert best["mel_distance"] == min(distances.values()) == distances[best["step"]]
    if best["step"] == 7:
        assert_equal_weights(weights(folder, "G_best.pth"), weights(folder, "G_7.pth"))
    assert [row["step"] for row in rows if "loss/g/mel" in row] == [2, 4, 6]
    assert (folder / "config.json").read_text() == (voice / "configs/config.json").read_text()
    assert_board_has(folder, rows)


def assert_board_has(folder: Path, rows: list[dict[str, Any]]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder), size_guidance={"images": 0, "audio": 0})
    board.Reload()
    tags = board.Tags()
    assert {"loss/d/total", "loss/g/total", "val/mel_distance", "grad_norm_g", "learning_rate"} <= set(tags["scalars"])
    assert {"slice/mel_org", "slice/mel_gen", "all/lf0", "gen/mel_0", "gt/mel_1"} <= set(tags["images"])
    assert {"gen/audio_0", "gt/audio_1"} <= set(tags["audio"])
    logged = [event.value for event in board.Scalars("loss/g/mel")]
    assert logged == pytest.approx([row["loss/g/mel"] for row in rows if "loss/g/mel" in row], rel=1e-5)


def test_a_resumed_run_has_the_numbers_of_an_uninterrupted_one(voice: Path) -> None:
    settings(voice, {"eval_interval": 4})
    whole = run(voice, max_steps=8, name="whole")
    run(voice, max_steps=4, name="parts")  # in the middle of the second epoch: three batches an epoch
    parts = run(voice, max_steps=8, name="parts")
    for letter in "GD":
        assert_equal_weights(weights(whole, f"{letter}_8.pth"), weights(parts, f"{letter}_8.pth"))
    timings = ("seconds", "steps_per_second")
    left, right = (
        [{k: v for k, v in row.items() if k not in timings} for row in read_metrics(folder / "metrics.jsonl")]
        for folder in (whole, parts)
    )
    assert left == right and len(left) > 4


def test_evaluation_leaves_the_random_numbers_of_training_alone(voice: Path) -> None:
    """(A17)"""
    settings(voice, {"eval_interval": 1, "log_interval": NEVER})
    often = run(voice, max_steps=4, name="often")
    settings(voice, {"eval_interval": NEVER})
    never = run(voice, max_steps=4, name="never")
    assert_equal_weights(weights(often, "G_4.pth"), weights(never, "G_4.pth"))


def test_evaluation_repeats_and_does_not_touch_the_global_generator(prepared: Path, tmp_path: Path) -> None:
    """(A17)"""
    config = load_config(prepared / "configs/config.json")
    clips = ClipDataset(read_file_list(config.data.validation_files), config, training=False)
    generator = networks_of(config, tmp_path).generator
    state = torch.get_rng_state()
    first, _, samples = evaluate(generator, [clips[0], clips[1]], config, CPU)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    assert evaluate(generator, [clips[0], clips[1]], config, CPU)[0] == first
    assert generator.training
    distances = [float((s.mel - s.generated_mel).abs().mean()) for s in samples]
    assert first == pytest.approx(sum(distances) / 2)
    assert samples[0].audio.shape == samples[0].generated.shape == clips[0].audio[0].shape


def test_long_validation_lists_are_sampled_evenly() -> None:
    assert choose_clips(3) == [0, 1, 2]
    chosen = choose_clips(1000)
    assert len(chosen) == MAX_CLIPS and chosen[0] == 0 and chosen[-1] > 960


def test_finished_runs_have_nothing_to_do(voice: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings(voice, {"log_interval": NEVER})
    folder = run(voice, max_steps=1)
    before = (folder / "G_1.pth").read_bytes()
    run(voice, max_steps=1)
    assert "nothing to do" in capsys.readouterr().out
    assert (folder / "G_1.pth").read_bytes() == before


def test_epochs_end_a_run(voice: Path) -> None:
    settings(voice, {"epochs": 1, "log_interval": NEVER, "eval_interval": NEVER})
    folder = voice / "logs/m"
    assert train(options_of(voice), CPU) == 0
    assert list(training_checkpoints(folder, "G")) == [3]


def test_minutes_end_a_run_with_a_checkpoint(voice: Path) -> None:
    settings(voice, {"log_interval": NEVER, "eval_interval": NEVER})
    folder = voice / "logs/m"
    assert train(options_of(voice, max_minutes=1e-6), CPU) == 0
    assert list(training_checkpoints(folder, "D")) == [1]


def test_metrics_beyond_the_checkpoint_and_half_lines_are_dropped(voice: Path) -> None:
    settings(voice, {"eval_interval": 2})
    folder = run(voice, max_steps=2)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "epoch": 2, "loss/g/mel": 1.0}\n{"step": 6, "epo')
    rows = read_metrics(run(voice, max_steps=4) / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 2, 2, 4, 4]
    assert all(row.get("loss/g/mel", 9) > 5 for row in rows)
    assert all(left["seconds"] <= right["seconds"] for left, right in itertools.pairwise(rows))


def test_discriminators_take_part_from_the_step_that_the_config_names(voice: Path) -> None:
    settings(voice, {"adversarial_after": 2})
    begun, later = weights(run(voice, max_steps=2), "D_2.pth"), weights(run(voice, max_steps=3), "D_3.pth")
    fresh = networks_of(load_config(voice / "configs/config.json"), voice).discriminator.state_dict()
    assert_equal_weights(begun, fresh)
    assert any(not torch.equal(later[key], begun[key]) for key in begun)


def test_all_in_mem_and_volume_augmentation_train(voice: Path) -> None:
    settings(voice, {"all_in_mem": True, "vol_aug": True}, vol_embedding=True)
    folder = run(voice, max_steps=2)
    assert "emb_vol.weight" in weights(folder, "G_2.pth")


def test_workers_load_the_same_clips_as_the_process_itself(voice: Path) -> None:
    settings(voice, {"log_interval": NEVER, "eval_interval": NEVER, "max_speclen": 30})
    alone = run(voice, max_steps=5, name="alone")
    helped = run(voice, max_steps=5, name="helped", num_workers=1)
    assert_equal_weights(weights(alone, "G_5.pth"), weights(helped, "G_5.pth"))


def test_compiled_decoders_leave_plain_checkpoints(voice: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, *args, **kwargs: compiled.append(type(self).__name__))
    settings(voice, {"log_interval": NEVER, "eval_interval": NEVER})
    folder = run(voice, max_steps=1, compile=True)
    assert len(compiled) == 1 and not any("_orig_mod" in key for key in weights(folder, "G_1.pth"))


# --- where a run starts from ---------------------------------------------------------------------------------


def base_model(voice: Path, config: Config | None = None) -> Path:
    """G_0.pth and D_0.pth in logs/m; returns the folder."""
    folder = voice / "logs/m"
    config = config or load_config(voice / "configs/config.json")
    networks = networks_of(config, voice / "nothing")
    for network in networks.pair:
        content = {"model": network.module.state_dict(), "iteration": 7, "optimizer": None, "learning_rate": 1e-4}
        checkpoint.save(content, folder / f"{network.name}_0.pth")
    return folder


def test_a_base_model_is_loaded_and_never_written(voice: Path) -> None:
    """(A16)"""
    settings(voice, {"eval_interval": 1, "keep_ckpts": 1, "log_interval": NEVER, "learning_rate": 1e-9})
    folder = base_model(voice, load_config(settings(voice, {"seed": 99})))
    settings(voice, {"seed": 1})
    before = {letter: (folder / f"{letter}_0.pth").read_bytes() for letter in "GD"}
    run(voice, max_steps=3)
    assert {letter: (folder / f"{letter}_0.pth").read_bytes() for letter in "GD"} == before
    assert list(training_checkpoints(folder, "G")) == [0, 3]
    base, trained = weights(folder, "G_0.pth"), weights(folder, "G_3.pth")
    assert all(torch.allclose(base[key], trained[key], atol=1e-5) for key in base)  # it began there
    assert checkpoint.load(folder / "G_3.pth")["iteration"] == 1  # with its own epochs


def test_a_base_model_may_be_safetensors(voice: Path) -> None:
    folder = base_model(voice, load_config(settings(voice, {"seed": 99})))
    settings(voice, {"seed": 1})
    expected = weights(folder, "G_0.pth")
    for name in ("G_0", "D_0"):
        checkpoint.save_safetensors(weights(folder, f"{name}.pth"), folder / f"{name}.safetensors", {})
        assert training_checkpoints(folder, name[0]) == {0: folder / f"{name}.pth"}
        (folder / f"{name}.pth").unlink()
    (folder / "G_7.safetensors").write_bytes(b"no training checkpoint")
    networks = build_networks(load_config(voice / "configs/config.json"), CPU, folder)[0]
    assert_equal_weights(networks.generator.state_dict(), expected)


def test_keys_of_a_base_model_that_do_not_fit_are_reported_and_stay_as_initialised(
    voice: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings(voice, {"log_interval": NEVER, "eval_interval": NEVER})
    folder = base_model(voice, load_config(settings(voice, filter_channels=48)))
    settings(voice, filter_channels=32)
    run(voice, max_steps=1)
    printed = capsys.readouterr().out
    assert "enc_p.enc_.ffn_layers.0.conv_1.weight: [48, 16, 3] in the file, [32, 16, 3] in the model" in printed
    assert "left as initialised" in printed and "keys of another shape" in printed
    assert weights(folder, "G_1.pth")["enc_p.enc_.ffn_layers.0.conv_1.weight"].shape == (32, 16, 3)


def test_released_models_are_neither_resumed_from_nor_deleted(voice: Path) -> None:
    """(A15)"""
    settings(voice, {"log_interval": NEVER, "eval_interval": 1, "keep_ckpts": 1})
    folder = run(voice, max_steps=1)
    strangers = ["G_9_release.pth", "G_9_release_half.pth", "G_best_old.pth", "D_x.pth", "Great.pth"]
    for name in strangers:
        shutil.copy(folder / "G_1.pth", folder / name)
    run(voice, max_steps=3)
    assert all((folder / name).is_file() for name in strangers)
    assert list(training_checkpoints(folder, "G")) == [3]


@pytest.mark.parametrize("broken", ["G_2.pth", "D_2.pth"])
def test_a_broken_checkpoint_stops_the_run_and_nothing_is_overwritten(voice: Path, broken: str) -> None:
    """(A16)"""
    settings(voice, {"log_interval": NEVER, "eval_interval": 1})
    folder = run(voice, max_steps=2)
    (folder / broken).write_bytes((folder / broken).read_bytes()[:5000])
    before = {path.name: path.read_bytes() for path in folder.glob("*.pth")}
    with pytest.raises(UserError) as caught:
        run(voice, max_steps=4)
    assert caught.value.where.endswith(broken)
    assert {path.name: path.read_bytes() for path in folder.glob("*.pth")} == before


def test_half_a_pair_counts_as_none(voice: Path) -> None:
    settings(voice, {"log_interval": NEVER, "eval_interval": 1})
    folder = run(voice, max_steps=2)
    (folder / "G_2.pth").unlink()  # a kill between the two writes
    restored, notes = restore(folder, networks_of(load_config(voice / "configs/config.json"), voice / "x").pair)
    assert restored.step == 1 and notes == ["resuming from step 1"]
    run(voice, max_steps=3)
    assert list(training_checkpoints(folder, "D")) == [1, 2, 3]


@pytest.mark.parametrize(("present", "named"), [("G_0", "D_0"), ("D_0", "G_0"), ("G_800", "D_800")])
def test_one_side_alone_is_refused(voice: Path, present: str, named: str) -> None:
    folder = base_model(voice)
    shutil.move(folder / f"{present[0]}_0.pth", folder / f"{present}.pth")
    (folder / f"{named[0]}_0.pth").unlink()
    with pytest.raises(UserError, match=f"{present}.pth is there but {named}.pth is not"):
        run(voice, max_steps=1)


def test_a_first_save_that_was_killed_half_way_starts_again(voice: Path) -> None:
    settings(voice, {"log_interval": NEVER, "eval_interval": 1})
    folder = run(voice, max_steps=1)
    (folder / "G_1.pth").unlink()
    left_by_a_killed_process(folder / "G_1.pth")
    run(voice, max_steps=1)
    assert (folder / "G_1.pth").is_file() and not list(folder.glob(".G_*"))


def test_resuming_with_room_for_fewer_speakers_is_an_error_before_any_step(voice: Path) -> None:
    """(B12)"""
    settings(voice, {"log_interval": NEVER, "eval_interval": 1}, n_speakers=3)
    folder = run(voice, max_steps=1)
    settings(voice, n_speakers=2)
    with pytest.raises(UserError, match=re.escape("emb_g.weight: [3, 16] in the file, [2, 16]")) as caught:
        run(voice, max_steps=2)
    assert "G_0.pth" in caught.value.fix and not (folder / "G_2.pth").exists()


def test_an_optimizer_of_another_shape_is_reported_and_begins_anew(
    voice: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """(B12)"""
    settings(voice, {"log_interval": NEVER, "eval_interval": 1})
    folder = run(voice, max_steps=1)
    for name, change in (("G_1.pth", _grow_a_moment), ("D_1.pth", lambda optimizer: None)):
        content = checkpoint.load(folder / name)
        content["optimizer"] = change(content["optimizer"])
        checkpoint.save(content, folder / name)
    run(voice, max_steps=2)
    printed = capsys.readouterr().out
    assert "G_1.pth: the optimizer state of parameter 0 has the shape [3, 16]" in printed
    assert "D_1.pth: no optimizer state is in the file" in printed
    steps = checkpoint.load(folder / "G_2.pth")["optimizer"]["state"]
    assert float(steps[0]["step"]) == 1


def _grow_a_moment(optimizer: dict[str, Any]) -> dict[str, Any]:
    optimizer["state"][0]["exp_avg"] = torch.zeros(3, 16)
    return optimizer


def test_optimizer_states_of_another_model_are_told_apart() -> None:
    def optimizer(*shapes: tuple[int, ...]) -> torch.optim.AdamW:
        parameters = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
        made = torch.optim.AdamW(parameters)
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        made.step()
        return made

    mine = optimizer((2, 3), (4,))
    assert optimizer_incompatibility(mine, optimizer((2, 3), (4,)).state_dict()) is None
    assert "of 1 parameters, the model has 2" in str(optimizer_incompatibility(mine, optimizer((2, 3)).state_dict()))
    assert "shape [5]" in str(optimizer_incompatibility(mine, optimizer((2, 3), (5,)).state_dict()))
    assert optimizer_incompatibility(mine, torch.optim.AdamW([nn.Parameter(torch.zeros(1))]).state_dict()) is not None


def test_speakers_that_changed_places_are_refused(voice: Path) -> None:
    settings(voice, {"log_interval": NEVER, "eval_interval": NEVER})
    run(voice, max_steps=1)
    path = voice / "configs/config.json"
    values = json.loads(path.read_text())
    values["spk"] = {"alice": 1, "bob": 0}
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match="'alice' had the id 0 so far and has 1"):
        run(voice, max_steps=2)


def test_step_zero_is_never_written(voice: Path) -> None:
    pair = networks_of(load_config(voice / "configs/config.json"), voice).pair
    with pytest.raises(ValueError, match="never written"):
        save_pair(voice, pair, Progress(step=0), 1e-4)


def test_a_checkpoint_is_saved_whole_or_not_at_all(tmp_path: Path) -> None:
    """The system refuses to write on in the middle of a file, as on a full disk: the pair before still counts."""
    small, large = nn.Linear(2, 2), nn.Linear(500, 500)

    def pair(module: nn.Module) -> tuple[TrainedNetwork, TrainedNetwork]:
        generator, discriminator = (
            TrainedNetwork(name, side, torch.optim.AdamW(side.parameters()))
            for name, side in (("G", module), ("D", small))
        )
        return generator, discriminator

    save_pair(tmp_path, pair(small), Progress(step=1), 1e-4)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(OSError) as caught:
            save_pair(tmp_path, pair(large), Progress(step=2), 1e-4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG and caught.value.filename.endswith("G_2.pth")
    found = newest(tmp_path)
    assert found is not None and found[0] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["D_1.pth", "D_2.pth", "G_1.pth"]


def test_metrics_are_json_also_where_a_norm_overflows(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path, 0)
    metrics.write(1, 1, {"grad_norm_g": math.inf, "loss/g/mel": 2.0})
    metrics.close()
    row = json.loads(metrics.path.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert row["grad_norm_g"] is None and row["loss/g/mel"] == 2


# --- what ends a run -----------------------------------------------------------------------------------------


def test_a_nan_stops_with_its_step_and_keeps_the_last_good_pair(
    voice: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """(B16)"""
    folder = run(voice, max_steps=4)
    good = (folder / "G_4.pth").read_bytes()
    config_path = poison(voice)
    monkeypatch.chdir(voice)
    code = script.main(["-c", str(config_path), "-m", "m", "--max_steps", "20", "--device", "cpu"])
    assert code == 2
    message = capsys.readouterr().err
    assert "NaN or infinite at step 5" in message and "G_4.pth and D_4.pth are kept" in message
    assert (folder / "G_4.pth").read_bytes() == good
    assert max(training_checkpoints(folder, "G")) == 4


def poison(voice: Path) -> Path:
    """Point the config at copies of the training clips whose spectrograms hold NaN."""
    path = voice / "configs/config.json"
    config = load_config(path)
    wavs = []
    for wav in read_file_list(config.data.training_files):
        copy = voice / "poisoned" / wav.parent.name / wav.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        files = ([path, *FeaturePaths.of(path).all()] for path in (wav, copy))
        for source, target in zip(*files, strict=True):
            if source.is_file():
                shutil.copy(source, target)
        spec = features.load_spec(FeaturePaths.of(copy).spec)
        features.save_spec(FeaturePaths.of(copy).spec, torch.full_like(spec, torch.nan))
        wavs.append(copy)
    config.data.training_files = str(voice / "poisoned/train.txt")
    Path(config.data.training_files).write_text("".join(f"{wav}\n" for wav in wavs))
    config.save(path)
    return path


def test_the_guard_names_the_first_bad_step(tmp_path: Path) -> None:
    """(B16)"""
    guard = FiniteGuard(CPU, has_scaler=False)
    for step, loss in enumerate((1.0, 2.0, math.inf, 1.0), 1):
        guard.watch(step, torch.tensor(loss))
    with pytest.raises(UserError, match="step 3"):
        guard.check(tmp_path, None)


def test_a_single_overflow_with_scaled_gradients_is_no_reason_to_stop(tmp_path: Path) -> None:
    guard = FiniteGuard(CPU, has_scaler=True)
    for step in range(1, 100):
        guard.watch(step, torch.tensor(math.nan if step % TOLERATED_WITH_SCALER else 1.0))
    guard.check(tmp_path, 0)
    for step in range(100, 200):
        guard.watch(step, torch.tensor(math.nan))
    with pytest.raises(UserError, match="step"):
        guard.check(tmp_path, 0)


def test_training_opens_no_port_and_no_process_group(voice: Path) -> None:
    """(B17)"""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings(voice, {"port": taken.getsockname()[1], "log_interval": NEVER, "eval_interval": NEVER})
        run(voice, max_steps=1)
    assert not torch.distributed.is_initialized()


def test_cpu_training_is_allowed(voice: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """(B17)"""
    monkeypatch.chdir(voice)
    settings(voice, {"log_interval": NEVER, "eval_interval": NEVER})
    assert script.main(["-m", "m", "--device", "cpu", "--max_steps", "1"]) == 0
    assert (voice / "logs/m/G_1.pth").is_file()


def test_one_process_under_torchrun_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLD_SIZE", "1"), ("RANK", "0"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    with join_ranks("cpu") as ranks:
        assert ranks == CPU and not torch.distributed.is_initialized()


@pytest.fixture
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_ends_with_its_code(
    voice: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    settings(voice, {"log_interval": NEVER, "eval_interval": NEVER})
    steps = itertools.count(1)
    real = train_step

    def interrupted(*args: Any) -> Any:
        if next(steps) == 2:
            os.kill(os.getpid(), number)
        return real(*args)

    monkeypatch.setattr("modules.training.vits.train_step", interrupted)
    folder = voice / "logs/m"
    assert train(options_of(voice, max_steps=50), CPU) == 128 + number
    found = newest(folder)
    assert found is not None and found[0] == 2


@pytest.mark.usefixtures("handlers")
def test_a_second_ctrl_c_acts_at_once() -> None:
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("which", ["training_files", "validation_files"])
def test_an_empty_list_ends_with_a_message(
    voice: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], which: str
) -> None:
    path = voice / "configs/config.json"
    config = load_config(path)
    (voice / "empty.txt").touch()
    setattr(config.data, which, "empty.txt")
    config.save(path)
    monkeypatch.chdir(voice)
    assert script.main(["-m", "m", "--device", "cpu"]) == 2
    assert "the file list is empty" in capsys.readouterr().err
    assert not (voice / "logs/m").exists()


def test_wrong_limits_and_devices_are_refused(voice: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(voice)
    with pytest.raises(SystemExit) as caught:
        script.main(["-m", "m", "--max_steps", "0"])
    assert caught.value.code == 2
    assert script.main(["-m", "m", "--device", "gpu"]) == 2


def test_pictures_show_low_frequencies_at_the_bottom() -> None:
    mel = np.zeros((4, 3))
    mel[0] = 5  # the lowest band is loud
    picture = spectrogram_picture(mel)
    assert picture.shape == (8, 3, 3)
    assert picture[-1, 0].sum() > picture[0, 0].sum() and (picture[0] == picture[1]).all()
