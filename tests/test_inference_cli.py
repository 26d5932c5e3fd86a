"""inference_main.py as a user runs it: flags, names, batches, exit codes."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import inference_main
from cluster import retrieval
from modules.errors import UserError
from modules.inference.names import all_songs, find_song, free_path, result_name, song_stem
from modules.inference.options import InferenceOptions, ModelOptions
from modules.onnx.export.retrieval import export_index
from modules.options import settings
from tests.conftest import ROOT
from tests.parity import signals
from tests.standin_voice import RATE, WIDTH, write_encoder, write_model

# SPEC of the original's command line: flag, long flag, default. What is new here is not listed.
ORIGINAL = {
    "-m": ("--model_path", Path("logs/44k/G_37600.pth")),
    "-c": ("--config_path", Path("logs/44k/config.json")),
    "-cl": ("--clip", 0),
    "-t": ("--trans", [0]),
    "-a": ("--auto_predict_f0", False),
    "-cm": ("--cluster_model_path", None),
    "-cr": ("--cluster_infer_ratio", 0),
    "-lg": ("--linear_gradient", 0),
    "-f0p": ("--f0_predictor", "pm"),
    "-eh": ("--enhance", False),
    "-shd": ("--shallow_diffusion", False),
    "-usm": ("--use_spk_mix", False),
    "-lea": ("--loudness_envelope_adjustment", 1),
    "-fr": ("--feature_retrieval", False),
    "-dm": ("--diffusion_model_path", Path("logs/44k/diffusion/model_0.pt")),
    "-dc": ("--diffusion_config_path", Path("logs/44k/diffusion/config.yaml")),
    "-ks": ("--k_step", 100),
    "-se": ("--second_encoding", False),
    "-od": ("--only_diffusion", False),
    "-sd": ("--slice_db", -40),
    "-d": ("--device", None),
    "-ns": ("--noice_scale", 0.4),
    "-p": ("--pad_seconds", 0.5),
    "-wf": ("--wav_format", "flac"),
    "-lgr": ("--linear_gradient_retain", 0.75),
    "-eak": ("--enhancer_adaptive_key", 0),
}


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """logs/44k with a model and a config, and pretrain, as they lie in a user's folder."""
    root = tmp_path_factory.mktemp("home")
    write_model(root / "logs/44k", name="G_37600.pth")
    write_encoder(root / "pretrain")
    return root


@pytest.fixture
def home(voice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh folder with the model, songs in raw/, and nothing in results/."""
    for name in ("logs", "pretrain"):
        (tmp_path / name).symlink_to(voice / name)
    (tmp_path / "raw").mkdir()
    song = signals.voice_like(RATE, 1.0, [200, 240, 220])
    soundfile.write(tmp_path / "raw/song.wav", song, RATE)
    soundfile.write(tmp_path / "raw/two.flac", song[: RATE // 2], RATE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args: str) -> int:
    return inference_main.main(["-d", "cpu", *args])


def results(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "results").glob("*")) if (home / "results").is_dir() else []


@pytest.mark.parametrize("flag", ORIGINAL)
def test_flags_have_the_names_and_defaults_of_the_original(flag: str) -> None:
    """(A29) And the options that a web UI would build have the same ones."""
    long_flag, default = ORIGINAL[flag]
    parser = inference_main.build_parser()
    action = parser._option_string_actions[flag]
    assert long_flag in action.option_strings
    assert action.default == default
    for kind in (ModelOptions, InferenceOptions):
        for field, setting in settings(kind):
            if flag in setting.flags and field.name != "trans":
                assert field.default == default


def test_a_misspelt_setting_is_an_error() -> None:
    """(A30) The original reads it as None."""
    with pytest.raises(TypeError):
        InferenceOptions(noise_scal=0.1)  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        InferenceOptions().noice_scale  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(dataclasses.FrozenInstanceError):
        InferenceOptions().trans = 3.0  # type: ignore[misc]


@pytest.fixture(scope="module")
def process(voice: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[bytes], Path]:
    """One run as a process, from a folder of its own, with names that are not ASCII and a terminal that is ASCII."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "raw").mkdir()
    stereo = np.stack([signals.voice_like(48000, 3.0, [200, 240, 220, 0])] * 2, axis=1)
    soundfile.write(folder / "raw" / "知らない v1.2.wav", stereo, 48000)
    (folder / "raw" / "broken.wav").write_bytes(b"RIFF nothing")
    command = [sys.executable, str(ROOT / "inference_main.py")]
    command += ["-m", str(voice / "logs/44k/G_37600.pth"), "-c", str(voice / "logs/44k/config.json"), "-d", "cpu"]
    command += ["-n", "知らない v1.2", "broken.wav", "-t", "12.5", "-s", "alice", "1", "-cl", "1", "-lg", "0.25"]
    (folder / "pretrain").symlink_to(voice / "pretrain")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False), folder


