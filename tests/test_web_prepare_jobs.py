"""Jobs of the web page: the commands are those of the README, they outlive the server, stop on request, and go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modules.errors import UserError
from modules.training.logging import read_metrics
from modules.web.train.jobs import Jobs, Progress, read_progress
from modules.web.train.steps import EXCLUSIVE, STEPS, arguments, checked, command
from tests.conftest import ROOT
from tests.tiny_voice import make_dataset, tiny_config

NEVER = 10**6
SLEEP = "import time; print('begun', flush=True); time.sleep(120)"


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    made = Jobs(tmp_path / "logs", tmp_path, ROOT)
    yield made
    for model in made.models():
        while made.is_held(model):
            made.stop(model)
            time.sleep(0.1)


def python(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.05)


def wait_for_end(jobs: Jobs, model: str) -> None:
    wait_for(lambda: not jobs.is_held(model))


# What is run


def test_the_commands_of_the_default_model_are_those_of_the_readme() -> None:
    settings = checked(processes=4)
    lines = {f"python {' '.join(arguments(step, settings))}" for step in STEPS}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for step in ("resample", "lists", "features", "train"):
        assert f"python {' '.join(arguments(step, settings))}\n" in readme, step
    assert "python -m pretrain fetch contentvec rmvpe" in lines


def test_another_model_has_files_of_its_own() -> None:
    settings = checked(model="alice", speakers=("alice", "鈴木"), use_diff=True, device="cuda:1", half=True)
    assert arguments("resample", settings) == [
        *("resample.py", "--slice", "--out_dir2", "dataset/alice", "--speakers", "alice", "鈴木")
    ]
    lists = arguments("lists", settings)
    assert "configs/alice/config.json" in lists and lists[-3:] == ["--speakers", "alice", "鈴木"]
    assert arguments("train", settings) == [
        *("train.py", "-c", "configs/alice/config.json", "-m", "alice", "-d", "cuda:1")
    ]
    assert "logs/alice" in arguments("index", settings) and "--gpu" in arguments("cluster", settings)
    assert arguments("release", settings)[-4:] == ["-o", "trained/alice/alice.safetensors", "--safetensors", "--half"]
    default = checked()
    shared = {word for step in STEPS for word in arguments(step, default) if "/" in word}
    own = {word for step in STEPS for word in arguments(step, settings) if "/" in word}
    assert shared & own <= {"cluster/train_cluster.py"}


@pytest.mark.parametrize("model", ["44k", "alice"])
@pytest.mark.parametrize("name", STEPS)
def test_every_flag_is_known_to_its_script(name: str, model: str) -> None:
    settings = checked(
        model=model, speakers=("alice",), loudnorm="lufs", size="micro", vol_aug=True, device="cuda", processes=2,
        use_diff=True, precision="bf16", compile=True, max_steps=5, max_minutes=1.5, half=True,
    )  # fmt: skip
    # an unknown flag is found before --help is answered only if it stands in the way: ask for both
    result = subprocess.run(
        [*command(name, settings, ROOT), "--no-such-flag"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2 and "unrecognized arguments: --no-such-flag\n" in result.stderr, result.stderr


@pytest.mark.parametrize(
    "values",
    [
        {"model": "../44k"},
        {"model": "a/b"},
        {"model": ".hidden"},
        {"model": "-m"},
        {"model": ""},
        {"speakers": ("--out_dir2",)},
        {"speakers": ("../x",)},
        {"speakers": ("a\nb",)},
        {"encoder": "none"},
        {"predictor": "; rm"},
        {"device": "cuda --help"},
        {"checkpoint": "../G_1.pth"},
        {"processes": -1},
        {"max_minutes": 0},
        {"loudnorm": "loud"},
        {"unknown": 1},
    ],
    ids=str,
)
def test_what_no_form_can_hold_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(UserError):
        checked(**values)


def test_no_model_lies_outside_of_the_logs(jobs: Jobs, tmp_path: Path) -> None:
    (tmp_path / "evil" / "jobs").mkdir(parents=True)
    for name in ("../evil", "..", "/etc", ""):
        for action in (jobs.stop, jobs.is_held, jobs.folder):
            with pytest.raises(UserError, match="cannot be the name of a model"):
                action(name)


# How it runs


def test_commands_run_in_order_and_leave_their_output(jobs: Jobs, tmp_path: Path) -> None:
    (tmp_path / "seen").mkdir()
    steps = [(name, python(f"import os; print('我 am {name}'); os.mkdir('seen/{name}')")) for name in ("one", "two")]
    jobs.start("m", steps)
    wait_for_end(jobs, "m")
    assert sorted(path.name for path in (tmp_path / "seen").iterdir()) == ["one", "two"]
    one, two = jobs.status("m", "one"), jobs.status("m", "two")
    assert (one.state, two.state, one.code) == ("done", "done", 0)
    assert one.ended is not None and two.started is not None and one.ended <= two.started
    assert jobs.log("m", "two") == ["我 am two"] and list(one.command) == steps[0][1]
    assert jobs.status("m", "three").state == "never" and jobs.log("m", "three") == []


def test_a_failure_ends_the_row_and_left_out_files_do_not(jobs: Jobs) -> None:
    exits = [(name, python(f"raise SystemExit({code})")) for name, code in (("a", 1), ("b", 2), ("c", 0))]
    jobs.start("m", exits)
    wait_for_end(jobs, "m")
    assert [jobs.status("m", name).state for name in "abc"] == ["some_failed", "failed", "skipped"]


def test_a_program_that_is_not_there_fails_with_the_reason(jobs: Jobs) -> None:
    jobs.start("m", [("a", ["/no/such/program"])])
    wait_for_end(jobs, "m")
    assert jobs.status("m", "a").state == "failed" and "No such file" in jobs.log("m", "a")[0]


def test_one_job_a_model_and_one_training_at_all(jobs: Jobs) -> None:
    jobs.start("m", [("train", python(SLEEP))], EXCLUSIVE)
    assert jobs.running_step("m") == "train"
    with pytest.raises(UserError, match="train of m is still running"):
        jobs.start("m", [("resample", python("pass"))], EXCLUSIVE)
    with pytest.raises(UserError, match="one training at a time: train of m"):
        jobs.start("other", [("resample", python("pass")), ("train", python("pass"))], EXCLUSIVE)
    jobs.start("other", [("resample", python("pass"))], EXCLUSIVE)
    wait_for_end(jobs, "other")
    assert jobs.status("other", "resample").state == "done"


def test_a_stop_is_a_ctrl_c_and_the_third_one_kills(jobs: Jobs) -> None:
    stubborn = (
        "import signal, time\n"
        "signal.signal(signal.SIGINT, lambda *_: print('no', flush=True))\n"
        "print('begun', flush=True)\n"
        "while True: time.sleep(1)"
    )
    jobs.start("m", [("a", python(stubborn)), ("b", python("pass"))])
    wait_for(lambda: jobs.log("m", "a") == ["begun"])
    assert [jobs.status("m", name).state for name in "ab"] == ["running", "waiting"]
    assert jobs.stop("m") == 1
    wait_for(lambda: jobs.log("m", "a") == ["begun", "no"])
    assert jobs.status("m", "a").state == "stopping"
    jobs.stop("m")
    wait_for(lambda: jobs.log("m", "a") == ["begun", "no", "no"])
    assert jobs.stop("m") == 3
    wait_for_end(jobs, "m")
    a = jobs.status("m", "a")
    assert (a.state, a.code) == ("stopped", -signal.SIGKILL) and jobs.status("m", "b").state == "skipped"
    assert jobs.stop("m") == 0  # nothing is there to stop


def test_a_runner_that_was_killed_is_noticed_and_work_can_start_again(jobs: Jobs) -> None:
    jobs.start("m", [("a", python(f"import os; print(os.getpid(), os.getppid(), flush=True); {SLEEP}"))])
    wait_for(lambda: len(jobs.log("m", "a")) == 2)
    child, runner = (int(word) for word in jobs.log("m", "a")[0].split())
    os.kill(runner, signal.SIGKILL)
    os.kill(child, signal.SIGKILL)
    wait_for(lambda: jobs.status("m", "a").state == "lost")
    jobs.start("m", [("a", python("pass"))])
    wait_for_end(jobs, "m")
    assert jobs.status("m", "a").state == "done"


def test_the_password_of_the_page_is_not_handed_on(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBUI_PASSWORD", "very secret")
    jobs.start("m", [("a", python("import os; print(os.environ.get('WEBUI_PASSWORD'))"))])
    wait_for_end(jobs, "m")
    assert jobs.log("m", "a") == ["None"]


def test_progress_is_read_from_what_the_scripts_print() -> None:
    lines = ["resample: 3 of 12, about 0:00:09 left"]
    assert read_progress(lines) == Progress(0.25, "0:00:09", "3 / 12")
    lines.append("alice: 50 %, about 0:01:00 left")
    assert read_progress(lines) == Progress(0.5, "0:01:00", "50 %")
    lines += ["step 10 of 40 (epoch 2): 1.50 steps/s, 0:00:20 left; d 1.0, mel 20.1", "step 20: saved"]
    assert read_progress(lines) == Progress(0.25, "0:00:20", "10 / 40")
    assert read_progress(["nothing"]) is None


# The server dies, training lives


SERVER = """
import sys, time
from pathlib import Path
from modules.web.train.jobs import Jobs
from modules.web.train.steps import command, checked, EXCLUSIVE
home = Path(sys.argv[1])
settings = checked(model="m", device="cpu")
train = command("train", settings, Path(sys.argv[2]))
train[train.index("-c") + 1] = "configs/config.json"
Jobs(home / "logs", home, Path(sys.argv[2])).start("m", [("train", train)], EXCLUSIVE)
print("started", flush=True)
time.sleep(300)
"""


def test_training_outlives_the_server_stops_with_a_checkpoint_and_goes_on(tmp_path: Path, jobs: Jobs) -> None:
    make_dataset(tmp_path, tiny_config({"log_interval": 1, "eval_interval": NEVER}), seconds=(0.5, 0.45, 0.4))
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(tmp_path), str(ROOT)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert server.stdout is not None and server.stdout.readline() == "started\n"
    metrics = tmp_path / "logs" / "m" / "metrics.jsonl"
    wait_for(lambda: len(read_metrics(metrics)) > 2, 120)
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    before = len(read_metrics(metrics))
    wait_for(lambda: len(read_metrics(metrics)) > before + 2)
    status = jobs.status("m", "train")  # another server, later
    assert status.state == "running" and status.progress is not None and status.progress.share > 0
    jobs.stop("m")
    wait_for_end(jobs, "m")
    ended = jobs.status("m", "train")
    assert (ended.state, ended.code) == ("stopped", 130)
    assert "the same command goes on from here" in jobs.log("m", "train")[-1]
    step = read_metrics(metrics)[-1]["step"]
    assert list((tmp_path / "logs" / "m").glob("G_*.pth"))

    jobs.start("m", [("train", list(ended.command))], EXCLUSIVE)
    wait_for(lambda: read_metrics(metrics)[-1]["step"] > step, 120)
    jobs.stop("m")
    wait_for_end(jobs, "m")
    assert any("resuming from step" in line for line in jobs.log("m", "train"))
