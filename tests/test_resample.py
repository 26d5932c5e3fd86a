"""resample.py as users run it: every format in, level int16 clips out, faults reported, nothing lost."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

import resample
from modules.audio.loudness import loudness
from modules.data.options import ResampleOptions
from modules.data.preprocess_resample import process
from tests.conftest import ROOT
from tests.disk import is_mounted, small_disk
from tests.parity import golden, signals

RATE = 44100


@functools.cache
def _voice(seconds: float, rate: int, seed: int) -> np.ndarray:
    return signals.voice_like(rate, seconds, [180, 220, 200], seed=seed)


def voice(seconds: float = 1.0, rate: int = RATE, seed: int = 1) -> np.ndarray:
    return _voice(seconds, rate, seed).copy()


def record(path: Path, audio: np.ndarray | None = None, rate: int = 22050, subtype: str = "PCM_16") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    audio = voice(1.0, rate) if audio is None else audio
    soundfile.write(path, audio, rate, subtype=None if path.suffix.lower() in (".ogg", ".mp3") else subtype)
    return path


class Studio:
    """A folder with dataset_raw, and the script run in this process on it."""

    def __init__(self, root: Path) -> None:
        self.raw = root / "dataset_raw"
        self.out = root / "dataset" / "44k"
        self.raw.mkdir(parents=True)

    def run(self, *flags: str, processes: int = 1) -> int:
        folders = ["--in_dir", str(self.raw), "--out_dir2", str(self.out)]
        return resample.main([*folders, "--num_processes", str(processes), *flags])

    def read(self, name: str) -> np.ndarray:
        audio, rate = soundfile.read(self.out / name, dtype="int16")
        assert rate == RATE and soundfile.info(self.out / name).subtype == "PCM_16"
        return audio

    def clips(self) -> list[str]:
        return sorted(path.relative_to(self.out).as_posix() for path in self.out.glob("*/[!.]*.wav"))

    def leftovers(self) -> list[Path]:
        return [path for path in self.out.rglob(".*") if path.is_file()]


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    return Studio(tmp_path)


@pytest.mark.parametrize("name", ["loudnorm", "skip_loudnorm"])
def test_clips_equal_the_golden(name: str, studio: Studio) -> None:
    meta, arrays = golden.load(Path(__file__).parent / "parity/goldens/j_resample.npz")
    record(studio.raw / "a/x.wav", golden.inputs(meta, arrays)["wav"])
    assert studio.run(*(["--skip_loudnorm"] if name == "skip_loudnorm" else [])) == 0
    golden.compare(meta, arrays, name, studio.read("a/x.wav"))


@pytest.mark.parametrize("processes", [1, 2])
def test_every_format_and_channel_count_becomes_a_mono_clip(studio: Studio, processes: int) -> None:
    """Uppercase suffixes were silently left out by the original (A8)."""
    for index, name in enumerate(["w.wav", "U.WAV", "f.flac", "o.ogg", "m.mp3", "a.AIFF"]):
        record(studio.raw / "alice" / name, voice(1.0, 22050, seed=index))
    stereo = np.stack([voice(), 0.5 * voice()], axis=1)
    record(studio.raw / "böb 1/sté reo.wav", stereo, RATE)
    record(studio.raw / "böb 1/8k.wav", voice(1.0, 8000), 8000)
    assert studio.run(processes=processes) == 0
    names = ["alice/U.wav", *(f"alice/{stem}.wav" for stem in "afmow"), "böb 1/8k.wav", "böb 1/sté reo.wav"]
    assert studio.clips() == names
    for name in names:
        audio = studio.read(name)
        assert audio.ndim == 1 and np.abs(audio.astype(int)).max() == 32767
        assert 0.7 * RATE < len(audio) < 1.2 * RATE
    want = voice() / np.abs(voice()).max()
    got = studio.read("böb 1/sté reo.wav") / 32767
    np.testing.assert_allclose(got, want[: len(got)], atol=1e-4)


@pytest.mark.parametrize("subtype", ["PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_wide_samples_keep_their_level(studio: Studio, subtype: str) -> None:
    """(A22)"""
    record(studio.raw / "a/x.wav", voice(), RATE, subtype)
    assert studio.run("--skip_loudnorm") == 0
    got = studio.read("a/x.wav")
    np.testing.assert_allclose(got / 32767, voice()[: len(got)], atol=1e-4)


@pytest.mark.parametrize("flags", [(), ("--skip_loudnorm",), ("--loudnorm", "lufs", "--lufs_target", "-6")])
def test_samples_never_wrap(flags: tuple[str, ...], studio: Studio) -> None:
    """(A7) Resampling a square wave of full scale overshoots by a tenth; the original's int16 wrapped around."""
    square = np.sign(np.sin(2 * np.pi * 100 * np.arange(16000) / 16000) + 1e-9).astype(np.float32)
    record(studio.raw / "a/square.wav", square, 16000, "FLOAT")
    record(studio.raw / "a/over.wav", 3 * voice(), RATE, "FLOAT")
    assert studio.run(*flags) == 0
    wave = studio.read("a/square.wav").astype(float)
    inner = wave[2000:-2000]
    signs = np.sign(square[np.clip(np.round((np.arange(len(inner)) + 2000) * 16000 / RATE).astype(int), 0, 15999)])
    assert np.mean(np.sign(inner) == signs) > 0.98
    got, want = studio.read("a/over.wav").astype(float), voice()
    assert np.corrcoef(got, want[: len(got)])[0, 1] > 0.95


