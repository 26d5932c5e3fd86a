"""The demo: its songs, its steps from recordings to the page, and what it does when it is interrupted."""

from __future__ import annotations

import argparse
import base64
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import pretrain
from modules.config import load_config
from modules.data.features import save_f0
from modules.errors import UserError
from modules.evaluation.ge2e import Ge2eEncoder
from modules.evaluation.melody import compare_melodies
from modules.f0 import get_predictor
from modules.f0.base import F0Contour
from scripts import demo, demo_report, make_demo_songs
from scripts.demo_report import Conversion, Step
from tests.conftest import ROOT
from tests.standin_voice import WIDTH, small_config, write_base, write_encoder

RATE = 44100
SONGS = sorted((ROOT / "demo").rglob("*.flac"))


def write_tone(path: Path, seconds: float, hertz: float = 220.0, rate: int = RATE) -> Path:
    """A tone with overtones."""
    phase = 2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.sin(phase) + 0.15 * np.sin(2 * phase) + 0.1 * np.sin(3 * phase), rate)
    return path


def contour(hertz: list[float]) -> F0Contour:
    return F0Contour.from_track(np.array(hertz, dtype=np.float64))


# The songs


def test_the_songs_are_small_and_the_licence_names_each_of_them() -> None:
    assert sum(path.stat().st_size for path in SONGS) < 6_000_000
    licence = (ROOT / "demo" / "LICENSE.md").read_text(encoding="utf-8")
    assert "NIT SONG070 F001" in licence and "HTS Working Group" in licence and "CC BY 3.0" in licence
    for path in SONGS:
        assert path.relative_to(ROOT / "demo").with_suffix("").as_posix() in licence
    written = {song.name for singer in make_demo_songs.SINGERS.values() for song in singer.songs}
    assert {path.stem for path in SONGS} == written


@pytest.mark.parametrize("path", SONGS, ids=lambda path: path.stem)
def test_a_song_is_sung_in_the_range_of_its_singer(path: Path) -> None:
    audio, rate = soundfile.read(path)
    assert rate == RATE and audio.ndim == 1 and soundfile.info(path).subtype == "PCM_16"
    assert 8 <= len(audio) / rate <= 15
    assert 0.03 < np.sqrt(np.mean(audio**2)) < 0.1 and np.abs(audio).max() < 0.99
    pitch = get_predictor("dio")(audio)
    voiced = pitch.f0[pitch.uv > 0.5]
    assert pitch.uv.mean() > 0.75
    low, high = (280, 560) if path.parent.name == "sinsy" else (140, 280)
    assert low < np.median(voiced) < high


def test_every_note_of_the_scores_has_a_mora_and_fills_its_bar() -> None:
    for singer in make_demo_songs.SINGERS.values():
        for song in singer.songs:
            bars = make_demo_songs.parse_bars(song)
            assert all(sum(note.beats for note in bar) == song.beats for bar in bars), song.name
            assert all(bool(note.mora) == (note.pitch is not None) for bar in bars for note in bar)
            score = make_demo_songs.music_xml(song)
            assert score.count("<pitch>") == score.count("<lyric>") > 10
    assert make_demo_songs.split_morae("きょうの") == ["きょ", "う", "の"]


# Recordings


def test_a_folder_of_speakers_a_folder_of_recordings_and_the_layout_of_the_demo_are_understood(tmp_path) -> None:
    a = write_tone(tmp_path / "many" / "alice" / "disc 1" / "a.wav", 0.1)
    b = write_tone(tmp_path / "many" / "bob" / "b.flac", 0.1)
    (tmp_path / "many" / "bob" / ".hidden.wav").write_bytes(b"")
    (tmp_path / "many" / "notes").mkdir()
    (tmp_path / "many" / "notes" / "readme.txt").write_text("no audio")
    assert demo.find_voices(tmp_path / "many") == demo.Voices({"alice": [a], "bob": [b]}, {})

    c = write_tone(tmp_path / "carol" / "c.wav", 0.1)
    assert demo.find_voices(tmp_path / "carol") == demo.Voices({"carol": [c]}, {})

    voices = demo.find_voices(ROOT / "demo")
    assert {name: len(files) for name, files in voices.training.items()} == {"sinsy": 6, "taro": 6}
    assert {name: path.stem for name, path in voices.held_out.items()} == {
        "sinsy": "greensleeves",
        "taro": "scarborough_fair",
    }


