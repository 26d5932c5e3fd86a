"""train_diff.py: what it leaves, how it goes on, what it starts from, what it refuses, and what validation costs."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import train_diff as script
from diffusion.unit2mel import Unit2Mel, build_unit2mel, load_unit2mel
from modules import checkpoint
from modules.config import DiffusionConfig, load_diffusion_config
from modules.data import features
from modules.data.features import FeaturePaths
from modules.errors import UserError
from modules.training import diffusion as training
from modules.training import folder_lock
from modules.training.diffusion import STEPS_A_CLIP, checkpoints, choose_device, clean, held_out_loss, train
from modules.training.distributed import Ranks
from modules.training.logging import read_metrics
from modules.training.options import DiffusionTrainOptions
from tests.conftest import ROOT
from tests.tiny_diffusion import make_diffusion_dataset, tiny_diffusion_config

CPU = Ranks(torch.device("cpu"))
NEVER = 10**6
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepared")
    make_diffusion_dataset(root, tiny_diffusion_config())
    return root / "configs/diffusion.yaml"


@pytest.fixture
def run(prepared: Path, tmp_path: Path) -> Any:
    """run(max_steps, train settings...) trains in tmp_path/exp on the prepared clips; returns the folder."""

    def start(max_steps: int, model: dict[str, Any] | None = None, folder: str = "exp", **settings: Any) -> Path:
        config = load_diffusion_config(prepared)
        values = config.model_dump()
        values["train"].update(settings)
        values["model"].update(model or {})
        values["env"]["expdir"] = str(tmp_path / folder)
        path = tmp_path / "diffusion.yaml"
        DiffusionConfig.model_validate(values).save(path)
        assert train(DiffusionTrainOptions(path, max_steps=max_steps), CPU) == 0
        return tmp_path / folder

    return start


def weights(path: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(path)["model"]


def assert_equal_weights(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def test_training_lowers_the_loss_and_leaves_what_inference_needs(run: Any) -> None:
    sizes = {"n_chans": 64, "n_hidden": 32}
    folder = run(120, sizes, interval_val=60, interval_log=20, interval_force_save=60, lr=3e-3, batch_size=6)
    rows = read_metrics(folder / "metrics.jsonl")
    held_out = [row["val/loss"] for row in rows if "val/loss" in row]
    assert len(held_out) == 3 and held_out[0] == pytest.approx(1.0, abs=0.1)  # an untrained model predicts no noise
    assert held_out[2] < held_out[1] < held_out[0] and held_out[2] < 0.93 * held_out[0]
    assert [row["step"] for row in rows if "train/loss" in row] == [20, 40, 60, 80, 100, 120]
    assert list(checkpoints(folder)) == [60, 120]
    config = load_diffusion_config(folder / "config.yaml")
    for name in ("model_120.pt", "model_best.pt"):
        model = load_unit2mel(folder / name, config)
        mel = model.infer(torch.zeros(1, 9, 16), torch.full((1, 9, 1), 200.0), torch.zeros(1, 9, 1), torch.tensor([1]))
        assert mel.shape == (1, 9, 128) and torch.isfinite(mel).all()
    saved = checkpoint.load(folder / "model_120.pt")
    assert saved["global_step"] == 120


def test_tensorboard_has_losses_mels_and_audio(run: Any) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(run(4)))
    board.Reload()
    assert {"train/loss", "val/loss", "learning_rate"} <= set(board.Tags()["scalars"])
    assert {"gt/mel_0", "gen/mel_0", "gen/mel_1"} <= set(board.Tags()["images"])
    assert {"gt/audio_0", "gen/audio_0"} <= set(board.Tags()["audio"])


def test_without_a_vocoder_training_says_that_there_is_no_audio(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_diffusion_config(prepared)
    config.env.expdir, config.vocoder.ckpt = str(tmp_path / "exp"), str(tmp_path / "nowhere/model")
    config.save(tmp_path / "diffusion.yaml")
    assert train(DiffusionTrainOptions(tmp_path / "diffusion.yaml", max_steps=2), CPU) == 0
    assert "no audio in TensorBoard" in capsys.readouterr().out


@pytest.mark.parametrize("save_opt", [False, True])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(run: Any, save_opt: bool) -> None:
    settings = {"save_opt": save_opt, "interval_val": NEVER}
    whole = run(7, folder="whole", **settings)
    run(3, folder="parts", **settings)
    parts = run(7, folder="parts", **settings)
    assert_equal_weights(whole / "model_7.pt", parts / "model_7.pt")


@pytest.mark.parametrize("save_opt", [False, True])
def test_older_checkpoints_keep_the_optimizer_where_the_config_says_so(run: Any, save_opt: bool) -> None:
    """The newest one always does: without it going on costs what thousands of steps have gained."""
    folder = run(5, save_opt=save_opt, interval_val=2, interval_force_save=2)
    has = {step: "optimizer" in checkpoint.load(path) for step, path in checkpoints(folder).items()}
    assert has == {2: save_opt, 4: save_opt, 5: True}
    assert "optimizer" not in checkpoint.load(folder / "model_best.pt")


def test_going_on_without_an_optimizer_is_told(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = run(2) / "model_2.pt"
    content = checkpoint.load(path)
    checkpoint.save({key: content[key] for key in ("global_step", "model")}, path)
    folder = run(4)
    out = capsys.readouterr().out
    assert "resuming from step 2" in out and "starts anew" in out
    assert 4 in checkpoints(folder)


@pytest.mark.parametrize("cache_fp16", [True, False])
def test_cached_and_uncached_training_end_with_the_same_weights(run: Any, cache_fp16: bool) -> None:
    """(A13)"""
    settings = {"cache_fp16": cache_fp16, "interval_val": NEVER}
    cached = run(6, folder="cached", cache_all_data=True, **settings)
    uncached = run(6, folder="uncached", cache_all_data=False, **settings)
    assert_equal_weights(cached / "model_6.pt", uncached / "model_6.pt")


def test_a_base_model_of_the_published_layout_starts_training(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its speakers are others; everything else is taken over, and the file stays as it is."""
    config = tiny_diffusion_config(model={"n_spk": 5})
    base = build_unit2mel(config)
    for parameter in base.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    path = tmp_path / "exp/model_0.pt"
    path.parent.mkdir()
    torch.save({"global_step": 0, "model": base.state_dict()}, path)
    content = path.read_bytes()
    folder = run(1, lr=1e-9)
    out = capsys.readouterr().out
    assert "base model model_0.pt" in out and "spk_embed.weight" in out
    trained = weights(folder / "model_1.pt")
    for key, value in base.state_dict().items():
        if key != "spk_embed.weight":
            torch.testing.assert_close(trained[key], value, atol=1e-6, rtol=1e-5)
    assert path.read_bytes() == content