def test_a_batch_goes_on_past_a_bad_file_and_says_so(
    process: tuple[subprocess.CompletedProcess[bytes], Path],
) -> None:
    """(B18, B19) From any folder, with any name, a name with dots gets its extension."""
    done, folder = process
    assert done.returncode == 1, done.stderr
    assert "broken.wav" in done.stderr.decode("ascii")
    assert "Traceback" not in done.stderr.decode("ascii")
    want = [f"知らない v1.2_12.5key_{speaker}_sovits_pm.flac" for speaker in ("1", "alice")]
    assert sorted(path.name for path in (folder / "results").iterdir()) == want
    assert sorted(path.name for path in (folder / "raw").iterdir()) == ["broken.wav", "知らない v1.2.wav"]


def test_the_result_is_24_bit_flac_as_long_as_the_song(
    process: tuple[subprocess.CompletedProcess[bytes], Path],
) -> None:
    for path in (process[1] / "results").iterdir():
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.frames, info.subtype) == (RATE, 1, 3 * RATE, "PCM_24")
        audio = soundfile.read(path)[0]
        assert audio.std() > 1e-3
        assert np.isfinite(audio).all()


def test_every_song_goes_to_every_speaker_and_the_first_shift_fills_up(home: Path) -> None:
    assert run("-n", "song.wav", "two", "raw/song.wav", "-t", "3", "-2", "-s", "bob", "alice", "-wf", "wav") == 0
    assert results(home) == [
        "song_3key_alice_sovits_pm.wav",
        "song_3key_alice_sovits_pm_2.wav",  # the third song has the name of the first one
        "song_3key_bob_sovits_pm.wav",
        "song_3key_bob_sovits_pm_2.wav",
        "two_-2key_alice_sovits_pm.wav",
        "two_-2key_bob_sovits_pm.wav",
    ]
    first = soundfile.read(home / "results/song_3key_alice_sovits_pm.wav")[0]
    np.testing.assert_array_equal(soundfile.read(home / "results/song_3key_alice_sovits_pm_2.wav")[0], first)


def test_auto_pitch_and_the_predictor_stand_in_the_name(home: Path) -> None:
    assert run("-n", "two", "-a", "-f0p", "dio", "-s", "0", "--out_dir", "elsewhere") == 0
    assert [path.name for path in (home / "elsewhere").iterdir()] == ["two_auto_0_sovits_dio.flac"]


@pytest.mark.parametrize(
    "args,named",
    [
        (["-s", "carol"], ["carol", "alice (0), bob (1)"]),
        ([], ["--spk_list", "alice, bob"]),
        (["-s", "alice", "-m", "logs/44k/G_5.pth"], ["G_5.pth", "-m"]),
        (["-s", "alice", "-c", "nothing.json"], ["nothing.json"]),
        (["-s", "alice", "-t", "1", "2"], ["--trans", "2 shifts for 1 song"]),
        (["-s", "alice", "-sd", "4"], ["--slice_db"]),
        (["-s", "alice", "-d", "cuda:77"], ["cuda:77"]),
        (["-usm"], ["spk_mix_map", "alice"]),
        (["-s", "alice", "-cr", "0.5"], ["kmeans_10000.pt"]),
        (["-s", "alice", "-cr", "0.5", "-fr"], ["feature_and_index"]),
        (["-s", "alice", "-shd"], ["diffusion/config.yaml", "-dc"]),
        (["-s", "alice", "-od"], ["diffusion/config.yaml", "-dc"]),
        (["-s", "alice", "-se"], ["--second_encoding", "--shallow_diffusion"]),
        (["-s", "alice", "-eh"], ["nsf_hifigan"]),
    ],
)
def test_what_cannot_start_ends_with_2_and_names_the_reason(
    home: Path, capsys: pytest.CaptureFixture[str], args: list[str], named: list[str]
) -> None:
    assert run("-n", "song", *args) == 2
    message = capsys.readouterr().err
    for part in named:
        assert part in message
    assert "Traceback" not in message
    assert not results(home)