@pytest.mark.parametrize("kind", ["missing", "empty"])
def test_a_folder_without_audio_is_refused(tmp_path, kind: str) -> None:
    if kind == "empty":
        (tmp_path / "x" / "speaker").mkdir(parents=True)
    with pytest.raises(UserError, match="no such folder" if kind == "missing" else "no audio"):
        demo.find_voices(tmp_path / "x")


def test_the_song_nearest_to_the_wanted_length_is_kept_from_training(tmp_path) -> None:
    seconds = {"a": 1.0, "b": 22.0, "c": 2.0, "d": 60.0}
    files = [write_tone(tmp_path / "in" / f"{name}.wav", length, rate=8000) for name, length in seconds.items()]
    folders = demo.Folders(tmp_path / "out")
    demo.collect(demo.Voices({"alice": files}, {}), folders)
    assert sorted(path.name[5:] for path in (folders.raw / "alice").iterdir()) == ["a.wav", "c.wav", "d.wav"]
    excerpt = folders.held_out / "alice" / "b.wav"
    assert soundfile.info(excerpt).frames == demo.HELD_OUT_SECONDS * RATE


def test_one_long_recording_is_split_without_overlap(tmp_path) -> None:
    path = write_tone(tmp_path / "in" / "all.wav", 10.0)
    folders = demo.Folders(tmp_path / "out")
    demo.collect(demo.Voices({"alice": [path]}, {}), folders)
    training, _ = soundfile.read(folders.raw / "alice" / "all.wav")
    held_out, _ = soundfile.read(folders.held_out / "alice" / "all_end.wav")
    assert len(held_out) == 2 * RATE
    whole, _ = soundfile.read(path)
    assert np.abs(np.concatenate([training, held_out]) - whole).max() < 1e-4


def test_other_recordings_start_the_work_folder_anew(tmp_path, capsys) -> None:
    args = argparse.Namespace(speech_encoder="e", f0_predictor="f", fresh=False)
    folders = demo.Folders(tmp_path / "out")
    voices = demo.Voices({"alice": [write_tone(tmp_path / f"{n}.wav", 0.2) for n in range(4)]}, {})
    demo.prepare(voices, folders, args, None)
    mark = folders.work / "mark"
    mark.touch()
    demo.prepare(voices, folders, args, None)
    assert mark.exists()
    write_tone(tmp_path / "0.wav", 0.3)
    demo.prepare(voices, folders, args, None)
    assert not mark.exists() and "starts anew" in capsys.readouterr().out
    assert len(list((folders.raw / "alice").iterdir())) == 3


@pytest.mark.parametrize(
    ("song", "target", "semitones"), [(440.0, 220.0, -12), (440.0, 200.0, -12), (220.0, 311.1, 6), (300.0, 310.0, 0)]
)
def test_a_song_is_moved_to_the_pitch_of_the_speaker(tmp_path, song: float, target: float, semitones: int) -> None:
    write_tone(tmp_path / "song.wav", 1.0, song)
    save_f0(tmp_path / "clip.wav.f0.npy", np.full(50, target), np.ones(50))
    assert demo.semitones_to(tmp_path / "song.wav", tmp_path) == semitones


