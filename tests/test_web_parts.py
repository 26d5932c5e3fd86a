"""The parts of the web page that need no browser."""

from __future__ import annotations

import ast
import json
import os
import pickle
import re
import shlex
import string
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
import soundfile

import inference_main
from modules import checkpoint
from modules.data import f0_ranges
from modules.errors import UserError
from modules.inference.options import InferenceOptions, ModelOptions
from modules.options import settings
from modules.web import page as page_module
from modules.web.catalog import entry_of_files, list_models
from modules.web.convert import mix as mix_table
from modules.web.convert import song as song_box
from modules.web.convert.history import songs_in
from modules.web.convert.notes import note_command, read_command
from modules.web.convert.pool import VoicePool
from modules.web.convert.session import ConversionRequest, ResultNames, command_line, mix_text, model_options
from modules.web.convert.spectrogram import log_spectrogram
from modules.web.convert.tab import CUTTING, PITCH, SANE, SOUND, UPPERMOST, read_options
from modules.web.convert.worker import ConversionJob, ConversionResult, Progress, Stopped, VoiceProcess, Waiting
from modules.web.folders import Folders
from modules.web.language import LANGUAGES, preferred_language, texts, translate
from modules.web.page import Page
from modules.web.scripts import error_of
from modules.web.server import Settings, is_loopback
from modules.web.state import ServerState
from modules.web.tools.actions import check_name
from pretrain import BASE_DIR, BASE_GENERATOR
from tests.conftest import ROOT
from tests.standin_voice import RATE, small_config, write_encoder, write_model
from tests.web_server import write_song

CHINESE = re.compile(r"[\u4e00-\u9fff]")


SOURCES = sorted((ROOT / "modules/web").rglob("*.py"))


def fields(text: str) -> list[str]:
    return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name is not None)


def patterns_in(source: str) -> Iterator[str]:
    """Regular expressions of the keys in a program; what an f-string or a list of choices fills in may be anything."""
    tree = ast.parse(source)
    inside = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in inside:
            yield re.escape(node.value)
        elif isinstance(node, ast.JoinedStr):
            parts = [re.escape(part.value) if isinstance(part, ast.Constant) else ".+" for part in node.values]
            if parts[0] != ".+":
                yield "".join(parts)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "choices":
            yield re.escape(ast.literal_eval(node.args[0])) + r"\.\w+"


def said_keys(source: str) -> Iterator[str]:
    """The keys that a program surely needs: first arguments of ``say`` and ``note`` that are plain strings."""
    for node in ast.walk(ast.parse(source)):
        called = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
        if called in ("say", "note") and isinstance(node.args[0], ast.Constant):  # type: ignore[attr-defined]
            yield node.args[0].value  # type: ignore[attr-defined]


def test_all_languages_say_the_same() -> None:
    english = texts("en")
    assert {"en", "zh"} <= set(LANGUAGES) and len(english) > 300
    for language in LANGUAGES:
        there = texts(language)
        assert there.keys() == english.keys(), language
        for key, text in there.items():
            assert text.strip() and fields(text) == fields(english[key]), (language, key)
    for key, text in english.items():
        assert not CHINESE.search(text) and (len(text) <= 12 or CHINESE.search(texts("zh")[key])), key


def test_every_text_is_used_and_none_is_missing() -> None:
    programs = [path.read_text(encoding="utf-8") for path in SOURCES]
    used = re.compile("|".join({pattern for program in programs for pattern in patterns_in(program)}))
    own = json.loads((ROOT / "modules/web/locales/en.json").read_text(encoding="utf-8"))
    shown_with = re.compile(r"\.help$|(?<=\.title)\.note$")  # another key
    assert not [key for key in own if not used.fullmatch(shown_with.sub("", key))]
    assert not {key for program in programs for key in said_keys(program)} - texts("en").keys()


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-GB,en;q=0.9,zh;q=0.1", "en"),
        ("de-DE,zh-TW;q=0.7,en;q=0.3", "zh"),
        ("fr", "en"),
        ("", "en"),
        ("zh;q=nonsense", "zh"),
    ],
)
def test_the_language_is_the_first_of_the_browser_that_is_known(header: str, language: str) -> None:
    assert preferred_language(header) == language


