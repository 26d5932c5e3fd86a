"""The work behind preprocess_flist_config.py: which clips train, which validate, and the two configs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modules.audio.io import audio_info
from modules.audio.pitch_shift import original_stem
from modules.config import Config, DiffusionConfig
from modules.data.folders import dataset_folders, visible
from modules.errors import UserError

SHORTEST = 0.3  # seconds
VALIDATION_CLIPS = 2  # of each speaker at most
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_./]+")  # other names trip some tools of the wider system


@dataclass
class Speaker:
    """A speaker's usable clips, as lines for the file lists."""

    name: str
    clips: list[str]  # as recorded
    copies: list[str] = field(default_factory=list)  # of those clips at another pitch; see resample.py --pitch_shift


@dataclass
class Dataset:
    """What lies in the data set's folder."""

    speakers: list[Speaker] = field(default_factory=list)  # sorted by name, each with one clip or more
    warnings: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)  # file, reason
    failed: list[tuple[str, str]] = field(default_factory=list)

    @property
    def copies(self) -> set[str]:
        """The clips of all speakers that are copies at another pitch."""
        return {copy for speaker in self.speakers for copy in speaker.copies}


def scan(source_dir: str, speakers: Sequence[str] = ()) -> Dataset:
    """Look at every wav of every speaker's folder. Hidden files and folders and stray files are left alone.

    Args:
        speakers: only these; all where none is named.

    Raises:
        UserError: no such folder, a named speaker is not there, or no usable clip in it.
    """
    root = Path(source_dir)
    if not root.is_dir():
        raise UserError("there is no such folder", f"--source_dir {source_dir}", "run resample.py first")
    dataset = Dataset()
    folders = dataset_folders(root)
    missing = sorted(set(speakers) - {folder.name for folder in folders})
    if missing:
        fix = f"speakers with clips: {', '.join(folder.name for folder in folders) or 'none'}"
        raise UserError(f"there are no clips of {', '.join(missing)}", f"--speakers, in {source_dir}", fix)
    for folder in folders:
        if speakers and folder.name not in speakers:
            continue
        clips = _usable_clips(folder, source_dir, dataset)
        if clips:
            copies = [clip for clip in clips if _original(clip)]
            dataset.speakers.append(Speaker(folder.name, [clip for clip in clips if not _original(clip)], copies))
        else:
            dataset.warnings.append(f"{folder.name} has no usable clip and is left out")
    if not dataset.speakers:
        fix = "run resample.py; it wants recordings in one folder for each speaker"
        raise UserError("there are no clips to train on", f"--source_dir {source_dir}", fix)
    return dataset


def _usable_clips(folder: Path, source_dir: str, dataset: Dataset) -> list[str]:
    clips = []
    for path in visible(folder):
        if path.suffix.lower() != ".wav" or not path.is_file():
            continue
        line = f"{source_dir.rstrip('/')}/{folder.name}/{path.name}".replace("\\", "/")
        if "|" in path.name + folder.name or "\n" in path.name + folder.name:
            dataset.failed.append((line, "a name with | or a line break cannot stand in a file list; rename it"))
            continue
        try:
            duration = audio_info(path).duration
        except UserError as error:
            dataset.failed.append((line, error.what))
            continue
        if duration < SHORTEST:
            dataset.skipped.append((line, f"{duration:.2f} s long; clips under {SHORTEST} s are too short"))
            continue
        clips.append(line)
    unusual = [line for line in clips if not _PLAIN_NAME.fullmatch(line)]
    if unusual:
        more = f" and {len(unusual) - 1} more of {folder.name}" if len(unusual) > 1 else ""
        dataset.warnings.append(f"{unusual[0]}{more}: characters other than A-Z a-z 0-9 _ . / in the name")
    return clips


def _original(clip: str) -> str | None:
    """The line, without its suffix, of the clip that this one is a shifted copy of; None for a recorded clip."""
    return original_stem(clip.rpartition(".")[0])