def test_the_base_model_serves_the_demo_where_it_hears_through_the_same_encoder(tmp_path, monkeypatch) -> None:
    args = argparse.Namespace(speech_encoder="whisper-ppg-tiny", f0_predictor="f")
    monkeypatch.setattr(pretrain, "BASE_DIR", tmp_path / "nothing")
    assert demo.find_base(args) is None
    folder = write_base(tmp_path / "base", small_config(), {"f001": 0, "p225": 1, "pjs": 2}, discriminator=False)
    monkeypatch.setattr(pretrain, "BASE_DIR", folder)
    base = demo.find_base(args)
    assert base is not None and base.generator == folder / "G_0.safetensors"
    assert demo.find_base(argparse.Namespace(speech_encoder="vec768l12")) is None

    assert demo.choose_base_singer(base, 400.0)[0] == "pjs" and demo.choose_base_singer(base, 200.0)[0] == "f001"
    base.config.spk = {"p226": 0, "p225": 1}
    assert demo.choose_base_singer(base, 400.0) == ("p225", 0.0)
    voices = demo.Voices({"a": [write_tone(tmp_path / "a.wav", 0.1)]}, {})
    assert demo.fingerprint(voices, args, base) != demo.fingerprint(voices, args, None)


# Commands


def script(tmp_path: Path, code: str) -> str:
    path = tmp_path / "step.py"
    path.write_text(code)
    return str(path)


def test_a_step_that_is_done_is_not_run_again_but_those_after_a_fresh_one_are(tmp_path, capfd) -> None:
    command = [script(tmp_path, "print('ran')")]
    state = tmp_path / "done.json"
    first = demo.Runner(state)
    first.run("one", command)
    first.run("three", command)
    assert capfd.readouterr().out.count("ran\n") == 2

    second = demo.Runner(state)
    second.run("one", command)
    second.run("two", command)
    second.run("three", command)
    out = capfd.readouterr().out
    assert out.count("ran\n") == 2 and "one: done before" in out
    assert f"$ python {command[0]}" in out
    assert list(json.loads(state.read_text())) == ["one", "three", "two"]


def test_a_failed_step_stops_the_demo_and_is_run_again_next_time(tmp_path, capfd) -> None:
    state = tmp_path / "done.json"
    with pytest.raises(UserError, match="failed with exit code 3"):
        demo.Runner(state).run("one", [script(tmp_path, "raise SystemExit(3)")])
    demo.Runner(state).run("one", [script(tmp_path, "print('ran')")])
    assert "ran\n" in capfd.readouterr().out


def test_a_batch_that_left_files_out_does_not_stop_the_demo(tmp_path, capfd) -> None:
    partly = [script(tmp_path, "raise SystemExit(1)")]
    demo.Runner(tmp_path / "done.json").run("one", partly, batch=True)
    assert "left out" in capfd.readouterr().out
    with pytest.raises(UserError, match="exit code 1"):
        demo.Runner(tmp_path / "other.json").run("one", partly)


def test_an_interrupted_step_interrupts_the_demo(tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt):
        demo.Runner(tmp_path / "done.json").run("one", [script(tmp_path, "raise SystemExit(130)")])
    assert not (tmp_path / "done.json").exists()


# Figures and the page


def test_melodies_are_compared_where_both_are_voiced_and_after_the_move() -> None:
    source = contour([200, 220, 240, 0, 260, 280])
    result = contour([400, 440 * 2 ** (30 / 1200), 480, 500, 520, 0])
    melody = compare_melodies(source, result, 12)
    assert melody.frames == 4
    assert melody.median_cents == pytest.approx(0, abs=1e-6)
    assert melody.agreement == pytest.approx(4 / 6)
    assert 0.99 < melody.correlation < 1
    assert compare_melodies(source, result, 11).median_cents == pytest.approx(100)
    falling = contour([280, 260, 240, 0, 220, 200])
    assert compare_melodies(source, falling, 0).correlation < -0.9


def test_a_result_without_pitch_is_said_to_have_none() -> None:
    melody = compare_melodies(contour([200, 210]), contour([0, 0]), 0)
    assert melody.frames == 0 and "no pitch" in demo_report.describe_melody(melody)


