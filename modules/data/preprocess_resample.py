"""The work behind resample.py: recordings of any format into trimmed, level, mono int16 clips."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modules.audio.clips import split_into_clips, trim_silence
from modules.audio.io import AUDIO_EXTENSIONS, load_audio, save_audio
from modules.audio.loudness import is_silent, limit, normalize_loudness, normalize_peak, peak, to_int16
from modules.audio.pitch_shift import copy_stem, original_stem, shift_pitch
from modules.audio.resample import resample
from modules.data.folders import dataset_folders, unusable_name, visible
from modules.data.options import ResampleOptions
from modules.errors import UserError
from modules.files import write_text
from modules.text_formats import read_as

SILENCE = 10 ** (-80 / 20)  # dither of 16-bit files peaks at -90 dBFS; no recording of a voice stays below -80
NOTES_FOLDER = ".sources"  # beside the clips: what each of them was made from
_NOTE_VERSION = 1


@dataclass(frozen=True)
class Source:
    """A recording and where its clips go."""

    path: Path
    folder: Path  # of the speaker, in the output
    stem: str  # of the clips' names

    @property
    def note(self) -> Path:
        """The file that says what the clips were made from."""
        return self.folder / NOTES_FOLDER / f"{self.path.name}.json"

    def may_own(self, name: str) -> bool:
        """Whether a clip of this file name can come from the recording: names in notes are not believed."""
        stem = name.removesuffix(".wav")
        stem = original_stem(stem) or stem
        return name.endswith(".wav") and re.fullmatch(rf"{re.escape(self.stem)}(_\d{{3,}})?", stem) is not None


@dataclass(frozen=True)
class Outcome:
    """What became of a recording."""

    clips: int
    skipped: str = ""  # why there are no clips
    unchanged: bool = False  # an earlier run had done it


@dataclass(frozen=True)
class ResampleJob:
    """Makes the function that a worker process applies to every recording."""

    options: ResampleOptions

    def __call__(self, worker: int) -> Callable[[Source], Outcome]:
        return lambda source: convert(source, self.options)


def find_sources(in_dir: Path, out_dir: Path) -> tuple[list[Source], list[tuple[Path, str]]]:
    """The recordings in the speakers' folders, sorted, and what lies there besides, with the reason it is left out.

    Hidden files and folders are passed over without a word.
    """
    sources: list[Source] = []
    left_out: list[tuple[Path, str]] = []
    for folder in visible(in_dir):
        if why := unusable_name(folder.name):
            left_out.append((folder, why))
        elif folder.is_dir():
            taken: set[str] = set()
            for path in visible(folder):
                if why := _why_not(path):
                    left_out.append((path, why))
                else:
                    sources.append(Source(path, out_dir / folder.name, _free_stem(path, taken)))
        elif folder.suffix.lower() in AUDIO_EXTENSIONS:
            left_out.append((folder, "not in a speaker's folder; put it into one named for the singer"))
    return sources, left_out


def _why_not(path: Path) -> str:
    """Why something in a speaker's folder is no recording; empty where it is one."""
    if why := unusable_name(path.name):
        return why
    if path.is_dir():
        below = visible(path)
        if below and all(part.is_dir() for part in below):
            return f"a folder of folders in the place of a recording; move {path.name} up, beside the speakers' folders"
        return "a folder inside a speaker's folder; move its files up"
    if path.suffix.lower() not in AUDIO_EXTENSIONS:
        return "not an audio file"
    return "" if path.is_file() else "not a file that can be read"  # a pipe, a device, a link to nowhere


def check_places(in_dir: Path, out_dir: Path, sources: Sequence[Source]) -> None:
    """Refuse to write clips where the recordings lie: they would replace them.

    Raises:
        UserError: a recording, or the file that it is a link to, lies in ``out_dir``, or ``out_dir`` in ``in_dir``.
    """
    written = out_dir.resolve()
    inside = next((source.path for source in sources if source.path.resolve().is_relative_to(written)), None)
    if inside is None and not written.is_relative_to(in_dir.resolve()):
        return
    what = f"the clips would be written where the recordings lie{f', such as {inside}' if inside else ''}"
    fix = "move the recordings to dataset_raw/<speaker>, or give another --out_dir2; nothing was changed"
    raise UserError(what, f"--in_dir {in_dir}, --out_dir2 {out_dir}", fix)


def find_recordings(
    in_dir: Path, out_dir: Path, speakers: Sequence[str] = ()
) -> tuple[list[Source], list[tuple[Path, str]]]:
    """As find_sources, of the named speakers only; of all where none is named.

    Raises:
        UserError: no such folder, or one of the speakers has no recordings.
    """
    if not in_dir.is_dir():
        fix = "put recordings into it, one folder for each speaker"
        raise UserError("there is no such folder", f"--in_dir {in_dir}", fix)
    sources, left_out = find_sources(in_dir, out_dir)
    if not speakers:
        return sources, left_out
    known = sorted({source.folder.name for source in sources})
    missing = [name for name in speakers if name not in known]
    if missing:
        fix = f"speakers with recordings: {', '.join(known) or 'none'}"
        raise UserError(f"there are no recordings of {', '.join(missing)}", f"--speakers, in {in_dir}", fix)
    return (
        [source for source in sources if source.folder.name in speakers],
        [(path, why) for path, why in left_out if path.parent.name in speakers],
    )