def test_every_setting_of_the_command_line_is_on_the_page() -> None:
    """(A29) And its label, help, default and range come from the same place."""
    shown = {*UPPERMOST, *SOUND, *PITCH, *CUTTING}
    assert shown == {field.name for field, _ in settings(InferenceOptions)}
    assert all(f"convert.{name}" in texts("en") for name in shown)
    limits = {field.name: (field.default, setting) for field, setting in settings(InferenceOptions)}
    assert all(texts("en")[f"convert.{name}.help"] == setting.help for name, (_, setting) in limits.items())
    for name, (low, high, step) in SANE.items():
        default, setting = limits[name]
        assert setting.low is None or setting.low <= low
        assert setting.high is None or high <= setting.high
        assert low <= default <= high and step > 0, name


def test_untouched_controls_give_the_defaults_of_the_command_line() -> None:
    values = {field.name: field.default for field, _ in settings(InferenceOptions)}
    assert read_options(values) == InferenceOptions()
    assert read_options({**values, "k_step": 50.0, "trans": 3}) == InferenceOptions(k_step=50, trans=3.0)


@pytest.mark.parametrize(
    "forged", [{"noise_scale": 99}, {"f0_predictor": "../x"}, {"trans": "1"}, {"k_step": None}, {"second_encoding": 3}]
)
def test_forged_values_are_refused(forged: dict[str, Any]) -> None:
    values = {field.name: field.default for field, _ in settings(InferenceOptions)}
    with pytest.raises(UserError):
        read_options({**values, **forged})


def test_the_command_line_does_what_the_page_did(tmp_path: Path) -> None:
    model = ModelOptions(
        model_path=tmp_path / "trained/my voice/G.pth", config_path=tmp_path / "trained/my voice/config.json",
        device="cpu", shallow_diffusion=True, diffusion_model_path=tmp_path / "d.pt",
    )  # fmt: skip
    options = InferenceOptions(trans=-2.0, f0_predictor="dio", k_step=50, f0_filter_threshold=0.1, second_encoding=True)
    words = shlex.split(command_line(ConversionRequest(model, "bob", options, "mp3"), "a song.wav", tmp_path))
    assert words[:2] == ["python", "inference_main.py"] and str(tmp_path) not in " ".join(words)
    args = inference_main.build_parser().parse_args(words[2:])
    assert args.clean_names == ["a song.wav"] and args.spk_list == ["bob"] and args.wav_format == "mp3"
    assert args.trans == [-2.0]
    again = InferenceOptions(
        **{field.name: getattr(args, field.name) for field, _ in settings(InferenceOptions) if field.name != "trans"}
    )
    assert again == InferenceOptions(f0_predictor="dio", k_step=50, f0_filter_threshold=0.1, second_encoding=True)
    assert args.model_path == Path("trained/my voice/G.pth") and args.shallow_diffusion and args.device == "cpu"


def test_the_command_of_the_base_model_and_of_a_song_that_looks_like_a_flag(tmp_path: Path) -> None:
    request = ConversionRequest(ModelOptions(BASE_DIR / BASE_GENERATOR), "f001", InferenceOptions(), "flac")
    words = shlex.split(command_line(request, "-n.wav", tmp_path))
    args = inference_main.build_parser().parse_args(words[2:])
    assert args.model_path == Path("base") and args.clean_names == ["-n.wav"] and args.spk_list == ["f001"]