def test_the_page_needs_nothing_beside_it_and_plays_what_it_shows(tmp_path) -> None:
    source = write_tone(tmp_path / "old <song>.wav", 1.0, 220)
    result = write_tone(tmp_path / "new.wav", 1.0, 440)
    conversion = Conversion("a<b", "c&d", source, result, 12, 3.2)
    melody, section = demo_report.measure_conversion(conversion, tmp_path)
    assert melody.median_cents < 5 and melody.frames > 70
    rows = [
        {"step": 0, "seconds": 0.0, "val/mel_distance": 2.0},
        {"step": 50, "seconds": 30.0, "loss/g/mel": 40.0, "loss/d/total": 2.0},
        {"step": 60, "seconds": 95.4, "val/mel_distance": 0.5},
    ]
    training = demo_report.summarise_training(rows)
    assert training == demo_report.Training(60, 95.4, 2.0, 0.5)
    demo_report.write_page(
        tmp_path / "index.html",
        voices="x",
        rows=rows,
        sections=[section],
        figures=[(conversion, melody, demo_report.Likeness(0.91, float("nan")))],
        steps=[Step("train <it>", "python train.py", 95.4), Step("convert", "python c.py", 3.0)],
        machine="m",
    )
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "$" not in re.sub(r"data:[^\"]+", "", page)
    assert "a&lt;b" in page and "c&amp;d" in page and "train &lt;it&gt;" in page and "old &lt;song&gt;" in page
    assert "1 min 35 s" in page and "1 min 38 s" in page and "25%" in page
    assert "1.00 s in, 1.00 s out: the same to the sample" in page
    (row,) = re.findall(r"<tr><td>After training</td>.*</tr>", page)
    assert re.findall(r'"number">([^<]*)<', row)[2:] == ["100%", "0.91", "&ndash;"]
    addresses = re.findall(r'src="([^"]+)"', page)
    assert all(address.startswith("data:") for address in addresses) and "href" not in page
    played = [base64.b64decode(address.split(",")[1]) for address in addresses if "audio" in address[:12]]
    assert len(played) == 2
    for data, hertz in zip(played, (220, 440), strict=True):
        audio, rate = soundfile.read(io.BytesIO(data))
        assert rate == RATE and len(audio) / rate == pytest.approx(1.0, abs=0.1)
        spectrum = np.abs(np.fft.rfft(audio))
        assert spectrum.argmax() * rate / len(audio) == pytest.approx(hertz, rel=0.02)
    pictures = [base64.b64decode(address.split(",")[1]) for address in addresses if "image" in address[:12]]
    assert len(pictures) == 2 and all(data.startswith(b"\x89PNG") for data in pictures)


class Ear:
    """A stand-in for the speaker encoder: tells low voices from high ones."""

    def embed(self, audio: np.ndarray) -> np.ndarray | None:
        power = np.abs(np.fft.rfft(audio)) ** 2
        split = round(600 * len(audio) / 16000)
        halves = np.sqrt([power[:split].sum(), power[split:].sum()])
        return halves / np.linalg.norm(halves) if halves.any() else None


def test_a_result_is_compared_with_the_recordings_of_both_singers(tmp_path, monkeypatch) -> None:
    low, high = ([write_tone(tmp_path / f"{hz}_{n}.wav", 0.3, hz + n) for n in range(2)] for hz in (150, 800))
    conversion = Conversion("deep", "bright", low[0], high[0], 24, 1.0)
    monkeypatch.setattr(Ge2eEncoder, "load", lambda **_: Ear())
    near = demo_report.Likenesses({"deep": low, "bright": high}).compare(conversion)
    assert near is not None and near.to_target > 0.95 and near.to_source < 0.3
    assert f"{near.to_target:.2f} to the target singer" in demo_report.describe_likeness(near)

    unknown_target = demo_report.Likenesses({"deep": low}).compare(conversion)
    assert unknown_target is not None and np.isnan(unknown_target.to_target)
    assert "to the source singer" in (text := demo_report.describe_likeness(unknown_target)) and "target" not in text

    def missing(**_: object) -> Ear:
        raise UserError("no weights")

    monkeypatch.setattr(Ge2eEncoder, "load", missing)
    nothing = demo_report.Likenesses({"deep": low, "bright": high}).compare(conversion)
    assert nothing is None and demo_report.describe_likeness(nothing) == ""


