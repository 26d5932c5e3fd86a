"""The page as a person uses it, in a headless Chromium."""

from __future__ import annotations

import functools
import http.server
import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from modules import checkpoint
from tests.standin_voice import RATE, write_encoder
from tests.web_server import SPEECH_HOST, WebServer, launched_browser, make_home, write_song

SHOTS = os.environ.get("SCREENSHOTS")  # the folder that pictures of the page are wanted in
PATIENCE = int(os.environ.get("PATIENCE", "60000"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched_browser() as found:
        yield found


@pytest.fixture(scope="module")
def server(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    running = WebServer(make_home(tmp_path_factory.mktemp("web")), "--max_upload", "20")
    yield running
    running.stop()


class Visitor:
    """Somebody with the page open; remembers what it asked of other machines, and errors of its scripts."""

    def __init__(self, browser: Any, server: WebServer, locale: str = "en-US", width: int = 1280) -> None:
        self.context = browser.new_context(locale=locale, viewport={"width": width, "height": 900})
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.foreign: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", self._note)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.server = server
        self.open()

    def _note(self, request: Any) -> None:
        if not request.url.startswith((self.server.url, "data:", "blob:")):
            self.foreign.append(request.url)

    def open(self) -> None:
        self.page.goto(self.server.url)
        self.page.wait_for_selector("#convert-start")
        self.page.wait_for_function("document.querySelector('#convert-speaker input')?.value")

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).click()

    def choose(self, field: str, value: str) -> None:
        """One of a dropdown's choices."""
        if self.page.locator(f"#{field} input").input_value() == value:
            return
        option = self.page.get_by_role("option", name=value, exact=True)
        for _ in range(20):  # the list may be read anew just now
            self.page.locator(f"#{field} input").click()
            self.page.wait_for_timeout(500)
            if option.count():
                option.click()
                break
            self.page.locator(f"#{field} input").blur()  # it opens when it gets the focus
            self.page.wait_for_timeout(500)
        self.page.wait_for_function(
            "([field, value]) => document.querySelector(`#${field} input`).value === value", arg=[field, value]
        )

    def upload(self, field: str, *files: Path) -> None:
        self.page.set_input_files(f"#{field} input[type=file]", list(files))
        self.page.wait_for_selector(f"#{field} >> text={files[-1].stem[:8]}")

    def convert(self, *songs: Path) -> None:
        """Press Convert and wait until every song is done."""
        self.start(*songs)
        self.page.wait_for_selector(f".song.done >> nth={len(songs) - 1}")

    def start(self, *songs: Path) -> None:
        if songs:
            self.upload("convert-files", *songs)
        self.page.click("#convert-start")

    def write(self, field: str, text: str) -> None:
        self.page.locator(f"#{field} input, #{field} textarea").first.fill(text)

    def set_number(self, field: str, value: float) -> None:
        number = self.page.locator(f"#{field} input[type=number]")
        number.fill(str(value))
        number.blur()
        self.page.wait_for_timeout(300)

    def take_picture(self, name: str) -> None:
        """For docs/images, where they are asked for."""
        if SHOTS is not None:
            from PIL import Image

            self.page.wait_for_timeout(500)
            picture = Image.open(io.BytesIO(self.page.screenshot(full_page=True)))
            picture.convert("RGB").quantize(128).save(Path(SHOTS) / f"{name}.png", optimize=True)

    def message(self) -> str:
        """The text of the message that has appeared."""
        self.page.wait_for_selector(".toast-body")
        text: str = self.page.inner_text(".toast-body >> nth=-1")
        return text

    def download(self, what: str) -> bytes:
        with self.page.expect_download() as waiting:
            self.page.click(what)
        return Path(waiting.value.path()).read_bytes()


@pytest.fixture
def visit(browser: Any, server: WebServer) -> Iterator[Callable[..., Visitor]]:
    visitors: list[Visitor] = []

    def come(**options: Any) -> Visitor:
        visitors.append(Visitor(browser, server, **options))
        return visitors[-1]

    yield come
    for visitor in visitors:
        visitor.context.close()
    for visitor in visitors:
        assert not visitor.foreign, "the page asked another machine"
        assert not visitor.complaints
    assert not server.connections(), "the server asked another machine"


def seconds_of(data: bytes) -> float:
    audio, rate = soundfile.read(io.BytesIO(data))
    assert np.isfinite(audio).all()
    assert np.sqrt(np.mean(audio**2)) > 1e-3, "silence"
    return len(audio) / rate


def test_a_song_is_converted_heard_and_downloaded(visit: Callable[..., Visitor], server: WebServer) -> None:
    visitor = visit()
    page = visitor.page
    visitor.choose("convert-model", "trained/duet")
    visitor.choose("convert-speaker", "bob")
    visitor.set_number("convert-trans", 2)
    visitor.convert(server.home / "song.wav")

    page.wait_for_selector("#result-saved >> text=results/song_2key_bob_sovits_fcpe.flac")
    page.wait_for_selector("#result-audio >> text=0:03")  # the player has read it
    for kind in ("wav", "flac"):
        assert seconds_of(visitor.download(f"#result-{kind}")) == 3.0
    assert seconds_of(visitor.download("#result-mp3")) == pytest.approx(3.0, abs=0.1)
    saved, rate = soundfile.read(server.home / "results/song_2key_bob_sovits_fcpe.flac")
    assert rate == RATE and len(saved) == 3 * RATE
    assert page.evaluate("document.querySelector('#result-picture img').naturalWidth") == 1200
    page.click("#result-used button")
    command = page.inner_text("#result-command .cm-content")
    assert "inference_main.py -m trained/duet/duet.pth -c trained/duet/config.json -n song.wav -s bob -t 2" in command


def test_earlier_results_are_heard_and_deleted(visit: Callable[..., Visitor], server: WebServer) -> None:
    visitor = visit()
    page = visitor.page
    visitor.choose("convert-model", "trained/duet")
    visitor.convert(write_song(server.home / "early.wav", 3.0))
    name = "early_0key_alice_sovits_fcpe.flac"
    page.wait_for_selector(f"#result-saved >> text={name}")
    visitor.open()  # it is another page that looks
    page.click("#history-box > button")
    visitor.choose("history-choice", name)
    page.wait_for_selector("#history-audio >> text=0:03")
    assert "-n early.wav -s alice" in page.inner_text("#history-command .cm-content")
    page.click("#history-delete")
    page.wait_for_selector("#history-audio", state="hidden")
    assert not (server.home / "results" / name).exists()


def test_several_songs_wait_in_line_and_a_bad_one_stops_nobody(
    visit: Callable[..., Visitor], server: WebServer
) -> None:
    nonsense = server.home / "nonsense.wav"
    nonsense.write_bytes(b"this is not a song at all" * 100)
    visitor = visit()
    visitor.start(server.home / "song.wav", nonsense, write_song(server.home / "other.wav", 1.5))
    visitor.page.wait_for_selector(".song.done >> nth=1")
    assert [row.split()[0] for row in visitor.page.locator(".song").all_inner_texts()] == ["song", "nonsense", "other"]
    failed = visitor.page.inner_text(".song.failed")
    assert "nonsense" in failed and "what to do" in failed
    assert "Traceback" not in failed
    assert seconds_of(visitor.download("#result-wav")) == 1.5  # the newest result is shown


def test_a_nonsense_model_is_refused_with_a_message(visit: Callable[..., Visitor], server: WebServer) -> None:
    broken = server.home / "broken.pth"
    broken.write_bytes(os.urandom(5000))
    visitor = visit()
    visitor.page.click("#convert-upload-group button")
    visitor.page.set_input_files("#convert-upload input[type=file]", [broken])
    assert "0 configs where there should be one" in visitor.message()
    config = server.home / "trained/duet/config.json"
    visitor.open()
    visitor.page.click("#convert-upload-group button")
    visitor.page.set_input_files("#convert-upload input[type=file]", [broken, config])
    visitor.page.wait_for_function("document.querySelector('#convert-model input').value.includes('broken.pth')")
    visitor.page.click("#convert-load")
    assert "cut off or not a weights file" in visitor.message()


def test_the_page_speaks_the_language_of_the_browser_and_can_be_switched(visit: Callable[..., Visitor]) -> None:
    visitor = visit(locale="zh-CN")
    assert visitor.page.inner_text("#convert-start") == "转换"
    assert "拖放" in visitor.page.inner_text("#convert-files")  # also Gradio's own words
    visitor.page.get_by_role("link", name="English").click()
    visitor.page.wait_for_selector("#convert-start >> text=Convert")
    assert "Drop" in visitor.page.inner_text("#convert-files")
    visitor.open()
    assert visitor.page.inner_text("#convert-start") == "Convert"  # it is remembered


def test_two_models_are_mixed_and_the_mix_sings(visit: Callable[..., Visitor], server: WebServer) -> None:
    visitor = visit()
    page = visitor.page
    visitor.tab("Tools")
    for name in ("trained/duet", "trained/second"):
        page.locator("#mix-models input").click()
        page.get_by_role("option", name=name, exact=True).click()
    page.wait_for_selector("#mix-percent-1 input[type=number]")
    visitor.set_number("mix-percent-0", 75)
    visitor.set_number("mix-percent-1", 25)
    visitor.write("mix-name", "blend")
    page.click("#mix-go")
    page.wait_for_selector("#mix-log .good >> text=trained/blend/blend.pth")
    first, second, mixed = (
        checkpoint.model_state(checkpoint.load(server.home / f"trained/{name}/{name}.pth"), name)
        for name in ("duet", "second", "blend")
    )
    for key, value in mixed.items():
        np.testing.assert_allclose(value, 0.75 * first[key] + 0.25 * second[key], rtol=1e-4, atol=1e-6)

    visitor.tab("Convert")
    visitor.choose("convert-model", "trained/blend")
    visitor.convert(server.home / "song.wav")
    assert seconds_of(visitor.download("#result-wav")) == 3.0


def test_a_model_is_released_as_one_file(visit: Callable[..., Visitor], server: WebServer) -> None:
    """(B1) The original's page calls its own compression with the wrong arguments."""
    visitor = visit()
    visitor.tab("Tools")
    visitor.choose("release-model", "44k (step 800)")
    visitor.page.locator("#release-half input").check()
    visitor.write("release-name", "voice 1")
    visitor.page.click("#release-go")
    visitor.page.wait_for_selector("#release-log .good >> text=trained/voice 1.safetensors")
    released = server.home / "trained/voice 1.safetensors"
    state = checkpoint.load(released)
    assert {str(value.dtype) for value in state.values()} == {"torch.float16"}
    assert not any(key.startswith("enc_q.") for key in state)
    assert visitor.download("#release-files a") == released.read_bytes()
    visitor.page.click("#release-go")
    assert "is there already" in visitor.message()


def test_old_files_become_safetensors(visit: Callable[..., Visitor], server: WebServer) -> None:
    visitor = visit()
    visitor.tab("Tools")
    visitor.upload("safe-upload", server.home / "trained/duet/duet.pth", server.home / "trained/duet/config.json")
    visitor.page.click("#safe-go")
    visitor.page.wait_for_selector("#safe-log .good >> text=duet.safetensors")
    target = server.home / "converted.safetensors"
    target.write_bytes(visitor.download("#safe-files a"))
    old = checkpoint.load(server.home / "trained/duet/duet.pth")["model"]
    new = checkpoint.model_state(checkpoint.load(target), target)
    assert set(old) == set(new) and all(bool((old[key] == new[key]).all()) for key in old)


def test_the_debug_switch_shows_where_an_error_comes_from(visit: Callable[..., Visitor]) -> None:
    """(B2) The original's switch reads the value it began with."""
    visitor = visit()
    page = visitor.page
    page.click("#convert-start")
    assert "there is no song" in visitor.message() and "Traceback" not in visitor.message()
    page.locator("#debug input").check()
    page.wait_for_selector("text=Errors now show where they come from")
    page.click("#convert-start")
    page.wait_for_selector(".toast-body >> text=Traceback")
    page.locator("#debug input").uncheck()
    page.wait_for_selector("text=Errors now show a short message")
    page.reload()
    page.wait_for_selector("#convert-start")
    page.click("#convert-start")
    assert "Traceback" not in visitor.message()


def test_two_visitors_do_not_disturb_each_other(visit: Callable[..., Visitor], server: WebServer) -> None:
    songs = write_song(server.home / "hers.wav", 2.0), write_song(server.home / "his.wav", 1.0)
    first, second = visit(), visit()
    first.choose("convert-speaker", "alice")
    second.choose("convert-speaker", "bob")
    first.start(songs[0])
    second.start(songs[1])
    for visitor in (first, second):
        visitor.page.wait_for_selector(".song.done")
    assert seconds_of(first.download("#result-wav")) == 2.0
    assert seconds_of(second.download("#result-wav")) == 1.0
    assert first.page.locator(".song").count() == second.page.locator(".song").count() == 1
    second.page.click("#convert-unload")  # she still has the voice that they shared
    second.page.wait_for_selector("#convert-state >> text=Unloaded")
    assert server.voices()
    first.convert()
    assert not (server.home / "results/his_0key_alice_sovits_fcpe.flac").exists()


def test_unloading_and_closing_the_page_end_the_process_of_the_voice(
    visit: Callable[..., Visitor], server: WebServer
) -> None:
    """(B8) The original keeps encoder, vocoder and pitch networks."""
    wait_for(lambda: not server.voices())
    visitor = visit()
    visitor.choose("convert-model", "trained/duet")
    visitor.page.click("#convert-load")
    visitor.page.wait_for_selector("#convert-state >> text=duet.pth")
    assert len(server.voices()) == 1
    visitor.page.click("#convert-unload")
    visitor.page.wait_for_selector("#convert-state >> text=Unloaded")
    assert not server.voices()
    visitor.page.click("#convert-load")
    visitor.page.wait_for_selector("#convert-state >> text=duet.pth")
    visitor.page.close()
    wait_for(lambda: not server.voices())


def test_a_cancelled_conversion_stops_within_two_seconds(visit: Callable[..., Visitor], server: WebServer) -> None:
    """Also in the middle of harvest, which listens to nobody while it computes."""
    long = write_song(server.home / "long.wav", 80.0)
    visitor = visit()
    visitor.choose("convert-model", "trained/duet")
    visitor.choose("convert-f0_predictor", "harvest")
    visitor.upload("convert-files", long)
    times = []
    for _ in range(3):  # the machine may be busy with other tests
        visitor.page.click("#convert-load")
        wait_for(lambda: len(server.voices()) == 1)
        visitor.page.click("#convert-start")
        visitor.page.wait_for_selector(".song.running")
        time.sleep(1.5)
        start = time.monotonic()
        visitor.page.click("#convert-cancel")
        visitor.page.wait_for_selector(".song.cancelled")
        times.append(time.monotonic() - start)
        if times[-1] < 2.0:
            break
    assert min(times) < 2.0
    assert not list((server.home / "results").glob("long*"))


def test_the_mix_over_time_is_drawn_and_sung(visit: Callable[..., Visitor], server: WebServer) -> None:
    visitor = visit()
    page = visitor.page
    page.click("#convert-mix > button")
    page.wait_for_selector("#convert-mix-drawing polygon >> nth=1")
    assert page.inner_text("#convert-mix-drawing .mix-legend").split() == ["alice", "bob"]
    page.locator("#convert-mix-on input").check()
    visitor.convert(server.home / "song.wav")
    page.wait_for_selector("#result-saved >> text=song_0key_spk_mix_sovits_fcpe.flac")
    page.click("#result-used button")
    assert "-usm" in page.inner_text("#result-command .cm-content")
    assert "'bob': [[0.0, 1.0, 0.0, 1.0]]" in page.inner_text("#result-mix .cm-content")


def test_a_song_outside_the_trained_range_gets_a_suggestion(visit: Callable[..., Visitor], server: WebServer) -> None:
    visitor = visit()
    page = visitor.page
    visitor.choose("convert-model", "trained/duet")
    visitor.choose("convert-speaker", "alice")  # trained on 300 to 700 Hz
    visitor.upload("convert-files", server.home / "song.wav")  # 200 to 240 Hz
    page.wait_for_selector("#convert-range .warn")
    assert "300 Hz (D4) – 700 Hz (F5)" in page.inner_text("#convert-range")
    label = page.inner_text("#convert-use-shift")
    page.click("#convert-use-shift")
    page.wait_for_selector("#convert-range .good")
    shift = float(page.locator("#convert-trans input[type=number]").input_value())
    assert 5 <= shift <= 8 and label == f"Transpose by +{shift:g}"


def test_touching_nothing_changes_nothing_and_half_typed_numbers_are_borne(
    visit: Callable[..., Visitor], server: WebServer
) -> None:
    visitor = visit()
    page = visitor.page
    visitor.choose("convert-model", "trained/duet")
    for fold in ("f0_filter_threshold-group", "noise_scale-group", "slice_db-group", "more", "mix"):
        page.click(f"#convert-{fold} > button")
    page.wait_for_selector("#convert-mix-drawing polygon >> nth=1")
    number = page.locator("#convert-trans input[type=number]")
    for text in ("", "-12"):
        number.fill("")
        page.wait_for_timeout(300)
        number.press_sequentially(text, delay=200)
    page.wait_for_function("document.querySelector('#convert-trans input').value === '-12'")
    visitor.set_number("convert-trans", 0)

    cells = page.locator("#convert-mix-rows [role=gridcell]:visible")
    cells.nth(1).click(button="right")
    page.get_by_text("Add row below").click()
    assert not page.get_by_text("Delete column").count()
    cells.nth(5).dblclick()
    page.keyboard.type("alice")
    page.keyboard.press("Enter")
    page.wait_for_selector("#convert-mix-drawing >> text=not all numbers")
    assert not page.locator(".toast-body").count()

    visitor.convert(server.home / "song.wav")
    page.click("#result-used button")
    command = page.inner_text("#result-command .cm-content").split("-n song.wav -s alice")[1]
    assert command.split() == ["-f0p", "fcpe"]


def test_settings_outlive_a_reload(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    visitor.choose("convert-model", "trained/second")
    visitor.choose("convert-speaker", "bob")
    visitor.choose("convert-format", "ogg")
    visitor.set_number("convert-trans", -5)
    visitor.page.wait_for_timeout(1500)
    visitor.open()
    for field, value in (("model", "trained/second"), ("speaker", "bob"), ("format", "ogg"), ("trans", "-5")):
        visitor.page.wait_for_function(
            "([field, value]) => document.querySelector(`#convert-${field} input`).value === value", arg=[field, value]
        )


def test_songs_wait_in_line_and_all_of_them_are_cancelled(visit: Callable[..., Visitor], server: WebServer) -> None:
    visitor = visit()
    page = visitor.page
    assert not page.is_visible("#convert-cancel")
    visitor.choose("convert-model", "trained/second")
    visitor.upload("convert-files", write_song(server.home / "line.wav", 60.0))
    page.click("#convert-start")
    page.wait_for_selector(".song.loading >> text=loading the voice")
    page.click("#convert-start")
    page.wait_for_selector(".song.waiting")
    assert page.locator(".song").count() == 2
    page.click("#convert-cancel")
    page.wait_for_selector(".song.cancelled >> nth=1")
    page.wait_for_selector("#convert-cancel", state="hidden")
    assert not list((server.home / "results").glob("line*"))


@pytest.mark.parametrize(("width", "height", "screens"), [(1280, 900, 1), (390, 844, 2)])
def test_song_and_convert_are_seen_first(
    visit: Callable[..., Visitor], server: WebServer, width: int, height: int, screens: int
) -> None:
    visitor = visit(width=width)
    for name in ("convert-files", "convert-start"):
        box = visitor.page.locator(f"#{name}").bounding_box()
        assert box["y"] + box["height"] <= screens * height, name
    if screens == 1:
        visitor.convert(server.home / "song.wav")
        visitor.page.wait_for_selector("#result-audio")
        box = visitor.page.locator("#result-audio").bounding_box()
        assert box["y"] + box["height"] <= height


WEIGHTS_FROM = """
import importlib.abc, importlib.util, sys
class Table(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    \"\"\"The table of weights, with all of them at a server of the test.\"\"\"
    def find_spec(self, name, path, target=None):
        if name != "pretrain.weights":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        self.real, spec.loader = spec.loader, self
        return spec
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        self.real.exec_module(module)
        import dataclasses
        change = lambda one: dataclasses.replace(one, urls=("ADDRESS/" + one.file,), sha256="", size=SIZE, package=None)
        module.WEIGHTS = tuple(map(change, module.WEIGHTS))
        module.BY_NAME = {one.name: one for one in module.WEIGHTS}
sys.meta_path.insert(0, Table())
"""


def test_two_clicks_lead_from_an_empty_folder_to_a_converted_song(browser: Any, tmp_path: Path) -> None:
    """The voice that comes along, its encoder from a server of this test, a song that comes along."""
    (tmp_path / "home/pretrain").mkdir(parents=True)
    (tmp_path / "away").mkdir()
    encoder = write_encoder(tmp_path / "away", width=512, name="base.pt") / "base.pt"
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "away"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as away:
        threading.Thread(target=away.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{away.server_port}"
        table = WEIGHTS_FROM.replace("ADDRESS", address).replace("SIZE", str(encoder.stat().st_size))
        server = WebServer(tmp_path / "home", table=table)
        visitor = Visitor(browser, server)
        try:
            page = visitor.page
            assert page.locator("#convert-speaker input").input_value() == "f001 – woman, singing"
            page.wait_for_selector(
                f"#convert-weights >> text=whisper-base, about {encoder.stat().st_size / 1e6:.0f} MB"
            )
            page.click("#convert-try")
            assert "press “Fetch”" in visitor.message()
            page.click("#convert-fetch")
            page.wait_for_selector("#convert-fetch", state="hidden")
            page.wait_for_selector("#convert-weights p", state="detached")
            page.click("#convert-try")
            page.wait_for_selector(".song.done")
            page.wait_for_selector("#convert-range >> text=That fits")
            assert page.locator("#convert-trans input[type=number]").input_value() == "11"
            assert seconds_of(visitor.download("#result-wav")) == pytest.approx(12.1, abs=0.1)
        finally:
            visitor.context.close()
            server.stop()
            away.shutdown()


def test_text_to_speech_says_that_there_is_no_internet(visit: Callable[..., Visitor], server: WebServer) -> None:
    visitor = visit()
    visitor.tab("Text to speech")
    visitor.write("convert-speech-text", "Hello, is anybody there?")
    visitor.page.click("#convert-speech-make")
    visitor.page.wait_for_selector("#convert-speech-state .warn")
    assert "cannot be reached" in visitor.page.inner_text("#convert-speech-state")
    assert SPEECH_HOST in server.connections_file.read_text()  # it was tried


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_sticks_out_of_the_screen(visit: Callable[..., Visitor], server: WebServer, width: int) -> None:
    visitor = visit(width=width)
    visitor.convert(server.home / "song.wav")
    for tab in ("Tools", "Prepare & train", "Convert"):
        visitor.tab(tab)
        visitor.page.wait_for_timeout(300)
        assert visitor.page.evaluate("document.scrollingElement.scrollWidth") <= width, tab
        visitor.take_picture(f"page-{tab.split()[0].lower()}-{width}")


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)
