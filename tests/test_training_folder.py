"""The folder of a model: whose run it is, what a new run leaves alone, who may write, and writes that fail."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import train as script
from modules import checkpoint
from modules.config import Config, DiffusionConfig, load_config
from modules.errors import UserError
from modules.training import folder_lock, resume, vits
from modules.training import run as training_run
from modules.training.best import BestCheckpoint, put_aside
from modules.training.distributed import Ranks
from modules.training.evaluation import Evaluation
from modules.training.guard import diverged
from modules.training.ignored_keys import ignored_keys
from modules.training.lineage import Lineage, check_lineage
from modules.training.logging import TrainingLog, read_metrics
from modules.training.options import TrainOptions
from modules.training.patience import PatientWrites
from modules.training.resume import GENERATOR, Progress, TrainedNetwork, restore, save_pair, training_checkpoints
from modules.training.vits import train
from tests.conftest import ROOT
from tests.tiny_voice import make_dataset, tiny_config

CPU = Ranks(torch.device("cpu"))
NEVER = 10**6
INSTEAD = "begin a new model with -m"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a dataset with few and short clips."""
    config = tiny_config({"log_interval": NEVER, "eval_interval": NEVER})
    return make_dataset(tmp_path_factory.mktemp("voice"), config, seconds=(0.4, 0.5))


