"""The whole pipeline once, on two cores and without a GPU: train on a few songs, convert one singer to the other.

Where the base model lies in pretrain/base, a song is converted with it at once, and training starts from it.

Runs the numbered scripts as a user would and prints each command before it runs. Everything lands in
results/demo/ (results/demo_<folder>/ for your own voices): the audio, pictures, and index.html, which plays and
explains them. What is done is not done again: after an interruption start the same command once more.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from modules.cli import EXIT_OK, EXIT_SOME_FAILED, make_parser, run  # noqa: E402  (the root has to be on the path)
from modules.data.folders import dataset_folders  # noqa: E402
from modules.data.options import FeatureOptions, ListOptions, ResampleOptions  # noqa: E402
from modules.errors import UserError  # noqa: E402
from modules.files import write_text  # noqa: E402
from modules.inference.options import InferenceOptions, ModelOptions  # noqa: E402
from modules.options import add_arguments, flags, from_namespace, setting  # noqa: E402

if TYPE_CHECKING:
    from modules.training.base_model import BaseModel
    from scripts.demo_report import Conversion

DEMO_VOICES = ROOT / "demo"
GUEST = "sinsy"  # sings for a user who has brought one voice only
HELD_OUT_SECONDS = 20.0  # of a song are converted at most
BASE_SINGERS = {"f001": 395.0, "pjs": 203.0}  # of the base model's speakers: their median f0 when they sing, Hz


@dataclass(frozen=True)
class Voices:
    """Recordings for training and a held-out song, by speaker."""

    training: dict[str, list[Path]]
    held_out: dict[str, Path]


@dataclass(frozen=True)
class Folders:
    """Where the demo keeps its files; nothing outside ``out`` and pretrain/ is written."""

    out: Path

    @property
    def work(self) -> Path:
        """What the numbered scripts read and write."""
        return self.out / "work"

    @property
    def raw(self) -> Path:
        """One folder of recordings a speaker, as dataset_raw/."""
        return self.work / "dataset_raw"

    @property
    def held_out(self) -> Path:
        """The songs that are converted, as raw/."""
        return self.work / "raw"

    @property
    def dataset(self) -> Path:
        """As dataset/44k/."""
        return self.work / "dataset" / "44k"

    @property
    def config(self) -> Path:
        """As configs/config.json."""
        return self.work / "configs" / "config.json"

    @property
    def model(self) -> Path:
        """As logs/<model>/."""
        return self.work / "logs" / "demo"


@dataclass(frozen=True)
class DemoOptions:
    """The command line."""

    data: Path | None = setting(
        None, "--data", help="your own voices: a folder with one folder of recordings a speaker"
    )
    out_dir: Path | None = setting(
        None, "--out_dir", help="where the results go; default results/demo or demo_<folder>"
    )
    minutes: float = setting(5.0, "--minutes", help="of training, earlier runs included")
    speech_encoder: str = setting("whisper-ppg-base", "--speech_encoder", help="which encoder reads the words")
    f0_predictor: str = setting("fcpe", "--f0_predictor", help="which predictor finds the pitch")
    fresh: bool = setting(False, "--fresh", help="do not go on with an earlier run")

    def voices(self) -> Path:
        """The folder of the recordings."""
        return self.data.expanduser().resolve() if self.data else DEMO_VOICES

    def folders(self) -> Folders:
        """Where the files of this run lie."""
        name = "demo" if self.voices() == DEMO_VOICES else f"demo_{self.voices().name}"
        return Folders((self.out_dir or ROOT / "results" / name).resolve())


class Runner:
    """Runs commands one after the other, prints them, and remembers which are done and how long they took.

    Once a command has run, the ones after it run too: their input may have changed.
    """

    def __init__(self, state_file: Path) -> None:
        self.state_file = state_file
        self.done: dict[str, dict[str, Any]] = {}
        self.fresh = False
        if state_file.is_file():
            self.done = json.loads(state_file.read_text(encoding="utf-8"))

    def run(self, title: str, command: list[str], *, batch: bool = False, again: bool = False) -> None:
        """Run a command of this Python in the repository's root unless it is done.

        Args:
            batch: the command goes on past a bad file and then exits 1; so does the demo.
            again: run it even if it is done, and add up the time.

        Raises:
            UserError: the command failed.
        """
        before = self.done.get(title)
        if before and not self.fresh and not again:
            print(f"\n== {title}: done before, in {before['seconds']:.0f} s", flush=True)
            return
        shown = shlex.join(["python", *command])
        print(f"\n== {title}\n$ {shown}", flush=True)
        started = time.monotonic()
        code = call([sys.executable, *command])
        if code == 130:
            raise KeyboardInterrupt
        if code == EXIT_SOME_FAILED and batch:
            print("some files were left out (see above); going on with the others")
        elif code != EXIT_OK:
            raise UserError(
                f"the step '{title}' failed with exit code {code}", shown, "see its message above, then run this again"
            )
        seconds = time.monotonic() - started + (before["seconds"] if before and again else 0)
        self.done[title] = {"command": shown, "seconds": seconds}
        write_text(self.state_file, json.dumps(self.done, indent=1, ensure_ascii=False) + "\n")
        self.fresh = True


def call(command: list[str]) -> int:
    """Run a command in the repository's root; on Ctrl-C let it finish saving, then pass the interruption on."""
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()  # it got the Ctrl-C as well
        raise


