"""Behind the prepare tab: uploads that stay where they belong, curves and audio from a real log, checked forms."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import soundfile

from modules import checkpoint
from modules.config import Config, load_config, parse_config
from modules.data.recordings_report import (
    MEANINGS,
    TABLE_TITLES,
    FileReport,
    Problem,
    RecordingsReport,
    SpeakerReport,
)
from modules.errors import UserError
from modules.training.logging import METRICS_NAME, TrainingLog
from modules.web.language import texts
from modules.web.page import Page
from modules.web.state import ServerState
from modules.web.train.form import CONFIG_FIELDS, Form, change_config
from modules.web.train.jobs import State
from modules.web.train.metrics import CURVES, POINTS, Frame, show_curves, smoothed, thinned, ticks
from modules.web.train.recordings import COLUMNS, add_recordings, list_speakers, show_report
from modules.web.train.samples import SampleReader
from modules.web.train.status import is_outdated, next_step, show_now, show_step, statuses
from modules.web.train.steps import NUMBERED, STEPS, checked, proposed
from pretrain import BASE_DIR, BASE_GENERATOR
from tests.conftest import ROOT

RATE = 44100


@pytest.fixture
def state(tmp_path: Path) -> ServerState:
    for name in ("home", "scratch"):
        (tmp_path / name).mkdir()
    return ServerState(tmp_path / "home", ROOT, tmp_path / "scratch")


def page_of(state: ServerState, language: Any = "en") -> Page:
    return Page(state, language, None)  # type: ignore[arg-type]


def tone(path: Path, hertz: float = 220.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * hertz * np.arange(RATE // 2) / RATE), RATE)
    return path


# Texts


def test_every_step_state_problem_and_column_has_a_text() -> None:
    known = texts("en")
    for family, names in (("step", STEPS), ("state", get_args(State)), ("curve", CURVES), ("report", COLUMNS)):
        assert all(f"{family}.{name}" in known for name in names), family
    assert {key for key in known if key.startswith("problem.")} == {f"problem.{kind}" for kind in MEANINGS}
    assert len(COLUMNS) == len(TABLE_TITLES)


# Recordings


def test_uploads_go_into_the_folder_of_their_speaker_and_nothing_is_written_over(tmp_path: Path) -> None:
    raw, uploads = tmp_path / "dataset_raw", tmp_path / "uploads"
    first = tone(uploads / "1" / "take.wav")
    other = tone(uploads / "2" / "take.wav", 330.0)
    notes = uploads / "notes.txt"
    notes.write_text("no audio")
    done = add_recordings(raw, "alice", [first, other, notes], uploads)
    assert (done.added, done.same, done.refused) == (2, 0, ("notes.txt",))
    assert (raw / "alice/take.wav").read_bytes() == first.read_bytes()
    assert (raw / "alice/take_2.wav").read_bytes() == other.read_bytes()
    again = add_recordings(raw, "alice", [first, other], uploads)
    assert (again.added, again.same) == (0, 2)
    assert list_speakers(raw) == {"alice": 2}


@pytest.mark.parametrize("speaker", ["../evil", "a/b", "..", ".hidden", "", "-flag", "a\\b", "x" * 65])
def test_a_speaker_is_a_plain_folder(speaker: str, tmp_path: Path) -> None:
    song = tone(tmp_path / "uploads/song.wav")
    with pytest.raises(UserError, match="cannot be the name of a speaker"):
        add_recordings(tmp_path / "raw", speaker, [song], tmp_path / "uploads")
    assert not (tmp_path / "raw").exists() and not (tmp_path / "evil").exists()


def test_only_uploads_are_taken_and_links_lead_nowhere(tmp_path: Path) -> None:
    raw, uploads, outside = tmp_path / "raw", tmp_path / "uploads", tmp_path / "outside"
    secret = tone(outside / "secret.wav")
    tone(uploads / "song.wav")
    (uploads / "link.wav").symlink_to(secret)
    tone(raw / "alice/a.wav")
    (raw / "linked").symlink_to(outside)
    for path in (secret, uploads / "../outside/secret.wav", uploads / "link.wav"):
        with pytest.raises(UserError, match="not an uploaded file"):
            add_recordings(raw, "bob", [path], uploads)
    with pytest.raises(UserError, match="lies elsewhere"):
        add_recordings(raw, "linked", [uploads / "song.wav"], uploads)
    assert list_speakers(raw) == {"alice": 1}
    assert sorted(path.name for path in outside.iterdir()) == ["secret.wav"]


def test_a_report_is_shown_in_both_languages_and_names_are_escaped(state: ServerState) -> None:
    clipped = Problem("clipped", "1.2%")
    files = tuple(FileReport(Path(f"<b>{number}.wav"), "al<i>ce", 5.0, problems=(clipped,)) for number in range(5))
    path = state.folders.work_dir / "recordings.json"
    path.write_text(RecordingsReport(Path("raw"), (SpeakerReport("al<i>ce", files),)).to_json(), encoding="utf-8")
    english, chinese = show_report(page_of(state), path), show_report(page_of(state, "zh"), path)
    assert "is clipped (1.2% of its samples)" in english and "有削波（占采样的 1.2%）" in chinese
    assert "and 2 more" in english and "<i>" not in english and "<b>0" not in english
    assert show_report(page_of(state), state.folders.work_dir / "missing.json") == ""
    path.write_text('{"speakers": 3}')
    assert 'class="bad"' in show_report(page_of(state), path)


# The form


def test_what_the_form_says_is_checked_against_what_is_there(state: ServerState) -> None:
    import gradio as gr

    page = page_of(state)
    with gr.Blocks():
        form = Form(page)
    values: dict[str, Any] = {**checked().model_dump(), "model": " alice ", "speakers": ["a"], "max_minutes": 0}
    settings = form.settings(values, {"a": 1, "b": 2})
    assert settings.model == "alice" and settings.speakers == ("a",) and settings.max_minutes is None
    assert form.settings({**values, "speakers": ["b", "a"]}, {"a": 1, "b": 2}).speakers == ()
    with pytest.raises(UserError, match="no recordings of --evil"):
        form.settings({**values, "speakers": ["--evil"]}, {"a": 1})


def test_settings_come_back_and_a_broken_file_gives_the_defaults(state: ServerState) -> None:
    training = state.training
    assert training.first_model() == "44k" and training.settings("m") == proposed("m", training.has_gpu)
    folder = training.jobs.folder("m")
    folder.mkdir(parents=True)
    saved = checked(model="m", encoder="hubertsoft", speakers=("a",))
    (folder / ".settings.json").write_text(saved.model_dump_json())
    assert training.settings("m") == saved and training.first_model() == "m" and training.models() == ["44k", "m"]
    (folder / ".settings.json").write_text('{"model": "other"}')
    assert training.settings("m") == proposed("m", training.has_gpu)
    (folder / ".settings.json").write_text("nonsense")
    assert training.settings("m") == proposed("m", training.has_gpu)
    with pytest.raises(UserError):
        training.logs("../m")


def test_only_the_named_figures_of_a_config_change(tmp_path: Path) -> None:
    config = load_config(ROOT / "configs_template/config_template.json")
    values: dict[str, Any] = {name: getattr(config.train, name) for name in CONFIG_FIELDS}
    changed = change_config(config, {**values, "batch_size": 3})
    assert changed.train.batch_size == 3
    assert changed.model_copy(update={"train": config.train}) == config
    for wrong in (0, None, 2.5):
        with pytest.raises(UserError, match="batch_size|empty"):
            change_config(Config(), {**values, "batch_size": wrong})


def test_weights_that_are_missing_are_named_with_their_size(state: ServerState) -> None:
    training = state.training
    there, missing, size = training.missing_weights("vec768l12", "rmvpe", True)
    assert there == [] and missing == ["contentvec", "rmvpe", "nsf_hifigan"] and 300 < size < 600
    (state.folders.work_dir / "pretrain").mkdir()
    (state.folders.work_dir / "pretrain/rmvpe.pt").write_bytes(b"x")
    assert training.missing_weights("vec256l9", "rmvpe", False)[:2] == (["rmvpe"], ["contentvec"])
    assert training.missing_weights("vec256l9", "fcpe", False)[1] == ["contentvec"]


# How steps are shown


def write_record(state: ServerState, step: str, **values: Any) -> None:
    folder = state.folders.of_user("logs") / "m" / "jobs"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{step}.json").write_text(json.dumps({"step": step, "command": ["x"], **values}))


def test_a_failed_step_shows_its_last_lines_and_an_old_one_asks_to_be_run_again(state: ServerState) -> None:
    training, page = state.training, page_of(state)
    write_record(state, "resample", started=100.0, ended=200.0, code=0)
    write_record(state, "lists", started=50.0, ended=60.0, code=0)
    write_record(state, "features", started=210.0, ended=220.0, code=2)
    (training.jobs.folder("m") / "features.log").write_text("error: <no> clips\n  to do: record some\n")
    write_record(state, "train", started=300.0)  # its runner is gone
    states = statuses(training, "m")
    assert [states[step].state for step in ("resample", "lists", "features", "train", "index")] == [
        *("done", "done", "failed", "lost", "never")
    ]
    assert is_outdated(states["lists"], states) and not is_outdated(states["resample"], states)
    shown = show_step(page, training, "m", "features", states)
    assert "error: &lt;no&gt; clips" in shown and 'data-state="failed"' in shown
    assert "run it again" in show_step(page, training, "m", "lists", states)
    assert "was cut off" in show_step(page, training, "m", "train", states)
    shown = show_now(page, training, "m", states)  # at the top of the tab
    assert "Step 3 · Features failed for m" in shown and "error: &lt;no&gt; clips" in shown
    assert next_step(states) == "lists" and 'class="next" aria-current="step"' in shown
    write_record(state, "features", started=400.0, ended=410.0, code=0)
    assert "Nothing is running" in show_now(page, training, "m", statuses(training, "m"))


def test_steps_that_need_missing_weights_are_refused_before_the_first_one_runs(state: ServerState) -> None:
    with pytest.raises(UserError, match="weights are missing: contentvec"):
        state.training.start(checked(model="m", predictor="pm"), NUMBERED)
    assert not state.training.jobs.folder("m").exists()


def test_what_is_proposed_fits_the_machine(state: ServerState) -> None:
    assert proposed("m", has_gpu=True) == checked(model="m")
    alone = proposed("m", has_gpu=False)
    config = parse_config(checkpoint.safetensors_metadata(BASE_DIR / BASE_GENERATOR)["config"], "base")
    assert (alone.size, alone.encoder) == ("micro", config.model.speech_encoder)  # so that it starts from there
    assert state.training.missing_weights(alone.encoder, alone.predictor, alone.use_diff)[1] == ["whisper-base"]


# Curves and audio


def test_curves_and_audio_come_from_the_log_that_training_writes(state: ServerState, tmp_path: Path) -> None:
    logs = state.folders.of_user("logs") / "m"
    page = page_of(state)
    assert "Curves appear here" in show_curves(page, logs)
    audio = {step: np.full(RATE // 10, step / 20, np.float32) for step in (4, 8)}
    logs.mkdir(parents=True)
    log, reader = TrainingLog(logs, 0), SampleReader()
    for step in range(1, 9):
        log.scalars(step, 1, {"loss/g/mel": 40.0 - step, "loss/d/total": 2.0, "steps_per_second": 1.5})
        if step in audio:
            log.scalars(step, 1, {"val/mel_distance": 2.0 if step == 4 else 2.5})
            for side in ("gen", "gt"):
                log.audio(step, f"{side}/audio_0", audio[step] * (1 if side == "gen" else 0.5), RATE)
            log.board.flush()
            samples = reader.newest(logs, tmp_path)
            assert [item.step for item in samples] == [step]
            for path, factor in ((samples[0].sung, 1), (samples[0].recorded, 0.5)):
                audible, rate = soundfile.read(path)
                assert rate == RATE and audible == pytest.approx(audio[step] * factor, abs=1e-3)
    log.close()
    shown = show_curves(page, logs)
    assert set(re.findall('data-curve="([^"]+)"', shown)) == {"loss/g/mel", "loss/d/total", "val/mel_distance"}
    assert "best 2.000 at step 4" in shown and "Step 8, epoch 1" in shown and "1.50 steps/s" in shown
    points = re.search(r'data-curve="loss/g/mel".*?class="raw" d="M([^"]+)"', shown)
    assert points is not None
    heights = [float(point.split()[1]) for point in points[1].split(" L")]
    assert len(heights) == 8 and heights == sorted(heights)  # it falls: down is larger in an SVG


def test_a_log_that_is_cut_off_or_not_finite_is_drawn_as_far_as_it_goes(state: ServerState) -> None:
    logs = state.folders.of_user("logs") / "m"
    logs.mkdir(parents=True)
    row = {"step": 1, "epoch": 1, "seconds": 1.0, "loss/g/mel": None, "loss/g/kl": 3.0}
    (logs / METRICS_NAME).write_text(json.dumps(row) + '\n{"step": 2, "loss')
    shown = show_curves(page_of(state), logs)
    assert 'data-curve="loss/g/kl"' in shown and "loss/g/mel" not in shown and "nan" not in shown


def test_long_curves_are_thinned_and_keep_their_course() -> None:
    points = [(step, 10 - step / 1000 + (step % 2)) for step in range(5000)]
    few = thinned(points)
    assert len(few) <= POINTS and few[-1][0] == 4999
    assert few[0][1] == pytest.approx(10.5, abs=0.1) and few[-1][1] == pytest.approx(5.5, abs=0.1)
    course = smoothed([(step, 1.0) for step in range(50)])
    assert all(value == pytest.approx(1.0) for _, value in course)
    assert ticks(0.0, 1.0) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    frame = Frame.around([(0, 1000.0)] + [(step, 1.0) for step in range(1, 100)])
    assert frame.high < 2  # the first step does not press the rest flat
    single = Frame.around([(5, 2.0)])
    assert single.low < 2 < single.high and single.last > single.first


def test_links_in_dataset_raw_are_left_out_but_it_may_be_one_itself(tmp_path: Path) -> None:
    tone(tmp_path / "disk/alice/a.wav")
    (tmp_path / "dataset_raw").symlink_to(tmp_path / "disk")
    assert list_speakers(tmp_path / "dataset_raw") == {"alice": 1}