def test_the_mix_of_a_table_is_that_of_spkmix() -> None:
    rows = [["alice", 50, 100, 1, 0], ["alice", 0, 50, 1, 1], ["bob", 0, 100, "0", 1], [None, "", "", "", ""]]
    tracks = mix_table.tracks_of(rows)
    assert tracks == {"alice": [[0, 0.5, 1, 1], [0.5, 1, 1, 0]], "bob": [[0, 1, 0, 1]]}
    scope: dict[str, Any] = {}
    exec(mix_text(tracks), scope)  # what the user is told to put into spkmix.py
    assert scope["spk_mix_map"] == tracks
    weights = mix_table.mix_of(rows, {"alice": 0, "bob": 1}, 2).weights(np.array([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(weights, [[1, 0], [2 / 3, 1 / 3], [0, 1]], atol=1e-6)
    drawing = mix_table.draw([["<b>", 0, 100, 1, 1]], {"<b>": 0})
    assert "<polygon" in drawing and "<b>" not in drawing
    for wrong in (["bob", 0, "x", 1, 1], ["bob", 0, 40, 1, 1], ["carol", 0, 100, 1, 1]):
        with pytest.raises(UserError):
            mix_table.mix_of([["alice", 0, 100, 1, 1], wrong], {"alice": 0, "bob": 1}, 2)


def test_the_suggested_shift_brings_the_song_into_the_voice() -> None:
    assert f0_ranges.suggested_shift((110, 220), (220, 440)) in (11, 12)
    assert f0_ranges.suggested_shift((220, 300), (200, 400)) == 0
    assert f0_ranges.suggested_shift((100, 1600), (200, 400)) == -6  # too wide: middle on middle
    assert f0_ranges.describe((110, 261.6)) == "110 Hz (A2) – 262 Hz (C4)"


def test_the_range_of_a_song_is_heard(tmp_path: Path) -> None:
    found = f0_ranges.song_range(write_song(tmp_path / "song.wav", 3.0, base=200.0))
    assert found is not None
    assert 185 < found[0] < 215 and 225 < found[1] < 255
    soundfile.write(tmp_path / "silence.wav", np.zeros(RATE), RATE)
    assert f0_ranges.song_range(tmp_path / "silence.wav") is None


def test_the_picture_shows_a_tone_where_it_is() -> None:
    t = np.arange(2 * RATE) / RATE
    tone = np.sin(2 * np.pi * np.where(t < 1, 400.0, 3200.0) * t).astype(np.float32)
    blocks = [tone[start : start + 7000] for start in range(0, len(tone), 7000)]
    picture = log_spectrogram(blocks, 2.0, RATE)
    bins = np.geomspace(50, 12000, len(picture))
    columns = picture.shape[1]
    assert abs(bins[picture[:, columns // 4].argmax()] / 400 - 1) < 0.05
    assert abs(bins[picture[:, 3 * columns // 4].argmax()] / 3200 - 1) < 0.05


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Folders as users leave them."""
    write_model(tmp_path / "trained/good", name="good.pth")
    write_model(tmp_path / "trained/twice", name="a.pth")
    write_model(tmp_path / "trained/twice", name="b.pth")
    (tmp_path / "trained/empty").mkdir()
    for name in ("G_0.pth", "G_100.pth", "G_900.pth", "G_best.pth", "D_900.pth"):
        write_model(tmp_path / "logs/44k", name=name)
    (tmp_path / "logs/44k/kmeans_10000.pt").write_bytes(b"x")
    (tmp_path / "logs/44k/diffusion").mkdir()
    (tmp_path / "logs/44k/diffusion/model_100.pt").write_bytes(b"x")
    (tmp_path / "logs/44k/diffusion/config.yaml").write_bytes(b"x")
    state = {"emb_g.weight": checkpoint.load(tmp_path / "logs/44k/G_0.pth")["model"]["emb_g.weight"]}
    checkpoint.save_safetensors(state, tmp_path / "trained/one.safetensors", {"config": small_config().to_json()})
    return tmp_path


def test_models_are_found_where_users_put_them(home: Path) -> None:
    catalog = list_models(Folders(home, ROOT, home))
    assert list(catalog.entries) == [
        "trained/good", "trained/one.safetensors", "logs/44k/G_best.pth", "logs/44k/G_900.pth", "logs/44k/G_100.pth",
        "base",
    ]  # fmt: skip
    assert catalog.find("base").model == ROOT / "pretrain/base/G_0.safetensors"
    assert len(catalog.problems) == 2
    assert "2 models" in catalog.problems[1] and "no model" in catalog.problems[0]
    best = catalog.find("logs/44k/G_best.pth")
    options = model_options(
        best, device=None, precision="auto", enhance=True, diffusion_mode="shallow", diffusion="model_100.pt",
        cluster="kmeans_10000.pt",
    )  # fmt: skip
    assert options.shallow_diffusion and options.diffusion_model_path == home / "logs/44k/diffusion/model_100.pt"
    assert options.cluster_path() == home / "logs/44k/kmeans_10000.pt" and not options.enhance
    one = catalog.find("trained/one.safetensors")
    assert one.config is None and one.model == home / "trained/one.safetensors"


def test_links_out_of_the_folder_and_names_with_dots_lead_nowhere(home: Path, tmp_path_factory: Any) -> None:
    outside = tmp_path_factory.mktemp("outside")
    write_model(outside / "secret", name="secret.pth")
    (home / "trained/link").symlink_to(outside / "secret")
    (home / "trained/sly").mkdir()
    (home / "trained/sly/config.json").symlink_to(outside / "secret/config.json")
    (home / "trained/sly/model.pth").symlink_to(outside / "secret/secret.pth")
    (home / "trained/.hidden").symlink_to(home / "trained/good")
    catalog = list_models(Folders(home, ROOT, home))
    assert not [name for name in catalog.entries if any(word in name for word in ("link", "sly", "hidden"))]
    for name in ("trained/link", "../outside/secret", str(outside / "secret"), "trained/../../etc", None, ""):
        with pytest.raises(UserError):
            catalog.find(name)


def test_uploaded_files_make_a_model_only_together(home: Path) -> None:
    files = [home / "trained/good/good.pth", home / "trained/good/config.json", home / "logs/44k/kmeans_10000.pt"]
    entry = entry_of_files("mine", files)
    assert (entry.model, entry.config) == (files[0], files[1])
    assert [cluster.path for cluster in entry.clusters] == [files[2]]
    for wrong in ([], files[:1], files[1:], [*files, home / "trained/twice/a.pth"]):
        with pytest.raises(UserError):
            entry_of_files("mine", wrong)


@pytest.mark.parametrize(
    "name", ["", "..", "../x", "a/b", "a\\b", "/etc/x", ".hidden", "-o", "con", "x" * 99, "a\nb", "x."]
)
def test_names_of_new_models_are_plain(name: str) -> None:
    with pytest.raises(UserError):
        check_name(name)


def test_names_that_people_use_are_names() -> None:
    for name in ("voice 1", "alice-v2.1", "小明"):
        assert check_name(name) == name


def test_results_never_take_each_others_names(tmp_path: Path) -> None:
    (tmp_path / "song.flac").touch()
    names = ResultNames()
    assert [names.reserve(tmp_path / "song.flac").name for _ in range(2)] == ["song_2.flac", "song_3.flac"]
    names.release(tmp_path / "song_2.flac")
    assert names.reserve(tmp_path / "song.flac").name == "song_2.flac"


def test_the_error_of_a_script_reaches_the_user_in_its_three_parts() -> None:
    lines = ["reading", "error: it is broken", "in two lines", "  where: x.pth", "  to do: get it again"]
    error = error_of(lines, 2)
    assert (error.what, error.where, error.fix) == ("it is broken\nin two lines", "x.pth", "get it again")
    assert "Boom" in error_of(["Traceback", "Boom"], 1).what


def test_an_error_survives_the_way_from_one_process_to_another() -> None:
    error = UserError("it is broken", Path("x.pth"), "get it again")
    again = pickle.loads(pickle.dumps(error))
    assert (again.what, again.where, again.fix) == (error.what, error.where, error.fix) and str(again) == str(error)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org"])
def test_another_host_needs_a_password(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import webUI

    monkeypatch.delenv("WEBUI_PASSWORD", raising=False)
    assert not is_loopback(host)
    for words in ([], ["--password", "short"]):
        args = webUI.build_parser().parse_args(["--host", host, "--folder", str(tmp_path), *words])
        with pytest.raises(UserError, match="password"):
            Settings.from_arguments(args, ROOT)
    monkeypatch.setenv("WEBUI_PASSWORD", "long enough")
    args = webUI.build_parser().parse_args(["--host", host, "--folder", str(tmp_path)])
    assert Settings.from_arguments(args, ROOT).host == host


def test_the_page_is_for_this_machine_alone_by_default(tmp_path: Path) -> None:
    import webUI

    args = webUI.build_parser().parse_args(["--folder", str(tmp_path)])
    assert is_loopback(Settings.from_arguments(args, ROOT).host)
    assert webUI.main(["--folder", str(tmp_path / "nowhere")]) == 2


@pytest.fixture(scope="module")
def voice_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("voice")
    write_model(root / "trained/duet", name="duet.pth")
    write_encoder(root / "pretrain")
    return root


@pytest.fixture(scope="module")
def options(voice_home: Path) -> ModelOptions:
    folder = voice_home / "trained/duet"
    return ModelOptions(folder / "duet.pth", folder / "config.json", device="cpu")


def test_sessions_share_a_voice_that_goes_with_the_last_of_them(voice_home: Path, options: ModelOptions) -> None:
    """(B8) And a conversion that is given up in the middle leaves nothing to the next one."""
    voices, never = VoicePool(), threading.Event()
    first = voices.acquire(options, voice_home / "pretrain", "one", never)
    assert voices.acquire(options, voice_home / "pretrain", "two", never) is first
    assert first.process is not None and first.facts is not None
    assert first.facts.speakers == {"alice": 0, "bob": 1}

    song = write_song(voice_home / "song.wav", 2.0)
    copies, picture = (voice_home / "out.mp3",), voice_home / "p.png"
    job = ConversionJob(song, voice_home / "out.flac", "bob", InferenceOptions(), copies, picture)
    given_up = voices.convert(first, job, voice_home / "pretrain", never)
    next(given_up)
    given_up.close()
    events = list(voices.convert(first, job, voice_home / "pretrain", never))
    assert all(isinstance(event, (Progress, Waiting)) for event in events[:-1])  # its process is started again
    result = events[-1]
    assert isinstance(result, ConversionResult) and result.seconds == 2.0 and result.copies == (voice_home / "out.mp3",)
    assert soundfile.info(voice_home / "out.flac").frames == 2 * RATE
    assert (voice_home / "p.png").read_bytes().startswith(b"\x89PNG")

    pid = first.process.process.pid  # a process that did not stop in time has been replaced
    voices.release("one")
    assert first.process.alive and first.process.process.pid == pid
    voices.release("two")
    assert not first.process.alive
    assert not Path(f"/proc/{pid}").exists()


def test_a_process_that_dies_is_told_of_and_replaced(voice_home: Path, options: ModelOptions) -> None:
    voices, never = VoicePool(), threading.Event()
    voice = voices.acquire(options, voice_home / "pretrain", "one", never)
    job = ConversionJob(write_song(voice_home / "long.wav", 30.0), voice_home / "dead.flac", "bob", InferenceOptions())
    try:
        running = voices.convert(voice, job, voice_home / "pretrain", never)
        next(running)
        assert voice.process is not None
        voice.process.process.kill()
        with pytest.raises(UserError, match="ended"):
            list(running)
        song = write_song(voice_home / "short.wav", 0.5)
        short = ConversionJob(song, voice_home / "short.flac", "bob", InferenceOptions())
        assert isinstance(list(voices.convert(voice, short, voice_home / "pretrain", never))[-1], ConversionResult)
        with pytest.raises(UserError, match="no speaker"):
            wrong = ConversionJob(short.source, short.target, "carol", InferenceOptions())
            list(voices.convert(voice, wrong, voice_home / "pretrain", never))
    finally:
        voices.close()


def test_a_model_that_cannot_be_loaded_leaves_no_process(voice_home: Path, options: ModelOptions) -> None:
    import dataclasses

    process = VoiceProcess(dataclasses.replace(options, model_path=voice_home / "no.pth"), voice_home / "pretrain")
    with pytest.raises(UserError, match="no such model"):
        process.load()
    assert not process.alive
    cancelled = threading.Event()
    cancelled.set()
    process = VoiceProcess(options, voice_home / "pretrain")
    start = time.monotonic()
    with pytest.raises(Stopped):
        process.load(cancelled)
    assert not process.alive and time.monotonic() - start < 2


def test_only_folders_that_train_index_wrote_are_offered_as_an_index(tmp_path: Path) -> None:
    """What the page ran lies in logs/<model>/jobs, and one of its notes is called index.json."""
    write_model(tmp_path / "logs/m", name="G_8.pth")
    for folder, content in (
        ("jobs", '{"step": "index", "command": ["x"]}'),
        ("list", '{"speakers": ["a"]}'),
        ("deep", "[" * 100_000),
        ("feature_and_index", '{"version": 1, "speakers": {"0": {}}}'),
    ):
        (tmp_path / "logs/m" / folder).mkdir()
        (tmp_path / "logs/m" / folder / "index.json").write_text(content)
    entry = list_models(Folders(tmp_path, ROOT, tmp_path)).find("logs/m/G_8.pth")
    assert [(index.name, index.retrieval) for index in entry.clusters] == [("feature_and_index", True)]


def test_a_voice_whose_config_cannot_be_read_is_named_and_not_offered(tmp_path: Path) -> None:
    write_model(tmp_path / "trained/good", name="good.pth")
    for name, config in (("a_list", "[1]"), ("cut", '{"spk": {'), ("wrong", '{"spk": 3}')):
        write_model(tmp_path / "trained" / name, name="x.pth")
        (tmp_path / "trained" / name / "config.json").write_text(config)
    (tmp_path / "checkpoints/cut").mkdir(parents=True)
    (tmp_path / "checkpoints/cut/parts.json").write_text("{")
    catalog = list_models(Folders(tmp_path, ROOT, tmp_path))
    assert list(catalog.entries) == ["trained/good", "base"]
    named = sorted(problem.partition(":")[0] for problem in catalog.problems)
    assert named == ["checkpoints/cut (ONNX)", "trained/a_list", "trained/cut", "trained/wrong"]


def test_the_range_of_a_song_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[Path] = []

    def measure(path: Path) -> tuple[float, float]:
        measured.append(path)
        return 100.0, 200.0

    monkeypatch.setattr(song_box, "song_range", measure)
    path = write_song(tmp_path / "song.wav", 0.5)
    assert [song_box._range_of([path]) for _ in range(3)] == [(100.0, 200.0)] * 3 and measured == [path]
    os.utime(path, (1, 1))  # another song of that name
    song_box._range_of([path])
    assert measured == [path, path] and song_box._range_of([tmp_path / "gone.wav"]) is None


def test_a_row_that_is_being_typed_into_the_mix_says_so_beside_the_table(tmp_path: Path) -> None:
    with gr.Blocks() as blocks:
        box = mix_table.MixBox(Page(ServerState(tmp_path, ROOT, tmp_path), "en", blocks))
    half = [["alice", 0, 100, 1, 0], ["", "", "5", None, ""]]
    for rows in (half, [["alice", 0, 100]], [["alice"], []], [[None] * 5]):
        shown = box._draw(rows)
        assert ("not all numbers" in shown) == any(any(row) for row in rows)


@pytest.mark.parametrize(
    ("minimum", "maximum", "value", "fits"),
    [(-24, 24, -24, True), (-24, 24, 25, False), (0, None, -1, False), (None, None, 5, True), (0, 9, "5", False)],
)
def test_numbers_of_the_page_are_held_to_their_limits(
    minimum: float | None, maximum: float | None, value: Any, fits: bool
) -> None:
    with gr.Blocks():
        number = gr.Number(minimum=minimum, maximum=maximum)
        slider = gr.Slider(-24, 24)
    assert page_module._is_in_range(number, value) == fits
    assert page_module._is_in_range(number, None) and not page_module._is_in_range(slider, None)


def test_a_field_that_may_be_empty_gives_nothing_or_a_number() -> None:
    assert [page_module.parse_number(value, "x") for value in ("", " ", None, "0.5", 3)] == [None, None, None, 0.5, 3.0]
    for wrong in ("half", True, [1]):
        with pytest.raises(UserError, match="not a number"):
            page_module.parse_number(wrong, "x")
    values = {field.name: field.default for field, _ in settings(InferenceOptions)}
    assert read_options({**values, "f0_filter_threshold": ""}) == InferenceOptions()
    assert read_options({**values, "f0_filter_threshold": "0.2"}).f0_filter_threshold == 0.2


FAULTS = (  # files whose messages a person on the page can meet
    *(path.relative_to(ROOT).as_posix() for path in SOURCES), "modules/audio/io.py", "modules/checkpoint.py",
    "modules/options.py", "modules/mixing.py", "modules/cli.py", "pretrain/fetch.py", "pretrain/__init__.py",
    *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "modules/inference").glob("*.py"))),
)  # fmt: skip


def messages_in(source: str) -> Iterator[str]:
    """What went wrong and what to do, of every UserError; what is filled in stands as {}."""
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef):
            continue
        nodes = list(ast.walk(function))
        named = {
            node.targets[0].id: node.value
            for node in nodes
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        for node in nodes:
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "UserError":
                fix = [word.value for word in node.keywords if word.arg == "fix"]
                for part in (*node.args[:1], *node.args[2:3], *fix):
                    yield from plain(named.get(part.id, part) if isinstance(part, ast.Name) else part)


def plain(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    elif isinstance(node, ast.IfExp):
        yield from (*plain(node.body), *plain(node.orelse))


def test_what_goes_wrong_is_said_in_every_language() -> None:
    said = {message for name in FAULTS for message in messages_in((ROOT / name).read_text(encoding="utf-8"))}
    said = {message for message in said if message.strip("{} ")}
    assert len(said) > 150
    for language in set(LANGUAGES) - {"en"}:
        assert [message for message in said if not CHINESE.search(translate(message, language))] == []
        known = json.loads((ROOT / f"modules/web/locales/messages/{language}.json").read_text(encoding="utf-8"))
        for message, text in known.items():
            assert sorted(fields(text)) == fields(message), message
    assert translate("row 3 of the mix is not all numbers: a, b", "zh") == "混合表第 3 行不全是数字：a, b"
    assert translate("{0} is there already", "zh") == "{0} 已存在" and translate("unheard of", "zh") == "unheard of"
    assert translate("there is no song", "en") == "there is no song"


def test_earlier_results_are_songs_and_nothing_else(tmp_path: Path) -> None:
    results = tmp_path / "results"
    assert songs_in(results) == {}
    results.mkdir()
    for number, name in enumerate(("old.flac", "new.mp3", ".hidden.wav", "notes.txt")):
        (results / name).write_bytes(b"x")
        os.utime(results / name, (number, number))
    (tmp_path / "secret.wav").write_bytes(b"secret")
    (results / "link.wav").symlink_to(tmp_path / "secret.wav")
    (results / "folder.wav").mkdir()
    assert list(songs_in(results)) == ["new.mp3", "old.flac"]
    note_command(results / "old.flac", "python inference_main.py -n 歌.wav")
    assert read_command(results / "old.flac") == "python inference_main.py -n 歌.wav"
    assert read_command(results / "new.mp3") == "" and list(songs_in(results)) == ["new.mp3", "old.flac"]
    for broken in ("[]", '{"command": 3}', "{", "[" * 100_000):
        (results / ".commands/old.flac.json").write_text(broken)
        assert read_command(results / "old.flac") == ""