def find_voices(data: Path) -> Voices:
    """The recordings in a folder.

    The folder holds one folder a speaker, or is the recordings of one speaker, or has two such folders named
    voices/ and held_out/ as demo/ has.

    Raises:
        UserError: the folder is missing or holds no audio.
    """
    if not data.is_dir():
        raise UserError("there is no such folder", data, "give a folder with one folder of recordings a speaker")
    if (data / "voices").is_dir():
        held_out = {name: songs[0] for name, songs in find_speakers(data / "held_out").items()}
        return Voices(find_speakers(data / "voices"), held_out)
    return Voices(find_speakers(data), {})


def find_speakers(folder: Path) -> dict[str, list[Path]]:
    """Audio files by speaker, both sorted. Raises UserError where there are none."""
    from modules.evaluation.voices import find_audio

    speakers = {place.name: find_audio(place) for place in dataset_folders(folder)}
    speakers = {name: files for name, files in speakers.items() if files}
    if not speakers and (files := find_audio(folder)):
        speakers = {folder.resolve().name: files}
    if not speakers:
        raise UserError("the folder holds no audio", folder, "put one folder of recordings a speaker into it")
    return speakers


def collect(voices: Voices, folders: Folders) -> None:
    """Put the recordings where the scripts expect them, and one song of each speaker aside."""
    for speaker, files in voices.training.items():
        files = list(files)
        if speaker not in voices.held_out:
            song = choose_song(files)
            if song is None:
                split_recording(files.pop(0), speaker, folders)
            else:
                files.remove(song)
                keep_excerpt(song, folders.held_out / speaker / f"{song.stem}.wav")
        for number, path in enumerate(files):
            place(path, folders.raw / speaker / f"{number:04d}_{path.name}")
    for speaker, song in voices.held_out.items():
        place(song, folders.held_out / speaker / song.name)


def choose_song(files: list[Path]) -> Path | None:
    """The recording that is nearest to HELD_OUT_SECONDS; None where too few would be left for training."""
    from modules.audio import audio_info

    if len(files) < 4:
        return None
    return min(files, key=lambda path: abs(audio_info(path).duration - HELD_OUT_SECONDS))