def test_a_missing_song_fails_alone(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-n", "nowhere", "two", "-s", "alice") == 1
    assert results(home) == ["two_0key_alice_sovits_pm.flac"]
    assert "nowhere" in capsys.readouterr().err


def test_whatever_happens_to_one_song_the_others_are_sung(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    convert = inference_main.convert_one

    def fail_at_song(svc: Any, song: Path, *rest: Any) -> None:
        if song.stem == "song":
            raise IndexError("index 7 is out of bounds")
        convert(svc, song, *rest)

    monkeypatch.setattr(inference_main, "convert_one", fail_at_song)
    assert run("-n", "song", "two", "-s", "alice") == 1
    assert results(home) == ["two_0key_alice_sovits_pm.flac"]
    assert "song to alice: IndexError: index 7" in capsys.readouterr().err


def test_a_speaker_beyond_the_model_is_refused_before_a_song_is_read(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((home / "logs/44k/config.json").read_text(encoding="utf-8"))
    config["spk"] = {"alice": 0, "eve": 0, "ghost": 7}
    (home / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert run("-n", "song", "two", "-s", "ghost", "-c", "config.json") == 2
    said = capsys.readouterr().err
    assert "ghost has the id 7" in said and "Traceback" not in said
    assert "one id, which is one voice: alice and eve (0)" in said
    assert run("-n", "two", "-s", "alice", "-c", "config.json") == 0


def test_a_missing_predictor_is_found_before_the_model_is_loaded(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modules.inference.svc.Svc.load", lambda *_: pytest.fail("it was loaded first"))
    assert run("-n", "song", "-s", "alice", "-f0p", "rmvpe") == 2
    assert "rmvpe.pt" in capsys.readouterr().err


def test_a_flag_that_changes_nothing_is_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-n", "two", "-s", "alice", "-fr", "-ks", "30", "-eak", "2", "-cm", "x.pt") == 0
    said = capsys.readouterr().err
    for flag in ("--feature_retrieval", "--k_step", "--enhancer_adaptive_key", "--cluster_model_path"):
        assert f"warning: {flag} changes nothing" in said
    assert run("-n", "two", "-s", "alice") == 0
    assert "changes nothing" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("spk_mix_map = {'alice': [[0, 1, 1, 0]}", "line 1"),
        ("other = {}", "there is no spk_mix_map"),
        ("spk_mix_map = [1]", "the mix is a list"),
        ("spk_mix_map = {alice: [[0, 1, 1, 0]]}", "NameError: name 'alice'"),
    ],
)
def test_a_mix_that_is_none_gets_a_sentence(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    (home / "code").mkdir()
    (home / "code/spkmix.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(home / "code")
    monkeypatch.delitem(sys.modules, "spkmix", raising=False)
    assert run("-n", "song", "-usm") == 2
    message = capsys.readouterr().err
    assert said in message and "spkmix.py" in message and "Traceback" not in message
    sys.modules.pop("spkmix", None)


def test_the_index_of_another_voice_is_refused_before_a_song_is_read(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = np.random.default_rng(0).standard_normal((100, WIDTH)).astype(np.float32)
    retrieval.save({0: retrieval.build(frames)}, home / "zoe", {"zoe": 0})
    assert run("-n", "two", "-s", "alice", "-fr", "-cr", "0.5", "-cm", "zoe") == 2
    assert "0 is zoe there and alice in the model" in capsys.readouterr().err
    with pytest.raises(UserError, match="0 is zoe there"):
        export_index(home / "zoe", home / "retrieval.npz", {"alice": 0})
    retrieval.save({0: retrieval.build(frames)}, home / "own", {"alice": 0})
    assert run("-n", "two", "-s", "alice", "-fr", "-cr", "0.5", "-cm", "own") == 0
    assert results(home) == ["two_0key_alice_0.5fr_sovits_pm.flac"]


def test_finished_songs_are_left_out_where_that_is_asked_for(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-n", "two", "-s", "alice") == 0
    before = (home / "results/two_0key_alice_sovits_pm.flac").stat().st_mtime_ns
    assert run("-n", "two", "song", "-s", "alice", "--skip_finished") == 0
    assert "1 song(s) done, 1 skipped, 0 failed" in capsys.readouterr().out
    assert (home / "results/two_0key_alice_sovits_pm.flac").stat().st_mtime_ns == before
    assert len(results(home)) == 2


def test_interrupting_leaves_no_half_result(voice: Path, home: Path) -> None:
    """Ctrl-C, in the middle of a conversion of a minute."""
    song = np.tile(signals.voice_like(RATE, 2.0, [200, 220]), 60)
    soundfile.write(home / "raw/long.wav", song, RATE)
    command = [sys.executable, str(ROOT / "inference_main.py"), "-n", "long", "-s", "alice", "-d", "cpu"]
    process = subprocess.Popen(command, cwd=home, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not results(home) and not list((home / "results").glob(".*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert b"Traceback" not in error
    assert b"finished songs are kept" in error
    assert not list((home / "results").iterdir())


def test_songs_are_found_by_name_or_path(home: Path) -> None:
    raw = home / "raw"
    soundfile.write(raw / "a.b", np.zeros(10), RATE, format="WAV")
    soundfile.write(raw / "v1.2.wav", np.zeros(10), RATE)
    for name, found in {
        "song": raw / "song.wav",
        "song.wav": raw / "song.wav",
        "two": raw / "two.flac",
        "v1.2": raw / "v1.2.wav",
        "a.b": raw / "a.b",
        str(raw / "song"): raw / "song.wav",
    }.items():
        assert find_song(name, [raw]) == found
    with pytest.raises(UserError, match="no song"):
        find_song("song.mp3", [raw])


def test_a_folder_and_a_pattern_are_all_songs_in_them(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    (raw / "album").mkdir(parents=True)
    for name in ("album/b.flac", "album/a.wav", "album/notes.txt", "album/.hidden.wav", "one.wav", "album.wav"):
        (raw / name).touch()
    assert all_songs(["album"], [raw]) == ["album"]  # the file of that name, as ever
    (raw / "album.wav").unlink()
    both = [str(raw / f"album/{name}") for name in ("a.wav", "b.flac")]
    assert all_songs(["one", "album"], [raw]) == ["one", *both]
    assert all_songs([f"{raw}/album/"], []) == both
    assert all_songs(["album/*.flac", "nowhere"], [raw]) == [str(raw / "album/b.flac"), "nowhere"]
    with pytest.raises(UserError, match="no songs in"):
        all_songs(["album/*.mp3"], [raw])


def test_a_song_of_another_extension_is_named(tmp_path: Path) -> None:
    (tmp_path / "song.flac").touch()
    with pytest.raises(UserError, match="no song 'song.wav'") as refusal:
        find_song("song.wav", [tmp_path])
    assert refusal.value.fix.startswith("there is song.flac; give that name")


@pytest.mark.parametrize("stem", ["歌" * 80, "x" * 240])
def test_a_long_name_makes_a_result_that_fits(tmp_path: Path, stem: str) -> None:
    options = InferenceOptions(cluster_infer_ratio=0.25, f0_predictor="harvest")
    names = {
        result_name(Path(f"{stem}.wav"), who, ModelOptions(shallow_diffusion=True), options, "flac")
        for who in ("alice", "名" * 70)
    }
    for name in names:
        (tmp_path / name.replace(".flac", "_23.flac")).touch()
        assert name.startswith(stem[:20]) and name.endswith("_0.25_sovdiff_harvest.flac")
    assert len(names) == 2


def test_retrieval_and_k_means_have_results_of_their_own() -> None:
    given = (Path("x.wav"), "a"), InferenceOptions(cluster_infer_ratio=0.5)
    names = [result_name(*given[0], ModelOptions(feature_retrieval=fr), given[1], "wav") for fr in (False, True)]
    assert names == ["x_0key_a_0.5_sovits_pm.wav", "x_0key_a_0.5fr_sovits_pm.wav"]
    assert song_stem(Path("film.mkv")) == "film"


def test_timbre_files_are_looked_for_beside_the_model_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = ModelOptions(Path("logs/zoe/G_1.pth"))
    index = dataclasses.replace(model, feature_retrieval=True)
    assert model.cluster_path() == Path("logs/44k/kmeans_10000.pt")
    assert "logs/zoe" in model.no_cluster_file().where and "logs/44k" in model.no_cluster_file().where
    (tmp_path / "logs/zoe/feature_and_index").mkdir(parents=True)
    (tmp_path / "logs/zoe/kmeans_10000.pt").touch()
    assert model.cluster_path() == Path("logs/zoe/kmeans_10000.pt")
    assert index.cluster_path() == Path("logs/zoe/feature_and_index.pkl")
    assert dataclasses.replace(index, cluster_model_path=Path("other.pkl")).cluster_path() == Path("other.pkl")


def test_names_of_results_are_safe(tmp_path: Path) -> None:
    options, model = InferenceOptions(cluster_infer_ratio=0.5), ModelOptions()
    assert result_name(Path("a/x.y.wav"), "a/b:c", model, options, "wav") == "x.y_0key_a_b_c_0.5_sovits_pm.wav"
    assert song_stem(Path("x.y")) == "x.y"
    shallow = dataclasses.replace(model, shallow_diffusion=True)
    assert "_sovdiff_" in result_name(Path("x.wav"), "a", shallow, options, "wav")
    assert "_diff_" in result_name(Path("x.wav"), "a", dataclasses.replace(model, only_diffusion=True), options, "wav")
    taken = {(tmp_path / "x.wav").resolve(), (tmp_path / "x_2.wav").resolve()}
    assert free_path(tmp_path / "x.wav", taken) == tmp_path / "x_3.wav"
    assert free_path(tmp_path / "y.wav", taken) == tmp_path / "y.wav"