@pytest.fixture(autouse=True)
def quick_evaluation(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Evaluations cost nothing and find the distances of this list, or 1 where it is empty."""
    distances: list[float] = []

    def found(*_: Any) -> Evaluation:
        distance = distances.pop(0) if distances else 1.0
        return Evaluation(distance, {"val/mel_distance": distance}, [])

    monkeypatch.setattr(vits, "evaluate", found)
    monkeypatch.setattr(training_run, "RETRY_SECONDS", 0)
    monkeypatch.setattr(folder_lock, "WAIT_SECONDS", 0)
    return distances


Run = Callable[..., Path]


@pytest.fixture
def run(prepared: Path, tmp_path: Path) -> Run:
    """run(max_steps, keys of the config...) trains in tmp_path/m; returns the folder."""

    def start(
        max_steps: int, train_values: dict[str, Any] | None = None, new_speakers: bool = False, **changes: Any
    ) -> Path:
        values = load_config(prepared).model_dump(mode="json")
        values["train"].update(train_values or {})
        values["model"].update(changes.pop("model", {}))
        path = tmp_path / "config.json"
        Config.model_validate({**values, **changes}).save(path)
        given = TrainOptions(path, "m", tmp_path, max_steps=max_steps, new_speakers=new_speakers)
        assert train(given, CPU) == 0
        return tmp_path / "m"

    return start


def change_copy(folder: Path, **changes: Any) -> None:
    """Make the config that the run began with another one."""
    path = folder / "config.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps(values))


# --- whose run it is -----------------------------------------------------------------------------------------


def lineage(speakers: dict[str, int], encoder: str = "vec768l12") -> Lineage:
    return Lineage(speakers, 10, encoder, "model.speech_encoder")


def test_nobody_of_the_run_is_left() -> None:
    with pytest.raises(UserError, match="this run is of alice, the new config names bob") as caught:
        check_lineage(lineage({"alice": 0}), lineage({"bob": 0}), Path("config.json"), INSTEAD)
    assert INSTEAD in caught.value.fix and "--new-speakers" in caught.value.fix
    notes = check_lineage(lineage({"alice": 0}), lineage({"bob": 0}), Path("config.json"), INSTEAD, new_speakers=True)
    assert len(notes) == 1 and "new: bob; no longer trained: alice" in notes[0]


def test_speakers_that_come_and_go_are_one_line() -> None:
    before, now = lineage({"alice": 0, "bob": 1}), lineage({"bob": 1, "carol": 2})
    (note,) = check_lineage(before, now, Path("config.json"), INSTEAD)
    assert note.startswith("warning") and "new: carol; no longer trained: alice" in note
    assert check_lineage(before, before, Path("config.json"), INSTEAD) == []
    assert check_lineage(lineage({}), now, Path("config.json"), INSTEAD) == [
        "warning: the speakers are not those this run began with (new: bob, carol)"
    ]


def test_the_voice_of_the_run_before_is_not_trained_over(run: Run, tmp_path: Path) -> None:
    folder = run(1)
    change_copy(folder, spk={"zoe": 0})
    before = {path.name: path.read_bytes() for path in folder.glob("*.*")}
    with pytest.raises(UserError, match="this run is of zoe, the new config names alice, bob"):
        run(2)
    assert {path.name: path.read_bytes() for path in folder.glob("*.*")} == before
    (folder / "G_best.pth").write_bytes(b"the voice of zoe")
    run(2, new_speakers=True)
    assert load_config(folder / "config.json").spk == {"alice": 0, "bob": 1}
    (kept,) = folder.glob("G_best_*.pth")  # what is the best for others is nothing to beat
    assert kept.read_bytes() == b"the voice of zoe"
    run(3, new_speakers=True)  # the flag may stay
    assert len(list(folder.glob("G_best_*.pth"))) == 1


def test_the_flag_reaches_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[TrainOptions] = []
    monkeypatch.setattr(vits, "train", lambda options, _: seen.append(options) or 0)
    assert script.main(["-m", "m", "-d", "cpu", "--new-speakers"]) == 0
    assert script.main(["-m", "m", "-d", "cpu"]) == 0
    assert [options.new_speakers for options in seen] == [True, False]


def test_units_of_another_encoder_of_the_same_width_are_refused_on_resume(run: Run) -> None:
    folder = run(1)
    change_copy(
        folder, model={**json.loads((folder / "config.json").read_text())["model"], "speech_encoder": "dphubert"}
    )
    with pytest.raises(UserError, match="units of dphubert, model.speech_encoder of the new config is vec768l12"):
        run(2)
    assert list(training_checkpoints(folder, "G")) == [1]


# --- room for speakers ---------------------------------------------------------------------------------------


class Table(nn.Module):
    """As much of a generator as knows speakers."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.pre = nn.Linear(2, 2)
        self.emb_g = nn.Embedding(rows, 3)


def pair_of(rows: int) -> tuple[TrainedNetwork, TrainedNetwork]:
    modules = Table(rows), nn.Linear(2, 2)
    optimizers = [torch.optim.AdamW(module.parameters()) for module in modules]
    return TrainedNetwork("G", modules[0], optimizers[0]), TrainedNetwork("D", modules[1], optimizers[1])


def a_step(pair: tuple[TrainedNetwork, TrainedNetwork]) -> None:
    for network in pair:
        for parameter in network.module.parameters():
            parameter.grad = torch.ones_like(parameter)
        network.optimizer.step()


def test_a_run_goes_on_where_there_is_room_for_more_speakers(tmp_path: Path) -> None:
    """Adding a character to a trained model."""
    begun = pair_of(3)
    a_step(begun)
    save_pair(tmp_path, begun, Progress(step=5), 1e-4)
    config = Config.model_validate({"model": {"n_speakers": 3}, "spk": {"alice": 0, "bob": 2}})
    config.save(tmp_path / "config.json")
    old, grown = begun[0].module.get_parameter("emb_g.weight").detach(), pair_of(5)
    now = lineage({"alice": 0, "bob": 2, "carol": 3})
    progress, notes = restore(tmp_path, grown, GENERATOR, now)
    rows = grown[0].module.get_parameter("emb_g.weight")
    assert progress.step == 5 and torch.equal(rows[:3], old)
    assert torch.equal(rows[3:], old[[0, 2]].mean(dim=0).expand(2, -1))
    assert any("room for 2 more speaker(s)" in note for note in notes) and not any("anew" in note for note in notes)
    moments = grown[0].optimizer.state[rows]["exp_avg"]
    assert moments[:3].abs().min() > 0 and not moments[3:].any()
    a_step(grown)


def write_base_pair(folder: Path, rows: int, spk: dict[str, int] | None) -> torch.Tensor:
    """G_0.pth and D_0.pth, with config.json where ``spk`` is given; returns the table."""
    for network in pair_of(rows):
        checkpoint.save({"model": network.module.state_dict()}, folder / f"{network.name}_0.pth")
    if spk is not None:
        Config.model_validate({"model": {"n_speakers": rows}, "spk": spk}).save(folder / "config.json")
    return checkpoint.load(folder / "G_0.pth")["model"]["emb_g.weight"]


def begun_rows(folder: Path, rows: int, spk: dict[str, int]) -> tuple[torch.Tensor, str]:
    pair = pair_of(rows)
    progress, notes = restore(folder, pair, GENERATOR, lineage(spk))
    assert progress.step == 0
    return pair[0].module.get_parameter("emb_g.weight").detach(), "\n".join(notes)


def test_through_g_0_a_voice_that_the_config_beside_it_names_goes_on(tmp_path: Path) -> None:
    table = write_base_pair(tmp_path, 2, {"alice": 0, "bob": 1})
    rows, notes = begun_rows(tmp_path, 3, {"bob": 0, "carol": 1})
    mean = table.mean(dim=0)
    torch.testing.assert_close(rows, torch.stack([table[1], mean, mean]))
    assert "bob: as it knows them; carol: from the mean of its speakers" in notes


def test_a_base_model_that_carries_its_config_needs_none_beside_it(tmp_path: Path) -> None:
    table = write_base_pair(tmp_path, 2, {"zoe": 0, "bob": 1})
    config = Config.model_validate({"model": {"n_speakers": 2}, "spk": {"alice": 0, "bob": 1}})
    for name in ("G_0", "D_0"):
        state = checkpoint.load(tmp_path / f"{name}.pth")["model"]
        checkpoint.save_safetensors(state, tmp_path / f"{name}.safetensors", {"config": config.to_json()})
        (tmp_path / f"{name}.pth").unlink()
    rows, notes = begun_rows(tmp_path, 1, {"alice": 0})
    assert torch.equal(rows, table[:1]) and "alice: as it knows them" in notes


def test_the_config_of_a_base_model_is_put_aside_for_that_of_the_run(run: Run, prepared: Path, tmp_path: Path) -> None:
    """Killed before the first checkpoint, the run begins with the same rows again."""
    networks = vits.build_networks(load_config(prepared), CPU, tmp_path / "none")[0]
    for network in networks.pair:
        checkpoint.save({"model": network.module.state_dict()}, tmp_path / f"m/{network.name}_0.pth")
    table = networks.generator.emb_g.weight.detach().clone()
    load_config(prepared).save(tmp_path / "m/config.json")
    for _ in range(2):
        folder = run(1, {"learning_rate": 1e-9}, spk={"bob": 0, "alice": 1})
        assert load_config(folder / "config_0.json").spk == {"alice": 0, "bob": 1}
        rows = checkpoint.load(folder / "G_1.pth")["model"]["emb_g.weight"]
        torch.testing.assert_close(rows, table[[1, 0]], atol=1e-6, rtol=0)
        for name in ("G_1.pth", "D_1.pth"):
            (folder / name).unlink()


@pytest.mark.parametrize("spk", [None, {"alice": 0}])
def test_through_g_0_of_nobody_known_the_rows_are_taken_as_they_stand(
    tmp_path: Path, spk: dict[str, int] | None
) -> None:
    table = write_base_pair(tmp_path, 4, None)
    if spk is not None:  # of the run that was begun here, with room for others
        Config.model_validate({"model": {"n_speakers": 2}, "spk": spk}).save(tmp_path / "config.json")
    rows, notes = begun_rows(tmp_path, 2, {"zoe": 0})
    assert torch.equal(rows, table[:2]) and "emb_g.weight: [4, 3] in the file, [2, 3] in the model" in notes
    rows, notes = begun_rows(tmp_path, 5, {"zoe": 0})
    torch.testing.assert_close(rows, torch.cat([table, table.mean(dim=0, keepdim=True)]))
    rows, notes = begun_rows(tmp_path, 4, {"zoe": 0})
    assert torch.equal(rows, table) and "emb_g" not in notes


# --- what a new run leaves alone -----------------------------------------------------------------------------


def test_a_run_that_begins_anew_keeps_the_best_of_the_run_before(
    run: Run, quick_evaluation: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """Users delete the numbered checkpoints to save space and train again later."""
    quick_evaluation += [1.0, 0.5]
    folder = run(2)
    finished = (folder / "G_best.pth").read_bytes()
    for path in folder.glob("[GD]_[0-9]*.pth"):
        path.unlink()
    capsys.readouterr()
    quick_evaluation += [1.0, 0.7]
    run(1)
    assert "G_best.pth of the run before is kept: G_best_2.pth, best_2.json, config_2.json" in capsys.readouterr().out
    assert (folder / "G_best_2.pth").read_bytes() == finished
    assert json.loads((folder / "best_2.json").read_text())["mel_distance"] == 0.5
    assert json.loads((folder / "best.json").read_text()) == {"step": 1, "epoch": 1, "mel_distance": 0.7}


def test_what_was_put_aside_is_never_overwritten(tmp_path: Path) -> None:
    for content in (b"one", b"two", b"three"):
        (tmp_path / "G_best.pth").write_bytes(content)
        (tmp_path / "best.json").write_text('{"step": 8}')
        assert put_aside(tmp_path)
    kept = {path.name: path.read_bytes() for path in tmp_path.glob("G_best*")}
    assert kept == {"G_best_8.pth": b"one", "G_best_8_2.pth": b"two", "G_best_8_3.pth": b"three"}
    assert put_aside(tmp_path) == ""
    (tmp_path / "G_best.pth").touch()  # without figures
    assert "G_best_old.pth" in put_aside(tmp_path)


def test_only_a_step_that_is_better_than_the_beginning_is_the_best(
    run: Run, quick_evaluation: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    quick_evaluation += [1.0, 1.2]
    folder = run(1)
    assert not (folder / "G_best.pth").exists() and "best so far" not in capsys.readouterr().out
    quick_evaluation += [1.1]
    run(2)  # the run that goes on remembers
    assert not (folder / "G_best.pth").exists()
    quick_evaluation += [0.9]
    run(3)
    assert (
        folder / "G_best.pth"
    ).is_file() and "step 3: held-out mel distance 0.9000, the best" in capsys.readouterr().out


def test_a_beginning_that_cannot_be_measured_leaves_everything_better(tmp_path: Path) -> None:
    best = BestCheckpoint(tmp_path, 0)
    best.begin_with(Progress(), math.nan)
    assert best.keep({"model": {}}, Progress(step=1), 3.0)


def test_where_no_step_was_better_than_the_beginning_the_plateau_says_so() -> None:
    assert "G_best.pth is the one to use" in vits.describe_plateau(3, False, True)
    assert "no step was better than the model it began with" in vits.describe_plateau(3, False, False)


def test_an_evaluation_that_a_kill_prevented_is_made_up(
    run: Run, quick_evaluation: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """G_best stayed that of an older step."""

    def killed(*_: Any) -> Evaluation:
        raise KeyboardInterrupt

    settings = {"eval_interval": 2}
    quick_evaluation += [1.0, 0.9]
    run(1, settings)
    with monkeypatch.context() as patch:
        patch.setattr(vits, "evaluate", killed)
        with pytest.raises(KeyboardInterrupt):
            run(4, settings)
    quick_evaluation += [0.5, 0.8]
    folder = run(3, settings)
    rows = read_metrics(folder / "metrics.jsonl")
    found = {row["step"]: row["val/mel_distance"] for row in rows if "val/mel_distance" in row}
    assert found == {0: 1.0, 1: 0.9, 2: 0.5, 3: 0.8}
    assert json.loads((folder / "best.json").read_text())["step"] == 2
    run(3, settings)
    assert read_metrics(folder / "metrics.jsonl") == rows  # it is not made up twice


# --- who may write -------------------------------------------------------------------------------------------


def test_a_second_training_of_a_model_is_refused_by_name(run: Run, tmp_path: Path) -> None:
    folder = run(1)
    before = {path.name: path.read_bytes() for path in folder.glob("*.*")}
    with (
        folder_lock.only_training(folder, CPU),
        pytest.raises(UserError, match=f"m is being trained by process {os.getpid()}"),
    ):
        run(2)
    assert {path.name: path.read_bytes() for path in folder.glob("*.*")} == before
    assert list(training_checkpoints(run(2), "G")) == [1, 2]


HOLD = """
import sys, time, torch
from pathlib import Path
from modules.training.distributed import Ranks
from modules.training.folder_lock import only_training
with only_training(Path(sys.argv[1]), Ranks(torch.device("cpu"))):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_lock_does_not_outlive_a_kill(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"process {holder.pid}"), folder_lock.only_training(tmp_path, CPU):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with folder_lock.only_training(tmp_path, CPU):
        assert f"process {os.getpid()}" in (tmp_path / folder_lock.HOLDER_NAME).read_text()


def test_ranks_that_are_not_the_first_take_no_lock(tmp_path: Path) -> None:
    class Second(Ranks):
        def highest(self, values: Any) -> list[int]:
            return list(values)

    with folder_lock.only_training(tmp_path, CPU), folder_lock.only_training(tmp_path, Second(CPU.device, 1, 2)):
        pass


def test_a_folder_that_cannot_be_locked_is_trained_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_locks(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with folder_lock.only_training(tmp_path, CPU):
        assert "cannot be locked" in capsys.readouterr().out


# --- writes that fail ----------------------------------------------------------------------------------------


def failing(monkeypatch: pytest.MonkeyPatch, times: int, match: str) -> list[str]:
    """checkpoint.save fails that often for names that match; returns the names it was asked for."""
    asked: list[str] = []
    real = checkpoint.save

    def save(content: Any, path: Path) -> None:
        asked.append(Path(path).name)
        if re.match(match, asked[-1]) and sum(bool(re.match(match, name)) for name in asked) <= times:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN), str(path))
        real(content, path)

    monkeypatch.setattr(resume.checkpoint, "save", save)
    return asked


def test_a_checkpoint_that_cannot_be_written_is_tried_again_at_the_next_log_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, 1, "G_2")
    folder = run(5, {"eval_interval": 2, "log_interval": 3})
    printed = capsys.readouterr().out
    warning = "the checkpoint could not be written (Transport endpoint is not connected: "
    assert printed.count(warning) == 1 and "tried again at the next log line" in printed
    assert list(training_checkpoints(folder, "G")) == [3, 4, 5]


def test_the_third_failure_in_a_row_ends_the_run(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config(prepared)
    config.train.eval_interval = config.train.log_interval = 1
    config.save(tmp_path / "config.json")
    failing(monkeypatch, 3, "[GD]_[2-9]")
    flags = ["-c", str(tmp_path / "config.json"), "-m", "m", "--log_dir", str(tmp_path), "-d", "cpu", "--from-scratch"]
    assert script.main(flags) == 2
    message = capsys.readouterr().err
    assert "the checkpoint could not be written 3 times in a row: Transport endpoint" in message
    assert "D_4.pth" in message and "Traceback" not in message
    assert list(training_checkpoints(tmp_path / "m", "G")) == [1]


def test_the_last_checkpoint_of_a_run_is_tried_again_at_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, 2, "D_1")
    assert list(training_checkpoints(run(1), "G")) == [1]


def test_a_best_checkpoint_that_cannot_be_written_does_not_count_as_kept(
    run: Run, monkeypatch: pytest.MonkeyPatch, quick_evaluation: list[float]
) -> None:
    failing(monkeypatch, 1, "G_best")
    quick_evaluation += [1.0, 0.5, 0.6]
    folder = run(2, {"eval_interval": 1})
    assert json.loads((folder / "best.json").read_text())["step"] == 2


def test_failures_count_in_a_row_and_each_kind_by_itself() -> None:
    said: list[str] = []
    writes = PatientWrites(said.append)

    def fail() -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), "metrics.jsonl")

    for _ in range(5):
        assert not writes.attempt("the log", fail) and not writes.attempt("the checkpoint", fail)
        assert not writes.attempt("the log", fail)
        assert writes.attempt("the log", lambda: None) and writes.attempt("the checkpoint", lambda: None)
        assert writes.error is None
    for _ in range(3):
        writes.attempt("the log", fail)
    assert writes.error is not None and writes.error.where == "metrics.jsonl" and "3 times" in writes.error.what


def test_the_log_goes_on_after_writes_that_failed(tmp_path: Path) -> None:
    """A drive that went away: what was open is lost, what comes later is written."""
    log = TrainingLog(tmp_path, 0)
    log.scalars(1, 1, {"loss/g/mel": 3.0})
    log.metrics._file.close()
    log.metrics._file = (tmp_path / "metrics.jsonl").open("r")  # every write fails from now on
    with pytest.raises(OSError):
        log.scalars(2, 1, {"loss/g/mel": 2.0})
    log.reopen()
    log.scalars(3, 1, {"loss/g/mel": 1.0})
    log.close()
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 3]
    assert len(list(tmp_path.glob("events.*"))) == 2


# --- what is said --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("older", "way"), [((400,), "go on from G_400.pth"), ((0,), "go on from G_0.pth"), ((), "start anew")]
)
def test_a_broken_pair_tells_how_to_go_on_without_it(tmp_path: Path, older: tuple[int, ...], way: str) -> None:
    for step in (*older, 800):
        for network in pair_of(2):
            checkpoint.save(
                {"model": network.module.state_dict(), "iteration": 1}, tmp_path / f"{network.name}_{step}.pth"
            )
    (tmp_path / "G_800.pth").write_bytes((tmp_path / "G_800.pth").read_bytes()[:900])
    with pytest.raises(UserError, match="cannot read") as caught:
        restore(tmp_path, pair_of(2))
    assert caught.value.fix.startswith(f"delete G_800.pth and D_800.pth to {way}")


@pytest.mark.parametrize("last_good", [None, 0])
def test_a_nan_before_the_first_checkpoint_names_none(last_good: int | None) -> None:
    assert "there is no checkpoint yet" in diverged(1, Path("m"), last_good).what


def test_keys_that_are_read_and_not_used_are_named_where_they_were_changed() -> None:
    assert ignored_keys(tiny_config()) == [] and ignored_keys(DiffusionConfig()) == []
    (line,) = ignored_keys(tiny_config({"port": 8001, "use_sr": False}, {"n_layers_q": 5}))
    assert "train.use_sr (False)" in line and "model.n_layers_q (5)" in line and "port" not in line
    changed = DiffusionConfig.model_validate({"data": {"cnhubertsoft_gate": 5}, "model": {"type": "NaiveV2"}})
    (line,) = ignored_keys(changed)
    assert "data.cnhubertsoft_gate (5.0)" in line and "model.type ('NaiveV2')" in line


def test_every_silence_is_announced(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run(1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "reading the file lists and features"
    assert lines[1] == "4 clip(s) to train on, 2 to validate; building the networks"
    before, after = (lines.index(f"evaluating step {step} on 2 held-out clip(s)") for step in (0, 1))
    assert lines[before + 1].startswith("step 0:") and lines[after + 1].startswith("step 1:")


def test_clips_that_are_left_out_are_listed_and_counted(
    run: Run, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = load_config(prepared).data.model_dump(mode="json")
    listed = Path(data["training_files"]).read_text() + "dataset/44k/alice/gone.wav\n"
    (tmp_path / "train.txt").write_text(listed)
    run(1, data={**data, "training_files": str(tmp_path / "train.txt")})
    printed = capsys.readouterr().out
    assert "left out: dataset/44k/alice/gone.wav: there is no such file\n" in printed
    assert "1 clip(s) of the file lists are left out\n" in printed and "4 clip(s) to train on" in printed


def test_the_misfit_of_a_voice_with_volume_names_the_flag() -> None:
    from modules.training.base_model import incompatibility

    with_volume, plain = tiny_config(model={"vol_embedding": True}), tiny_config()
    assert "--micro without --vol_aug writes" in incompatibility(with_volume, plain)
    assert "--micro --vol_aug writes" in incompatibility(plain, with_volume)