def split_recording(path: Path, speaker: str, folders: Folders) -> None:
    """Keep the last fifth of a recording, HELD_OUT_SECONDS at most, from training."""
    from modules.audio import save_audio
    from modules.evaluation import RATE, Recording

    audio = Recording.load(path).audio
    cut = len(audio) - min(len(audio) // 5, round(HELD_OUT_SECONDS * RATE))
    save_audio(folders.raw / speaker / f"{path.stem}.wav", audio[:cut], RATE)
    save_audio(folders.held_out / speaker / f"{path.stem}_end.wav", audio[cut:], RATE)


def keep_excerpt(path: Path, target: Path) -> None:
    """Copy at most HELD_OUT_SECONDS of a song."""
    from modules.audio import save_audio
    from modules.evaluation import RATE, Recording

    save_audio(target, Recording.load(path, HELD_OUT_SECONDS).audio, RATE)


def place(path: Path, target: Path) -> None:
    """Link a file, or copy it where links cannot be made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path.resolve(), target)
    except OSError:
        shutil.copyfile(path, target)


def find_base(options: DemoOptions) -> BaseModel | None:
    """The base model that comes with the project, where it is there and was trained with the chosen encoder."""
    from modules.training import base_model
    from pretrain import BASE_DIR

    base = base_model.find_base(BASE_DIR)
    return base if base and base.config.model.speech_encoder == options.speech_encoder else None


def fingerprint(voices: Voices, options: DemoOptions, base: BaseModel | None) -> str:
    """What the work folder was made from; another fingerprint means to start anew."""
    files = [path for paths in voices.training.values() for path in paths] + list(voices.held_out.values())
    files += [base.generator] if base else []
    entries = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(files)]
    values = {"files": entries, "encoder": options.speech_encoder, "f0": options.f0_predictor}
    return json.dumps(values, ensure_ascii=False, indent=1)


def prepare(voices: Voices, folders: Folders, options: DemoOptions, base: BaseModel | None) -> None:
    """Lay the work folder out, or take the one of an earlier run if it was made from the same things."""
    stamp = folders.work / "made_from.json"
    wanted = fingerprint(voices, options, base)
    if not options.fresh and stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return
    if folders.work.exists():
        print(f"the voices or settings are not those of the last run: {relative(folders.work)} starts anew")
        shutil.rmtree(folders.work)
    collect(voices, folders)
    write_text(stamp, wanted)


def relative(path: Path, start: Path = ROOT) -> str:
    """A path as seen from ``start``, with forward slashes; whole where it is on another drive."""
    try:
        return Path(os.path.relpath(path, start)).as_posix()
    except ValueError:
        return path.as_posix()


def choose_base_singer(base: BaseModel, own: float) -> tuple[str, float]:
    """The singer of the base model whose voice lies furthest from a song's pitch, so that one hears who sings.

    Args:
        own: the middle of the song's f0, Hz; 0 where it has none.

    Returns:
        Name and usual f0 in Hz; the first speaker, of unknown f0 (0), where the model has none of the singers.
    """
    import numpy as np

    singers = {name: hertz for name, hertz in BASE_SINGERS.items() if name in base.config.spk}
    if not singers:
        return min(base.config.spk), 0.0
    return max(singers.items(), key=lambda singer: abs(np.log2(singer[1] / own)) if own else 0.0)


@dataclass(frozen=True)
class Demo:
    """The steps of one run, in their order."""

    folders: Folders
    options: DemoOptions
    runner: Runner

    def convert_at_once(self, base: BaseModel) -> Conversion:
        """Before any training: a held-out song in the voice of a singer of the base model."""
        from modules.evaluation.melody import choose_semitones

        source, (song, *_) = min(find_speakers(self.folders.held_out).items())
        own = sung_pitch(song)
        target, usual = choose_base_singer(base, own)
        model = ModelOptions(model_path=base.generator)
        return self._convert_song(model, source, target, song, choose_semitones(own, usual), with_base=True)

    def preprocess(self) -> None:
        """Steps 1 to 3: recordings to features."""
        folders, lists = self.folders, self.folders.work / "filelists"
        resample = ResampleOptions(in_dir=folders.raw, out_dir=folders.dataset, slice=True)
        file_lists = ListOptions(
            source_dir=relative(folders.dataset),
            train_list=relative(lists / "train.txt"),
            val_list=relative(lists / "val.txt"),
            config=folders.config,
            diffusion_config=folders.config.with_name("diffusion.yaml"),
            speech_encoder=self.options.speech_encoder,
            micro=True,
        )
        features = FeatureOptions(
            in_dir=folders.dataset, config=folders.config, f0_predictor=self.options.f0_predictor, num_processes=0
        )
        run = self.runner.run
        run("1. resample and cut into clips", ["resample.py", *flags(resample, ROOT)], batch=True)
        run("2. write file lists and configs", ["preprocess_flist_config.py", *flags(file_lists, ROOT)])
        run("3. compute the features", ["preprocess_hubert_f0.py", *flags(features, ROOT)], batch=True)

    def train(self) -> None:
        """Step 4, for what is left of the minutes that it may take."""
        from modules.training.logging import METRICS_NAME, read_metrics

        model, runner = self.folders.model, self.runner
        rows = read_metrics(model / METRICS_NAME)
        left = self.options.minutes - max((row.get("seconds", 0) for row in rows), default=0) / 60
        title = "4. train"
        if rows and not runner.fresh and left < 0.1:
            runner.done.setdefault(title, {"command": "", "seconds": rows[-1]["seconds"]})
        command = ["train.py", "-c", relative(self.folders.config), "--log_dir", relative(model.parent)]
        command += ["-m", model.name, "--max_minutes", f"{max(left, 0.1):.1f}"]
        runner.run(title, command, again=bool(rows) and left >= 0.1)

    def convert(self) -> list[Conversion]:
        """Step 5: one held-out song each way; with one voice, a song of the demo's singer."""
        folders = self.folders
        speakers = [folder.name for folder in dataset_folders(folders.dataset)]
        songs = {name: paths[0] for name, paths in find_speakers(folders.held_out).items()}
        pairs = [(speakers[0], speakers[1]), (speakers[1], speakers[0])] if len(speakers) > 1 else []
        if not pairs:
            songs[GUEST] = find_voices(DEMO_VOICES).held_out[GUEST]
            pairs = [(GUEST, speakers[0])]
        model = ModelOptions(model_path=self._trained_model(), config_path=folders.model / "config.json")
        return [
            self._convert_song(
                model, source, target, songs[source], semitones_to(songs[source], folders.dataset / target)
            )
            for source, target in pairs
        ]

    def _trained_model(self) -> Path:
        """The best checkpoint, or the newest where no step was better than the base model."""
        from modules.training.resume import GENERATOR, newest

        best = self.folders.model / GENERATOR.best_name
        found = newest(self.folders.model)
        return best if best.is_file() or found is None else found[1][0]

    def _convert_song(
        self, model: ModelOptions, source: str, target: str, song: Path, semitones: int, with_base: bool = False
    ) -> Conversion:
        """Run inference_main.py on a song of ``source``."""
        from scripts.demo_report import Conversion

        number, by = ("0", " with the base model") if with_base else ("5", "")
        title = f"{number}. convert {source} to {target}{by}"
        results = self.folders.work / "results" / f"{'base_' if with_base else ''}{source}_to_{target}"
        inference = InferenceOptions(trans=float(semitones), f0_predictor=self.options.f0_predictor)
        command = ["inference_main.py", *flags(model, ROOT), "-n", relative(song), "-s", target]
        self.runner.run(title, [*command, *flags(inference), "--out_dir", relative(results)])
        result = max(results.glob("*.flac"), key=lambda found: found.stat().st_mtime)
        return Conversion(source, target, song, result, semitones, self.runner.done[title]["seconds"], with_base)

    def report(self, conversions: list[Conversion]) -> None:
        """Measure, draw, and write index.html; print the figures."""
        from modules.training.logging import METRICS_NAME, read_metrics
        from scripts import demo_report

        folders, runner, data = self.folders, self.runner, self.options.voices()
        print("\n== look at the results", flush=True)
        likenesses = demo_report.Likenesses(find_speakers(folders.raw))
        sections, figures = [], []
        for conversion in conversions:
            for path, role in ((conversion.source, "source"), (conversion.result, "result")):
                shutil.copyfile(path, folders.out / f"{conversion.name}_{role}{path.suffix}")
            melody, section = demo_report.measure_conversion(conversion, folders.out)
            likeness = likenesses.compare(conversion)
            sections.append(section)
            figures.append((conversion, melody, likeness))
            print(f"{conversion.name}: {demo_report.describe_melody(melody)} {demo_report.describe_likeness(likeness)}")
        rows = read_metrics(folders.model / METRICS_NAME)
        training = demo_report.summarise_training(rows)
        first, last = training.first_distance, training.last_distance
        print(f"held-out mel distance: {first:.2f} at step 0, {last:.2f} at the end")
        demo_report.write_page(
            folders.out / "index.html",
            voices="the songs in demo/" if data == DEMO_VOICES else f"the voices in {data.name}/",
            rows=rows,
            sections=sections,
            figures=figures,
            steps=[demo_report.Step(title, entry["command"], entry["seconds"]) for title, entry in runner.done.items()],
            machine=describe_machine(),
        )
        print(f"\nOpen {relative(folders.out / 'index.html')} in a browser to listen.")


def semitones_to(song: Path, target: Path) -> int:
    """How far to move ``song`` to the pitch at which the speaker in folder ``target`` sings."""
    import numpy as np

    from modules.data.features import load_f0
    from modules.evaluation.melody import choose_semitones
    from modules.evaluation.recording import median_pitch

    clips = [load_f0(path) for path in sorted(target.glob("*.f0.npy"))]
    usual = median_pitch(np.concatenate([f0 for f0, _ in clips]), np.concatenate([uv for _, uv in clips]))
    return choose_semitones(sung_pitch(song), usual)


def sung_pitch(song: Path) -> float:
    """The middle of a song's f0, Hz; 0 where nothing is voiced."""
    from modules.evaluation import RATE, Recording
    from modules.f0 import get_predictor

    return Recording.load(song).pitch(get_predictor("dio", sample_rate=RATE))


def describe_machine() -> str:
    """Which computer the timings belong to."""
    import platform

    import torch

    return (
        f"Made on {os.cpu_count()} processor cores ({platform.system()} {platform.machine()}), "
        f"Python {platform.python_version()}, torch {torch.__version__}."
    )


def run_demo(args: argparse.Namespace) -> int:
    options = from_namespace(DemoOptions, args)
    if not options.minutes > 0:
        raise UserError(f"{options.minutes:g} minutes are no training", "--minutes", "give a number above 0")
    folders = options.folders()
    voices, base = find_voices(options.voices()), find_base(options)
    prepare(voices, folders, options, base)
    demo = Demo(folders, options, Runner(folders.work / "done.json"))
    demo.runner.run("fetch the speech encoder", ["-m", "pretrain", "fetch", options.speech_encoder])
    conversions = [demo.convert_at_once(base)] if base else []
    demo.preprocess()
    demo.train()
    demo.report(conversions + demo.convert())
    return EXIT_OK


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and run the demo."""
    parser = make_parser("Train a small model on a few songs and convert one singer to the other.")
    add_arguments(parser, DemoOptions)
    return run(run_demo, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
