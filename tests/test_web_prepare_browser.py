"""The tab that prepares and trains, as a person uses it in a headless Chromium: from recordings to a released voice."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from modules.audio.io import load_audio
from modules.config import load_config
from modules.training.logging import read_metrics
from modules.web.train.jobs import Jobs
from tests.conftest import ROOT
from tests.standin_voice import write_encoder
from tests.tiny_voice import tiny_config
from tests.web_server import WebServer, launched_browser

RATE = 44100
MODEL = "mini"
PATIENCE = 300  # seconds; each wait takes about one on a machine that has nothing else to do
SHOTS = os.environ.get("SCREENSHOTS")  # docs/images has what this test puts there


pytestmark = pytest.mark.timeout(1500)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of two speakers, a small encoder, nothing else."""
    home = tmp_path_factory.mktemp("prepare") / "home"
    for speaker, song in (("alice", "sinsy/twinkle"), ("bob", "taro/sakura")):
        audio, _ = load_audio(ROOT / "demo" / "voices" / f"{song}.flac")
        folder = home / "dataset_raw" / speaker
        folder.mkdir(parents=True)
        for number in range(4):
            part = audio[number * 2 * RATE : (number + 1) * 2 * RATE]
            soundfile.write(folder / f"take{number}.flac", part, RATE)
    write_encoder(home / "pretrain")
    return home


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[WebServer]:
    server = WebServer(home, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
    yield server
    server.stop()
    jobs = Jobs(home / "logs", home, ROOT)
    for model in jobs.models():  # what outlives the server must not outlive the test
        while jobs.is_held(model):
            jobs.stop(model)
            time.sleep(0.2)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched_browser() as browser:
        yield browser


class Tab:
    """The tab in a browser."""

    def __init__(self, browser: Any, url: str, width: int = 1280, language: str = "en") -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900})
        self.page.set_default_timeout(1000 * PATIENCE)
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.url = f"{url}{language}/"
        self.open()

    def open(self, part: str = "prepare-model", tab: int = 2) -> None:
        """Load the page, and go to a tab."""
        self.page.goto(self.url)
        self.page.get_by_role("tab").nth(tab).click()
        self.page.locator(f"#{part}").wait_for()
        if tab == 2:
            self.wait_for(lambda: self.value("prepare-model input"))

    def __getitem__(self, name: str) -> Any:
        return self.page.locator(f"#{name}")

    def value(self, selector: str) -> str:
        return self.page.locator(f"#{selector}").input_value()

    def choose(self, name: str, option: str) -> None:
        """Take an option of a dropdown."""
        field = self[name].locator("input")
        if field.input_value() != option:
            field.click()
            self.page.get_by_role("option", name=option, exact=True).click()

    def fill(self, name: str, value: str) -> None:
        field = self[name].locator("input, textarea").first
        field.fill(value)
        field.press("Enter")
        field.blur()

    def run(self, step: str, seconds: float = PATIENCE) -> str:
        """Press the button of a step and wait for its end; returns how it ended."""
        head = self[f"prepare-head-{step}"].locator("[data-state]")
        before = head.get_attribute("data-started")
        self[f"prepare-run-{step}"].click()
        self.wait_for(lambda: head.get_attribute("data-started") != before, seconds)
        self.wait_for(lambda: head.get_attribute("data-state") in ("done", "some_failed", "failed"), seconds)
        return head.get_attribute("data-state")

    def state(self, step: str) -> str:
        return self[f"prepare-head-{step}"].locator("[data-state]").get_attribute("data-state")

    def wait_for(self, condition: Callable[[], object], seconds: float = PATIENCE) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"it takes too long\n{self['prepare-log'].text_content()}"
            self.page.wait_for_timeout(200)

    def shot(self, name: str, at: str | None = None) -> None:
        """A picture for the documents where SCREENSHOTS names a folder: the whole page, or what is seen at a part."""
        if not SHOTS:
            return
        if at is not None:
            self.page.evaluate("id => document.getElementById(id).scrollIntoView()", at)
            self.page.wait_for_timeout(500)
        picture = Image.open(io.BytesIO(self.page.screenshot(full_page=at is None)))
        picture.convert("RGB").quantize(128).save(Path(SHOTS) / f"{name}.png", optimize=True)