def _free_stem(path: Path, taken: set[str]) -> str:
    """The stem of ``path``, told apart from files that differ in suffix or case only (a.wav, a.flac, A.WAV).

    A recording that is named like a shifted copy gets another stem too, so that it never counts as one.
    """
    stem, number = path.stem, 1
    if stem.casefold() in taken or original_stem(stem):
        stem = f"{path.stem}_{path.suffix[1:].lower()}"
    while stem.casefold() in taken:
        number += 1
        stem = f"{path.stem}_{path.suffix[1:].lower()}{number}"
    taken.add(stem.casefold())
    return stem


def orphans(sources: Sequence[Source], out_dir: Path) -> list[str]:
    """speaker/recording of every recording that clips were made from and that is gone, or whose folder is."""
    known = {source.note for source in sources}
    folders = [folder / NOTES_FOLDER for folder in dataset_folders(out_dir)]
    notes = [note for folder in folders if folder.is_dir() for note in sorted(folder.glob("[!.]*.json"))]
    return [f"{note.parent.parent.name}/{note.stem}" for note in notes if note not in known]


def convert(source: Source, options: ResampleOptions) -> Outcome:
    """Make the clips of one recording, unless an earlier run made them from the same content and options.

    Raises:
        UserError: the recording cannot be read.
        OSError: the clips cannot be written.
    """
    made_from = {"version": _NOTE_VERSION, "sha256": _digest(source.path), "options": options.made_with()}
    note = read_as(_Note, source.note)
    if note is not None and note.made_from == made_from and _are_there(source, note.clips):
        return Outcome(len(note.clips), note.skipped, unchanged=True)
    source.note.unlink(missing_ok=True)  # from here on the old clips and the note need not belong together
    clips = process(*load_audio(source.path), options)
    skipped = "" if clips else "silent"
    sizes = {}
    for index, clip in enumerate(clips):
        stem = f"{source.stem}_{index:03d}" if options.slice else source.stem
        for name, audio in [(stem, clip), *_shifted_copies(stem, clip, options)]:
            path = source.folder / f"{name}.wav"
            save_audio(path, audio, options.sample_rate, "PCM_16")
            sizes[path.name] = path.stat().st_size
    for name in note.clips if note else ():
        if name not in sizes and source.may_own(name):
            (source.folder / name).unlink(missing_ok=True)
    write_text(source.note, json.dumps({"made_from": made_from, "clips": sizes, "skipped": skipped}, indent=1))
    return Outcome(len(sizes), skipped)


def _shifted_copies(stem: str, clip: np.ndarray, options: ResampleOptions) -> Iterator[tuple[str, np.ndarray]]:
    """Name and int16 audio of each copy of a clip at another pitch; none of a clip in which nothing is voiced."""
    for semitones in options.shifts:
        audio = clip / np.float32(32767)
        copy = shift_pitch(audio, options.sample_rate, semitones)
        if not np.array_equal(copy, audio):
            yield copy_stem(stem, semitones), to_int16(copy)


def process(audio: np.ndarray, rate: int, options: ResampleOptions) -> list[np.ndarray]:
    """The clips of a recording.

    Trims silence at both ends, scales to 0.98 of full scale where the peak is over 1, resamples, sets the level
    of the whole recording (clips keep their loudness relative to each other), and slices.

    Args:
        audio: float32 [T] at ``rate`` Hz.

    Returns:
        int16 arrays at ``options.sample_rate``; none for a silent recording.
    """
    if is_silent(audio, SILENCE):
        return []
    audio = trim_silence(audio)
    if peak(audio) > 1:
        audio = normalize_peak(audio, 0.98)
    audio = resample(audio, rate, options.sample_rate)
    if options.level == "peak":
        audio = normalize_peak(audio)
    elif options.level == "lufs":
        audio = normalize_loudness(audio, options.sample_rate, options.lufs_target)
    audio = limit(audio, options.sample_rate)  # resampling can overshoot full scale
    clips = split_into_clips(audio, options.sample_rate) if options.slice else [audio]
    return [to_int16(clip) for clip in clips]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class _Note:
    """What the clips of a recording were made from. It lies in the data set, which people exchange."""

    made_from: dict[str, Any]
    clips: dict[str, int]  # name -> bytes
    skipped: str


def _are_there(source: Source, clips: dict[str, int]) -> bool:
    paths = [(source.folder / name, size) for name, size in clips.items()]
    return all(path.is_file() and path.stat().st_size == size for path, size in paths)