# All of it


@pytest.fixture(scope="module")
def house(tmp_path_factory) -> Path:
    """A copy of the repository with an encoder and a base model of made-up weights, so that nothing is fetched."""
    target = tmp_path_factory.mktemp("house")
    for path in ROOT.glob("*.py"):
        shutil.copy(path, target)
    kept_out = shutil.ignore_patterns("__pycache__", "*.bin", "*.pt", "*.pth", "*.safetensors")
    for name in ("modules", "vencoder", "vdecoder", "pretrain", "scripts", "configs_template", "diffusion", "cluster"):
        shutil.copytree(ROOT / name, target / name, ignore=kept_out)
    write_encoder(target / "pretrain")
    shutil.rmtree(target / "pretrain/base", ignore_errors=True)
    config = load_config(ROOT / "configs_template/config_micro_template.json")
    config.model.speech_encoder, config.model.ssl_dim = "whisper-ppg-tiny", WIDTH
    write_base(target / "pretrain/base", config, {"f001": 0, "pjs": 1})
    return target


def test_the_demo_goes_from_own_recordings_to_the_page_and_not_twice(house: Path) -> None:
    for path in SONGS:
        if path.parent.parent.name == "voices":
            audio, _ = soundfile.read(path)
            target = house / "own" / path.parent.name / f"{path.stem}.wav"
            target.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(target, audio[RATE : 3 * RATE], RATE)
    command = [sys.executable, "scripts/demo.py", "--data", "own", "--minutes", "0.02"]
    command += ["--speech_encoder", "whisper-ppg-tiny", "--f0_predictor", "dio"]
    first = subprocess.run(command, cwd=house, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stdout + first.stderr
    for name in ("resample.py", "preprocess_flist_config.py", "preprocess_hubert_f0.py", "train.py"):
        assert first.stdout.count(f"$ python {name} ") == 1
    assert first.stdout.count("$ python inference_main.py ") == 3
    at_once, trained = first.stdout.index(" -s pjs "), first.stdout.index("$ python train.py")
    assert at_once < first.stdout.index("$ python resample.py") < trained
    assert first.stdout.index("starting from the base model") > trained

    out = house / "results" / "demo_own"
    for name, moves in (("base_sinsy_to_pjs", -12), ("sinsy_to_taro", -12), ("taro_to_sinsy", 12)):
        result, rate = soundfile.read(out / f"{name}_result.flac")
        source = soundfile.info(next(out.glob(f"{name}_source.*")))
        assert rate == RATE and len(result) == source.frames
        assert np.abs(result).max() > 1e-3
        source_name, _, target = name.removeprefix("base_").split("_")
        moved = re.search(rf"-n \S*/{source_name}/\S+ -s {target} -t (-?\d+) ", first.stdout)
        assert moved and abs(int(moved[1]) - moves) <= 5
    page = (out / "index.html").read_text(encoding="utf-8")
    assert page.count("<audio") == 6 and page.count("data:image/png") == 4
    assert page.index("At once, with the base model: sinsy") < page.index("After training: sinsy")
    assert "The base model that comes along sang a song at once." in page
    distances = re.search(r"held-out mel distance: ([\d.]+) at step 0, ([\d.]+) at the end", first.stdout)
    assert distances and float(distances[1]) > 0 and distances[1] in page
    for folder in ("dataset", "configs", "logs", "filelists", "results/demo"):
        assert not list((house / folder).rglob("*"))  # a user's own data set and models are elsewhere

    second = subprocess.run(command, cwd=house, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stdout + second.stderr
    assert second.stdout.count("done before") == 8 and "$ python" not in second.stdout