def test_recordings_are_uploaded_and_examined(browser: Any, server: WebServer, home: Path, tmp_path: Path) -> None:
    tab = Tab(browser, server.url)
    tab.wait_for(lambda: "alice (4)" in tab["prepare-speakers"].text_content())

    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF this is no audio")
    good = tmp_path / "good.wav"
    soundfile.write(good, np.clip(30 * load_audio(home / "dataset_raw/bob/take0.flac")[0], -1, 1), RATE)
    notes = tmp_path / "notes.txt"
    notes.write_text("no audio")
    tab["prepare-upload-group"].get_by_role("button").first.click()
    tab.fill("prepare-upload-speaker", "../evil")
    tab["prepare-upload"].locator("input[type=file]").set_input_files([str(broken), str(good), str(notes)])
    tab.wait_for(lambda: "notes" in tab["prepare-upload"].text_content())
    tab["prepare-upload-add"].click()
    tab.page.get_by_text("cannot be the name of a speaker").wait_for()
    tab.fill("prepare-upload-speaker", "carol")
    tab["prepare-upload-add"].click()
    tab.page.get_by_text("2 file(s) of carol added").wait_for()
    assert sorted(path.name for path in (home / "dataset_raw/carol").iterdir()) == ["broken.wav", "good.wav"]
    assert not (home / "evil").exists()
    tab.wait_for(lambda: "carol (2)" in tab["prepare-speakers"].text_content())

    tab["prepare-run-report"].click()
    report = tab["prepare-report"]
    report.locator("table").wait_for()
    rows = [row.text_content() for row in report.locator("tbody tr").all()]
    assert [row.split()[0].rstrip("0123456789.")[:5] for row in rows] == ["alice", "bob", "carol"]
    assert "broken.wav" in report.text_content() and "is clipped" in report.text_content()
    tab.shot("report_1280")
    chinese = Tab(browser, server.url, width=390, language="zh")
    chinese["prepare-report"].locator("table").wait_for()
    assert "有削波" in chinese["prepare-report"].text_content()
    assert "说话人" in chinese["prepare-speakers"].text_content()
    assert chinese.page.evaluate("document.documentElement.scrollWidth") <= 390
    chinese.shot("report_390_zh")
    assert not tab.errors and not chinese.errors