def split(dataset: Dataset, seed: int) -> tuple[list[str], list[str]]:
    """Training and validation clips, each in an order that looks random.

    A clip's place follows from the seed and its name alone, so that the same files give the same lists on every
    machine, and a new clip does not send others from training to validation. Copies at another pitch only train, and
    those of a clip that validates are in neither list: they would tell the model what it is to be tested on.

    Raises:
        UserError: there are copies only.
    """
    training: list[str] = []
    validation: list[str] = []
    for speaker in dataset.speakers:
        ranked = sorted(speaker.clips, key=lambda clip: _rank(clip, seed))
        held_out = max(0, min(VALIDATION_CLIPS, len(ranked) - 1))
        if held_out < VALIDATION_CLIPS:
            dataset.warnings.append(
                f"{speaker.name} has only {len(ranked)} clip(s): {held_out} of them for validation; record more"
            )
        validation += ranked[:held_out]
        held_out_stems = {clip.rpartition(".")[0] for clip in ranked[:held_out]}
        training += ranked[held_out:] + [copy for copy in speaker.copies if _original(copy) not in held_out_stems]
    if training and not validation:
        dataset.warnings.append("no clip can be spared: the one that trains validates too, and says little about songs")
        validation = [clip for clip in training if not _original(clip)][:1]
        if not validation:
            fix = "run resample.py on the recordings themselves; what it writes with --pitch_shift lies beside them"
            raise UserError("every clip is a copy at another pitch", training[0], fix)
    return sorted(training, key=lambda clip: _rank(clip, seed)), sorted(validation, key=lambda clip: _rank(clip, seed))


def _rank(clip: str, seed: int) -> bytes:
    speaker_and_name = "/".join(clip.split("/")[-2:])  # the same wherever the data set lies
    return hashlib.sha256(f"{seed}/{speaker_and_name}".encode()).digest()


def speaker_ids(names: list[str], before: Mapping[str, int]) -> tuple[dict[str, int], list[str]]:
    """Ids of the speakers, and warnings.

    Without earlier ids, or with none of the same speakers, they follow the sorted names. Otherwise speakers keep
    the id that a trained model may know them by, and new ones get the next free ones.
    """
    fresh = {name: index for index, name in enumerate(sorted(names))}
    if not before or set(before) == set(names):
        return dict(before) or fresh, []
    added, gone = sorted(set(names) - set(before)), sorted(set(before) - set(names))
    change = "; ".join(
        f"{word}: {', '.join(who)}" for word, who in (("new", added), ("no longer there", gone)) if who
    )
    warning = f"THE SPEAKERS ARE NOT THOSE OF THE EXISTING CONFIG ({change})."
    if not set(before) & set(names):
        return fresh, [f"{warning} Their ids start anew; a model trained with that config does not fit."]
    ids = {name: before[name] for name in sorted(names, key=lambda name: before.get(name, 0)) if name in before}
    free = max(before.values()) + 1
    ids.update({name: free + index for index, name in enumerate(added)})
    kept = "Speakers that stay keep their ids"
    return ids, [f"{warning} {kept}; a model trained before needs training again where speakers are new."]


def fit_config(config: Config, *, encoder: str, width: int, tiny: bool, micro: bool, vol_aug: bool) -> None:
    """Set the sizes that follow from the encoder, and the options of the command line.

    Args:
        width: channels of the encoder's units.
        micro: the template is the small one for a CPU, whose own sizes stay.
    """
    model = config.model
    model.speech_encoder = encoder
    model.ssl_dim = width
    if not micro:
        model.gin_channels = width
        model.filter_channels = 512 if tiny else max(768, width)
    if vol_aug:
        config.train.vol_aug = model.vol_embedding = True


def set_speakers(config: Config, diffusion: DiffusionConfig, ids: dict[str, int]) -> None:
    """Name the speakers in both configs."""
    count = max(ids.values()) + 1
    config.spk = ids
    config.model.n_speakers = count
    diffusion.spk = dict(ids)
    diffusion.model.n_spk = count


def set_lists(config: Config, diffusion: DiffusionConfig, training: str, validation: str) -> None:
    """Name the file lists in both configs."""
    for data in (config.data, diffusion.data):
        data.training_files = training
        data.validation_files = validation


def match_diffusion(diffusion: DiffusionConfig, config: Config) -> None:
    """Give the diffusion config the audio and units of the main one."""
    diffusion.data.sampling_rate = config.data.sampling_rate
    diffusion.data.block_size = config.data.hop_length
    diffusion.data.encoder = config.model.speech_encoder
    diffusion.data.encoder_out_channels = config.model.ssl_dim
    diffusion.data.unit_interpolate_mode = config.data.unit_interpolate_mode