def test_loudness_target_is_met_under_the_ceiling(studio: Studio) -> None:
    for index, level in enumerate((0.02, 0.3, 1.0)):
        record(studio.raw / f"a/{index}.wav", level * voice(3.0, seed=index), RATE, "FLOAT")
    assert studio.run("--loudnorm", "lufs", "--lufs_target", "-23") == 0
    for index in range(3):
        clip = studio.read(f"a/{index}.wav") / np.float32(32767)
        assert loudness(clip, RATE) == pytest.approx(-23, abs=0.3)
        assert np.abs(clip).max() <= 10 ** (-1 / 20)


def test_silent_files_are_reported_and_leave_no_clip(studio: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    """(A8) The original divided by zero and wrote noise."""
    record(studio.raw / "a/silent.wav", np.zeros(RATE), RATE)
    record(studio.raw / "a/dither.wav", np.random.default_rng(0).integers(-1, 2, RATE).astype(np.int16), RATE)
    record(studio.raw / "a/sung.wav")
    assert studio.run() == 0
    assert studio.clips() == ["a/sung.wav"]
    error = capsys.readouterr().err
    assert "silent.wav: silent" in error and "dither.wav: silent" in error


@pytest.mark.parametrize("processes", [1, 2])
def test_bad_files_are_listed_and_the_others_are_done(
    studio: Studio, capsys: pytest.CaptureFixture[str], processes: int
) -> None:
    """(A8) The original swallowed every exception of its workers."""
    record(studio.raw / "a/good.wav")
    nan = voice()
    nan[1000] = np.nan
    record(studio.raw / "a/nan.wav", nan, RATE, "FLOAT")
    cut = record(studio.raw / "a/cut.wav")
    cut.write_bytes(cut.read_bytes()[:9000])
    (studio.raw / "a/lyrics.wav").write_text("la la la")
    (studio.raw / "a/empty.flac").write_bytes(b"")
    record(studio.raw / "b/also good.flac")
    assert studio.run(processes=processes) == 1
    assert studio.clips() == ["a/good.wav", "b/also good.wav"]
    out, error = capsys.readouterr()
    assert "2 recording(s) done, 0 skipped, 4 failed" in out
    for name, reason in (("nan", "NaN"), ("cut", "cut off"), ("lyrics", "cannot be read"), ("empty", "cannot be")):
        assert any(f"{name}." in line and reason in line for line in error.splitlines()), (name, error)
    assert not [path for path in studio.leftovers() if path.parent.name != ".sources"]


def test_tenth_of_a_second_and_a_single_sample_pass(studio: Studio) -> None:
    record(studio.raw / "a/short.wav", voice(0.1), RATE)
    record(studio.raw / "a/one.wav", np.array([0.5]), RATE)
    assert studio.run() == 0
    assert len(studio.read("a/short.wav")) <= 4410 and len(studio.read("a/one.wav")) == 1


def test_an_empty_or_missing_dataset_cannot_start(studio: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    assert studio.run() == 2
    assert "there are no recordings" in capsys.readouterr().err
    (studio.raw / "alice").mkdir()
    assert studio.run() == 2
    studio.raw = studio.raw / "nowhere"
    assert studio.run() == 2
    assert "no such folder" in capsys.readouterr().err


def test_stray_things_are_named_and_hidden_ones_ignored(studio: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    record(studio.raw / "a/x.wav")
    record(studio.raw / "loose.wav")
    record(studio.raw / "a/nested/y.wav")
    record(studio.raw / ".ipynb_checkpoints/z.wav")
    record(studio.raw / "a/._x.wav")
    (studio.raw / "a/notes.txt").write_text("verse")
    (studio.raw / ".DS_Store").write_bytes(b"x")
    assert studio.run() == 0
    assert studio.clips() == ["a/x.wav"]
    error = capsys.readouterr().err
    assert "loose.wav: not in a speaker's folder" in error
    assert "nested: a folder inside" in error and "notes.txt: not an audio file" in error
    assert "._x" not in error and "ipynb" not in error and "DS_Store" not in error


def test_recordings_of_one_stem_do_not_overwrite_each_other(studio: Studio) -> None:
    record(studio.raw / "a/song.flac", voice(1.0, 22050))
    record(studio.raw / "a/song.wav", voice(2.0, 22050))
    record(studio.raw / "a/Song.mp3", voice(3.0, 22050))
    assert studio.run() == 0
    lengths = {name: round(len(studio.read(name)) / RATE) for name in studio.clips()}
    assert sorted(lengths.values()) == [1, 2, 3] and len({name.casefold() for name in lengths}) == 3


def stamps(studio: Studio) -> dict[str, int]:
    return {name: (studio.out / name).stat().st_mtime_ns for name in studio.clips()}


def test_a_second_run_redoes_only_what_changed(studio: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a/one.wav", "a/two.wav", "b/three.wav"):
        record(studio.raw / name)
    assert studio.run() == 0
    before = stamps(studio)
    assert studio.run() == 0
    assert stamps(studio) == before and "3 recording(s) were done before" in capsys.readouterr().out

    record(studio.raw / "a/two.wav", voice(0.5, 22050))
    assert studio.run() == 0
    assert {name for name, moment in stamps(studio).items() if moment != before[name]} == {"a/two.wav"}

    (studio.out / "a/one.wav").unlink()
    (studio.out / "b/three.wav").write_bytes(b"half")
    assert studio.run() == 0
    assert len(studio.read("a/one.wav")) == len(studio.read("b/three.wav")) > RATE / 2

    before = stamps(studio)
    assert studio.run("--skip_loudnorm") == 0
    assert all(moment != before[name] for name, moment in stamps(studio).items())


def test_clips_of_a_recording_that_changed_or_went_away_are_not_mistaken(
    studio: Studio, capsys: pytest.CaptureFixture[str]
) -> None:
    record(studio.raw / "a/long.wav", signals.voice_like(8000, 24.0, [200] * 12 + [0] + [220] * 12, seed=1), 8000)
    record(studio.raw / "a/gone.wav")
    assert studio.run("--slice") == 0
    assert studio.clips() == ["a/gone_000.wav", "a/long_000.wav", "a/long_001.wav"]
    record(studio.raw / "a/long.wav", voice(6.0, 8000), 8000)
    (studio.raw / "a/gone.wav").unlink()
    capsys.readouterr()
    assert studio.run("--slice") == 0
    assert studio.clips() == ["a/gone_000.wav", "a/long_000.wav"]
    assert "a/gone.wav is no longer in" in capsys.readouterr().err


def test_slices_last_5_to_15_seconds(studio: Studio) -> None:
    contour = ([200, 210, 220, 190] * 3 + [0]) * 4
    record(studio.raw / "a/long.flac", signals.voice_like(16000, 55.0, contour, seed=5), 16000)
    assert studio.run("--slice") == 0
    lengths = [len(studio.read(name)) / RATE for name in studio.clips()]
    assert len(lengths) >= 4 and min(lengths) >= 5 and max(lengths) <= 15
    assert 45 < sum(lengths) <= 55


def test_slices_keep_their_loudness_relative_to_each_other() -> None:
    """(A7) Each clip brought to full scale alone says nothing of how loud it was sung."""
    audio = signals.voice_like(16000, 24.0, [200] * 12 + [0] + [220] * 12, seed=2)
    audio[12 * 16000 :] *= 0.25
    peaks = [int(np.abs(clip.astype(int)).max()) for clip in process(audio, 16000, ResampleOptions(slice=True))]
    assert len(peaks) == 2 and peaks[0] == 32767 and peaks[1] == pytest.approx(32767 / 4, rel=0.1)


@pytest.mark.parametrize(("flag", "value"), [("--sr2", "0"), ("--lufs_target", "3")])
def test_senseless_values_are_refused(
    studio: Studio, capsys: pytest.CaptureFixture[str], flag: str, value: str
) -> None:
    record(studio.raw / "a/x.wav")
    assert studio.run(flag, value) == 2
    assert flag in capsys.readouterr().err and not studio.out.exists()


def test_a_full_disk_stops_with_one_message_and_keeps_what_is_done(tmp_path: Path) -> None:
    for index in range(20):
        record(tmp_path / f"raw/a/{index:02d}.wav", voice(1.5), RATE)
    with small_disk(tmp_path / "disk") as disk:
        flags = ["--in_dir", str(tmp_path / "raw"), "--out_dir2", str(disk / "44k"), "--num_processes"]
        if is_mounted(disk):
            result = subprocess.run(
                [sys.executable, ROOT / "resample.py", *flags, "2"], capture_output=True, text=True, cwd=tmp_path
            )
            code, error = result.returncode, result.stderr
            assert "No space left on device" in error and "Traceback" not in error
        else:
            code = resample.main([*flags, "1"])
        assert code == 2
        done = [path for path in (disk / "44k/a").iterdir() if path.suffix == ".wav" and path.name[0] != "."]
        assert 0 < len(done) < 20
        assert all(soundfile.info(path).duration == pytest.approx(1.5, abs=0.4) for path in done)


def make_many(root: Path, count: int = 40) -> None:
    for index in range(count):
        record(root / f"dataset_raw/a/{index:02d}.wav", np.tile(voice(1.0, 16000), 1 + index % 5), 16000)


def start(root: Path, *flags: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(ROOT / "resample.py"), "--num_processes", "2", *flags]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=root, start_new_session=True, **quiet)


def wait_for(condition: object, process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition() and process.poll() is None and time.monotonic() < end:  # type: ignore[operator]
        time.sleep(0.005)


def ends(group: int, seconds: float = 20) -> bool:
    """Whether every process of the group ends soon."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_killed_run_goes_on_and_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    killed, unbroken = Studio(tmp_path / "killed"), Studio(tmp_path / "unbroken")
    for studio in (killed, unbroken):
        make_many(studio.raw.parent)
    kills = 0
    for wanted in (1, 9, 20):
        process = start(killed.raw.parent)
        wait_for(lambda wanted=wanted: killed.out.exists() and len(killed.clips()) >= wanted, process)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.communicate()
        for name in killed.clips():  # nothing half-written under a final name
            assert soundfile.info(killed.out / name).frames > RATE / 2
            assert len(soundfile.read(killed.out / name)[0]) == soundfile.info(killed.out / name).frames
    assert kills >= 2
    assert killed.run() == 0 and unbroken.run(processes=2) == 0
    assert killed.clips() == unbroken.clips() and len(killed.clips()) == 40
    for name in killed.clips():
        assert (killed.out / name).read_bytes() == (unbroken.out / name).read_bytes()
    assert killed.leftovers() == [] or {path.parent.name for path in killed.leftovers()} == {".sources"}


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_ends_all_processes_and_says_how_to_go_on(tmp_path: Path) -> None:
    studio = Studio(tmp_path)
    make_many(tmp_path, 60)
    process = start(tmp_path)
    wait_for(lambda: studio.out.exists() and len(studio.clips()) >= 1, process)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert b"interrupted; start the same command again" in error and b"Traceback" not in error
    assert ends(process.pid)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_workers_end_when_only_their_parent_is_killed(tmp_path: Path) -> None:
    studio = Studio(tmp_path)
    make_many(tmp_path, 60)
    process = start(tmp_path)
    wait_for(lambda: studio.out.exists() and len(studio.clips()) >= 1, process)
    process.kill()
    process.wait()
    assert ends(process.pid)


def test_notes_say_what_the_clips_were_made_from(studio: Studio) -> None:
    record(studio.raw / "a/x.flac")
    assert studio.run() == 0
    note = json.loads((studio.out / "a/.sources/x.flac.json").read_text())
    assert note["made_from"]["options"]["loudnorm"] == "peak" and list(note["clips"]) == ["x.wav"]


def test_recordings_are_never_overwritten_by_their_clips(studio: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    """--in_dir dataset/44k writes to dataset/44k where no --out_dir2 is given: a 24-bit stereo take was lost so."""
    take = record(studio.out / "alice/take.wav", subtype="PCM_24")
    before = take.read_bytes()
    for flags in ([], ["--slice"]):
        assert resample.main(["--in_dir", str(studio.out), "--out_dir2", str(studio.out), *flags]) == 2
    assert "where the recordings lie" in capsys.readouterr().err
    assert take.read_bytes() == before and [path.name for path in take.parent.iterdir()] == ["take.wav"]


@pytest.mark.parametrize("link", ["folder", "speaker", "file"])
def test_recordings_behind_links_are_never_overwritten_by_their_clips(link: str, studio: Studio) -> None:
    take = record(studio.out / "alice/take.wav", subtype="PCM_24")
    before = take.read_bytes()
    if link == "folder":
        studio.raw.rmdir()
        studio.raw.symlink_to(studio.out, target_is_directory=True)
    elif link == "speaker":
        (studio.raw / "alice").symlink_to(take.parent, target_is_directory=True)
    else:
        (studio.raw / "alice").mkdir()
        (studio.raw / "alice/take.wav").symlink_to(take)
    assert studio.run() == 2
    assert take.read_bytes() == before


def test_clips_inside_the_folder_of_recordings_are_refused(studio: Studio) -> None:
    record(studio.raw / "alice/take.wav")
    assert resample.main(["--in_dir", str(studio.raw), "--out_dir2", str(studio.raw / "44k")]) == 2
    assert not (studio.raw / "44k").exists()


@pytest.mark.parametrize("name", ["../../../precious.wav", "{root}/precious.wav", "..\\precious.wav", "other.wav"])
def test_a_note_cannot_delete_what_its_recording_did_not_make(name: str, studio: Studio, tmp_path: Path) -> None:
    """Notes lie in the data set, which people exchange."""
    recording = record(studio.raw / "alice/take.wav")
    assert studio.run() == 0
    note = studio.out / "alice/.sources/take.wav.json"
    content = json.loads(note.read_text())
    victims = [tmp_path / "precious.wav", studio.out / "alice/other.wav", studio.out / "alice/..\\precious.wav"]
    for victim in victims:
        victim.write_bytes(b"precious")
    content["clips"][name.format(root=tmp_path)] = 8
    note.write_text(json.dumps(content))
    record(recording, voice(2.0, RATE))
    assert studio.run() == 0
    assert all(victim.read_bytes() == b"precious" for victim in victims)


@pytest.mark.parametrize("text", [
    "[]", '{"made_from": 1, "clips": 2, "skipped": 3}', "[" * 9999,
    '{"made_from": {}, "clips": {"a": {}}, "skipped": ""}',
    '{"made_from": {}, "clips": null, "skipped": "\\ud800"}',
])  # fmt: skip
def test_a_broken_note_is_no_note(text: str, studio: Studio) -> None:
    record(studio.raw / "alice/take.wav")
    assert studio.run() == 0
    (studio.out / "alice/.sources/take.wav.json").write_text(text)
    assert studio.run() == 0 and studio.clips() == ["alice/take.wav"]


def test_pipes_devices_and_names_that_are_not_utf_8_are_named_and_left_out(
    studio: Studio, capsys: pytest.CaptureFixture[str]
) -> None:
    record(studio.raw / "alice/take.wav")
    os.mkfifo(studio.raw / "alice/pipe.wav")
    (studio.raw / "alice/zero.wav").symlink_to("/dev/zero")
    (studio.raw / "alice/gone.wav").symlink_to("nowhere")
    (studio.raw / os.fsdecode(b"\x83\x6f\x83")).mkdir()  # Shift-JIS, as an old zip archive leaves it
    assert studio.run() == 0
    said = capsys.readouterr().err
    assert said.count("not a file that can be read") == 3 and "the name is not UTF-8; rename it" in said
    assert resample.main(["--in_dir", str(studio.raw), "--report", str(studio.raw / "report.json")]) in (0, 1)
    assert (studio.raw / "report.json").is_file()


def test_a_folder_of_a_speaker_that_is_gone_is_told(studio: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    """A renamed folder would train the same voice under two names."""
    record(studio.raw / "alice/take.wav")
    assert studio.run() == 0
    (studio.raw / "alice").rename(studio.raw / "anna")
    assert studio.run() == 0
    assert "alice/take.wav is no longer in" in capsys.readouterr().err


def test_a_folder_too_many_is_told_by_what_is_to_move(studio: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    record(studio.raw / "alice/take.wav")
    record(studio.raw / "dataset_raw/bob/dir/take.wav")
    assert studio.run() == 0
    assert "move bob up, beside the speakers' folders" in capsys.readouterr().err