@pytest.mark.parametrize("name", ["diffusion_unit2mel", "diffusion_unit2mel_nspk5"])
def test_the_full_size_base_model_has_the_keys_that_training_loads(name: str, parity_pack: Path) -> None:
    import json

    manifest = json.loads((parity_pack / "manifests" / f"{name}.json").read_text())
    sizes = {key: value for key, value in manifest["config"].items() if key in ("n_layers", "n_chans", "n_hidden")}
    config = DiffusionConfig.model_validate(
        {"model": {**sizes, "n_spk": manifest["config"]["n_spk"]}, "data": {"encoder_out_channels": 768}}
    )
    with torch.device("meta"):
        model = build_unit2mel(config)
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == {
        entry[0]: entry[1] for entry in manifest["entries"]
    }


def test_the_templates_differ_in_size_alone() -> None:
    full, micro = (
        load_diffusion_config(ROOT / f"configs_template/{n}_template.yaml") for n in ("diffusion", "diffusion_micro")
    )
    sizes = [sum(p.numel() for p in build_unit2mel(config).parameters()) for config in (full, micro)]
    assert sizes[0] > 30 * sizes[1]
    for section in ("data", "vocoder", "infer", "env", "spk"):
        assert getattr(full, section) == getattr(micro, section)


def test_a_shallow_only_model_trains_on_its_steps_alone(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusion.gaussian import GaussianDiffusion

    drawn: list[int] = []
    to_noisy = GaussianDiffusion.to_noisy

    def noted(self: GaussianDiffusion, mel: torch.Tensor, step: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        drawn.extend(step.tolist())
        return to_noisy(self, mel, step, noise)

    monkeypatch.setattr(GaussianDiffusion, "to_noisy", noted)
    folder = run(6, model={"k_step_max": 10})
    assert drawn and set(drawn) <= set(range(10)) and max(drawn) > 5
    assert load_unit2mel(folder / "model_6.pt", load_diffusion_config(folder / "config.yaml")).shallow_only


def test_the_rate_falls_by_gamma_every_decay_step(run: Any) -> None:
    rows = read_metrics(run(6, interval_log=1, lr=1e-3, decay_step=2, gamma=0.5) / "metrics.jsonl")
    rates = [row["learning_rate"] for row in rows if "learning_rate" in row]
    np.testing.assert_allclose(rates, [1e-3, 1e-3, 5e-4, 5e-4, 2.5e-4, 2.5e-4])


@pytest.mark.parametrize("amp_dtype", ["bf16", "fp16"])
def test_reduced_precision_trains(run: Any, amp_dtype: str) -> None:
    folder = run(4, amp_dtype=amp_dtype)
    assert all(value.dtype == torch.float32 for value in weights(folder / "model_4.pt").values())
    assert all(
        math.isfinite(row["train/loss"]) for row in read_metrics(folder / "metrics.jsonl") if "train/loss" in row
    )


def test_validation_measures_each_clip_once_and_samples_a_few(
    run: Any, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(C10) Frames through the denoiser: a few windows a clip, and the steps of the sampler for two of them."""
    from diffusion.denoiser import WaveNet

    frames: list[int] = []
    denoise = WaveNet.denoise

    def counted(self: WaveNet, x: torch.Tensor, *rest: Any) -> torch.Tensor:
        if not torch.is_grad_enabled():
            frames.append(x.shape[0] * x.shape[-1])
        return denoise(self, x, *rest)

    monkeypatch.setattr(WaveNet, "denoise", counted)
    config = load_diffusion_config(prepared)
    run(1, interval_val=NEVER)
    clips, evaluations = 2, 2  # before the first step and after the last
    window = int(config.data.duration * 44100 / 512)
    sampler_steps = config.model.timesteps // config.infer.speedup + 1
    assert sum(frames) <= evaluations * clips * window * (STEPS_A_CLIP + sampler_steps)


def test_validation_is_deterministic_and_leaves_the_random_numbers_alone(prepared: Path) -> None:
    config = load_diffusion_config(prepared)
    torch.manual_seed(0)
    model = build_unit2mel(config)
    torch.nn.init.normal_(model.decoder.denoise_fn.output_projection.weight)
    clips = training.DiffusionDataset(
        training.read_file_list(config.data.training_files), config, augment=False, short_too=True
    )
    windows = [clips.middle(index) for index in range(len(clips))]
    state = torch.random.get_rng_state()
    loss = held_out_loss(model, windows, CPU)
    assert loss == held_out_loss(model, windows, CPU) and model.training
    assert torch.equal(torch.random.get_rng_state(), state)
    # What two ranks measure on their shares is what one measures on all.
    parts: list[list[float]] = []

    class OneOfTwo(Ranks):
        def total(self, values: Any) -> list[float]:
            parts.append(list(values))
            return list(values)

    for rank in (0, 1):
        held_out_loss(model, windows, OneOfTwo(CPU.device, rank, 2))
    assert sum(part[0] for part in parts) / sum(part[1] for part in parts) == pytest.approx(loss)


def test_checkpoints_between_the_forced_ones_are_deleted(tmp_path: Path) -> None:
    for step in (0, 4, 8, 10, 12, 14):
        (tmp_path / f"model_{step}.pt").touch()
    for name in ("model_best.pt", "model_final.pt", "notes.pt"):
        (tmp_path / name).touch()
    clean(tmp_path, 8)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["model_0.pt", "model_14.pt", "model_8.pt", "model_best.pt", "model_final.pt", "notes.pt"]


def test_a_broken_newest_checkpoint_stops_the_run_and_loses_nothing(run: Any) -> None:
    folder = run(2)
    path = folder / "model_5.pt"
    path.write_bytes((folder / "model_2.pt").read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot read") as error:
        run(6)
    assert str(path) in error.value.where
    assert path.is_file() and (folder / "model_2.pt").is_file()


def test_another_config_or_other_speakers_are_refused_on_resume(run: Any) -> None:
    run(2)
    with pytest.raises(UserError, match="do not fit"):
        run(4, model={"n_chans": 32})


def test_speakers_that_change_places_are_refused_on_resume(run: Any, prepared: Path, tmp_path: Path) -> None:
    run(2)
    config = load_diffusion_config(tmp_path / "diffusion.yaml")
    config.spk = {"alice": 1, "bob": 0}
    config.save(tmp_path / "diffusion.yaml")
    with pytest.raises(UserError, match="'alice' had the id 0"):
        train(DiffusionTrainOptions(tmp_path / "diffusion.yaml", max_steps=4), CPU)


def test_another_encoder_of_the_same_width_is_refused_on_resume(run: Any, tmp_path: Path) -> None:
    run(2)
    config = load_diffusion_config(tmp_path / "diffusion.yaml")
    config.data.encoder = "wavlmbase+"
    config.save(tmp_path / "diffusion.yaml")
    with pytest.raises(UserError, match="units of vec768l12, data.encoder of the new config is wavl"):
        train(DiffusionTrainOptions(tmp_path / "diffusion.yaml", max_steps=4), CPU)
    assert load_diffusion_config(tmp_path / "exp/config.yaml").data.encoder == "vec768l12"


def test_a_run_of_somebody_else_is_not_gone_on_from_unless_asked(run: Any, tmp_path: Path) -> None:
    folder = run(2)
    copy = load_diffusion_config(folder / "config.yaml")
    copy.spk = {"zoe": 0}
    copy.save(folder / "config.yaml")
    with pytest.raises(UserError, match="this run is of zoe, the new config names alice, bob") as caught:
        run(3)
    assert "env.expdir" in caught.value.fix and "--new-speakers" in caught.value.fix
    assert train(DiffusionTrainOptions(tmp_path / "diffusion.yaml", max_steps=3, new_speakers=True), CPU) == 0


def test_the_best_of_the_run_before_is_kept(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(2)
    (folder / "model_2.pt").unlink()
    (folder / "model_best.pt").write_bytes(b"the finished model")
    (folder / "best.json").write_text('{"step": 900}')
    run(1)
    assert (folder / "model_best_900.pt").read_bytes() == b"the finished model"
    assert (folder / "config_900.yaml").is_file() and (folder / "best_900.json").is_file()
    assert "model_best.pt of the run before is kept: model_best_900.pt" in capsys.readouterr().out


def test_a_second_training_of_the_folder_is_refused(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_lock, "WAIT_SECONDS", 0)
    folder = run(1)
    with (
        folder_lock.only_training(folder, CPU),
        pytest.raises(UserError, match=f"exp is being trained by process {os.getpid()}"),
    ):
        run(2)
    assert list(checkpoints(run(2))) == [2]


def test_only_a_step_that_is_better_than_the_beginning_is_the_best(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter((1.0, 1.2, 0.9, 0.95))
    monkeypatch.setattr(training, "held_out_loss", lambda *_: next(losses))
    folder = run(1, interval_val=1)
    assert not (folder / "model_best.pt").exists()
    run(3, interval_val=1)
    assert checkpoint.load(folder / "model_best.pt")["global_step"] == 2


def test_an_evaluation_that_a_kill_prevented_is_made_up(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> float:
        raise KeyboardInterrupt

    settings = {"interval_val": 2, "interval_log": NEVER}
    run(1, **settings)
    with monkeypatch.context() as patch:
        patch.setattr(training, "held_out_loss", killed)
        with pytest.raises(KeyboardInterrupt):
            run(4, **settings)
    folder = run(3, **settings)
    rows = read_metrics(folder / "metrics.jsonl")
    assert [row["step"] for row in rows if "val/loss" in row] == [0, 1, 2, 3]


def test_a_device_to_keep_the_data_on_that_is_not_there_is_named_by_its_key(run: Any) -> None:
    with pytest.raises(UserError) as caught:
        run(1, cache_device="cuda:77")
    assert "train.cache_device" in caught.value.where


def test_a_broken_checkpoint_tells_how_to_go_on_from_the_one_before(run: Any) -> None:
    folder = run(2)
    (folder / "model_5.pt").write_bytes((folder / "model_2.pt").read_bytes()[:1000])
    with pytest.raises(UserError) as caught:
        run(6)
    assert caught.value.fix.startswith("delete model_5.pt to go on from model_2.pt")


def test_room_for_more_speakers_keeps_the_voices(run: Any, tmp_path: Path) -> None:
    folder = run(2)
    before = checkpoint.load(folder / "model_2.pt")["model"]["spk_embed.weight"]
    run(3, {"n_spk": 4}, lr=1e-9)
    after = checkpoint.load(folder / "model_3.pt")["model"]["spk_embed.weight"]
    torch.testing.assert_close(after[:2], before, atol=1e-6, rtol=0)
    torch.testing.assert_close(after[2:], before.mean(dim=0).expand(2, -1), atol=1e-6, rtol=0)


def test_a_nan_ends_the_run_with_the_last_good_checkpoint_named(run: Any, prepared: Path, tmp_path: Path) -> None:
    folder = run(2)
    root = tmp_path / "bad"
    config = load_diffusion_config(tmp_path / "diffusion.yaml")
    shutil.copytree(prepared.parent.parent / "dataset", root)
    wavs = sorted(root.rglob("[0-2].wav"))
    for wav in wavs:
        mel = features.load_mel(FeaturePaths.of(wav).mel)
        features.save_mel(FeaturePaths.of(wav).mel, np.full_like(mel, np.nan))
        features.save_aug_mel(FeaturePaths.of(wav).aug_mel, np.full_like(mel, np.nan), 1.0)
    (root / "train.txt").write_text("".join(f"{wav}\n" for wav in wavs))
    config.data.training_files = str(root / "train.txt")
    config.save(tmp_path / "diffusion.yaml")
    with pytest.raises(UserError, match="NaN or infinite at step 3; model_2.pt is kept"):
        train(DiffusionTrainOptions(tmp_path / "diffusion.yaml", max_steps=8), CPU)
    assert list(checkpoints(folder)) == [2]


def test_only_short_clips_end_the_script_with_one_message(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """(B15)"""
    config = load_diffusion_config(prepared)
    config.data.duration = 20
    config.env.expdir = str(tmp_path / "exp")
    config.save(tmp_path / "diffusion.yaml")
    assert script.main(["-c", str(tmp_path / "diffusion.yaml"), "-d", "cpu"]) == 2
    assert "no clip is as long as a window" in capsys.readouterr().err
    assert not (tmp_path / "exp").exists()


def test_short_clips_are_listed_and_the_others_train(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """(B15)"""
    config = load_diffusion_config(prepared)
    config.data.duration = 0.65
    config.env.expdir = str(tmp_path / "exp")
    config.save(tmp_path / "diffusion.yaml")
    assert script.main(["-c", str(tmp_path / "diffusion.yaml"), "-d", "cpu", "--max_steps", "1"]) == 0
    out = capsys.readouterr().out
    assert "4 clip(s) to train on, 2 to validate" in out
    assert out.count("left out: ") == 2 and "0.70 s" in out


def test_a_config_that_says_cuda_trains_on_what_there_is() -> None:
    config = tiny_diffusion_config()
    config.device = "cuda"
    expected = "cuda:0" if torch.cuda.is_available() else None
    assert choose_device(config, None) == expected
    assert choose_device(config, "cpu") == "cpu"
    config.device = "cpu"
    assert choose_device(config, None) == "cpu"


def test_two_ranks_share_the_clips_and_their_checkpoint_loads_in_one_process(prepared: Path, tmp_path: Path) -> None:
    config = load_diffusion_config(prepared)
    config.env.expdir = str(tmp_path / "exp")
    config.train.batch_size, config.train.interval_val = 1, NEVER
    config.save(tmp_path / "diffusion.yaml")
    arguments = ["-c", str(tmp_path / "diffusion.yaml"), "-d", "cpu", "--max_steps", "3"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, str(ROOT / "train_diff.py"), *arguments], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("saved at step 3") == 1
    saved = checkpoint.load(tmp_path / "exp/model_3.pt")
    assert saved["progress"]["batches_per_epoch"] == 3  # six clips, two ranks, one clip a batch
    model: Unit2Mel = load_unit2mel(tmp_path / "exp/model_3.pt", config)
    assert not model.shallow_only