def test_a_voice_is_prepared_trained_watched_stopped_and_released(browser: Any, server: WebServer, home: Path) -> None:
    tab = Tab(browser, server.url)
    tab.fill("prepare-model", MODEL)
    command = "prepare-command-features textarea"
    tab.wait_for(lambda: f"dataset/{MODEL}" in tab.value(command))
    tab["prepare-speakers"].get_by_label("carol").uncheck()
    tab.choose("prepare-encoder", "whisper-ppg-tiny")
    tab.choose("prepare-size", "micro")
    tab.choose("prepare-predictor", "pm")
    tab.fill("prepare-device", "cpu")
    flags = f"--f0_predictor pm -d cpu --in_dir dataset/{MODEL} -c configs/{MODEL}/config.json"
    tab.wait_for(lambda: tab.value(command) == f"python preprocess_hubert_f0.py {flags}")

    assert tab.run("features") == "failed"  # nothing is there yet, and the page says what to do
    assert "preprocess_flist_config.py" in tab["prepare-head-features"].text_content()
    assert tab.run("resample") == "done"
    assert sorted(path.name for path in (home / "dataset" / MODEL).iterdir()) == ["alice", "bob"]
    assert tab.run("lists") == "done"
    make_small(home / "configs" / MODEL / "config.json")
    assert tab.run("features") == "done"
    assert (home / "dataset" / MODEL / "alice/take0_000.wav.soft.pt").is_file()

    tab["prepare-config-group"].get_by_role("button").first.click()
    tab.wait_for(lambda: tab.value("prepare-batch_size input") == "8")
    for name, value in (("batch_size", "2"), ("eval_interval", "4"), ("log_interval", "1")):
        tab.fill(f"prepare-{name}", value)
    tab["prepare-config-save"].click()
    tab.page.get_by_text("the next start of training heeds it").wait_for()

    tab["prepare-run-train"].click()
    curves = tab["prepare-curves"]
    curves.locator('figure[data-curve="loss/g/mel"]').wait_for()
    tab.open()  # the page is loaded anew
    assert tab.value("prepare-model input") == MODEL and tab.state("train") == "running"
    tab.wait_for(lambda: tab.value("prepare-encoder input") == "whisper-ppg-tiny")
    assert "alice" in tab["prepare-speakers"].locator("label:has(input:checked)").all_text_contents()[0]
    metrics = home / "logs" / MODEL / "metrics.jsonl"
    seen = read_metrics(metrics)[-1]["step"]
    tab.wait_for(lambda: read_metrics(metrics)[-1]["step"] > max(seen, 5))

    second = Tab(browser, server.url, width=390)  # another page sees the same, and cannot start a second one
    second.wait_for(lambda: second.state("train") == "running")
    second["prepare-run-train"].click()
    second.page.get_by_text("is still running").first.wait_for()
    second.shot("training_390")
    assert second.page.evaluate("document.documentElement.scrollWidth") <= 390

    tab["prepare-listen"].click()
    for side in ("recording", "model"):
        tab[f"prepare-{side}-0"].wait_for()
        tab.wait_for(lambda side=side: heard(tab, f"prepare-{side}-0") > 0.5)
    tab.shot("training_1280")
    tab.shot("train", at="prepare-step-train")

    tab["prepare-stop"].dblclick()
    tab.wait_for(lambda: tab.state("train") == "stopped")
    second.wait_for(lambda: second.state("train") == "stopped")
    stopped = read_metrics(metrics)[-1]["step"]
    assert (home / "logs" / MODEL / f"G_{stopped}.pth").is_file()

    tab["prepare-run-train"].click()
    tab.wait_for(lambda: read_metrics(metrics)[-1]["step"] > stopped)
    tab["prepare-stop"].click()
    tab.wait_for(lambda: tab.state("train") == "stopped")
    assert tab.run("release") == "done"
    assert (home / "trained" / MODEL / f"{MODEL}.safetensors").stat().st_size > 100_000

    tab.open("convert-start", 0)  # the voice is there to be used
    tab.choose("convert-model", f"trained/{MODEL}")
    tab.wait_for(lambda: tab.value("convert-speaker input") == "alice")
    tab["convert-files"].locator("input[type=file]").set_input_files(str(home / "dataset_raw/bob/take1.flac"))
    tab.wait_for(lambda: "take1" in tab["convert-files"].text_content())
    tab["convert-start"].click()
    tab.page.locator(".song.done").wait_for()
    result = next((home / "results").glob("take1*alice*.flac"))
    assert soundfile.info(result).frames == 2 * RATE
    tab.page.wait_for_timeout(3000)
    tab.shot("convert", at="convert-model")
    assert not tab.errors and not second.errors


def make_small(path: Path) -> None:
    """What a user with an editor and little patience does to a config: a step then takes a fraction of a second."""
    config = load_config(path)
    small = tiny_config(model={"ssl_dim": config.model.ssl_dim, "speech_encoder": config.model.speech_encoder})
    small.spk, small.data = config.spk, config.data
    small.train.batch_size = 8
    small.save(path)


def heard(tab: Tab, name: str) -> float:
    """Seconds that a player on the page would play; 0 while it is loading."""
    source = tab.page.evaluate(
        "name => document.getElementById(name)?.querySelector('audio, source, a[download]')?."
        "getAttribute('src') ?? document.getElementById(name)?.querySelector('a[href]')?.href ?? ''",
        name,
    )
    if not source:
        return 0.0
    answer = tab.page.request.get(source if source.startswith("http") else tab.url + source.lstrip("/"))
    assert answer.ok
    audio, rate = soundfile.read(io.BytesIO(answer.body()))
    assert np.isfinite(audio).all()
    return len(audio) / rate
