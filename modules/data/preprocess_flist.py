"""The work behind preprocess_flist_config.py: which clips train, which validate, and the two configs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modules.audio.io import audio_info
from modules.audio.pitch_shift import original_stem
from modules.config import AnyConfig, Config, DiffusionConfig
from modules.data.folders import dataset_folders, unusable_name, visible
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


def scan(source_dir: str, speakers: Sequence[str] = (), sample_rate: int = 44100) -> Dataset:
    """Look at every wav of every speaker's folder. Hidden files and folders and stray files are left alone.

    Args:
        speakers: only these; all where none is named.
        sample_rate: Hz that the wavs must have; step 3 would refuse others.

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
        clips = _usable_clips(folder, source_dir, dataset, sample_rate)
        if clips:
            copies = [clip for clip in clips if _original(clip)]
            dataset.speakers.append(Speaker(folder.name, [clip for clip in clips if not _original(clip)], copies))
        else:
            dataset.warnings.append(f"{folder.name} has no usable clip and is left out")
    if not dataset.speakers:
        fix = "run resample.py; it wants recordings in one folder for each speaker"
        raise UserError("there are no clips to train on", f"--source_dir {source_dir}", fix)
    return dataset


def _usable_clips(folder: Path, source_dir: str, dataset: Dataset, sample_rate: int) -> list[str]:
    clips = []
    for path in visible(folder):
        if path.suffix.lower() != ".wav" or not path.is_file():
            continue
        line = f"{source_dir.rstrip('/')}/{folder.name}/{path.name}".replace("\\", "/")
        why = "a name with | cannot stand in a file list; rename it" if "|" in path.name + folder.name else ""
        if why := why or unusable_name(folder.name) or unusable_name(path.name):
            dataset.failed.append((line, why))
            continue
        try:
            info = audio_info(path)
        except UserError as error:
            dataset.failed.append((line, error.what))
            continue
        if info.sample_rate != sample_rate:
            why = f"the wav has {info.sample_rate} Hz and must have {sample_rate}; make it with resample.py"
            dataset.failed.append((line, why))
            continue
        duration = info.duration
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
        held_out = min(VALIDATION_CLIPS, len(ranked) // 2)
        if len(ranked) <= VALIDATION_CLIPS:
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


def set_speakers(
    config: Config, diffusion: DiffusionConfig, ids: dict[str, int], room: tuple[int, int] = (0, 0)
) -> None:
    """Name the speakers in both configs.

    Args:
        room: n_speakers and n_spk of the configs before, whose models have rows for so many speakers.
    """
    count = max(ids.values()) + 1
    config.spk = ids
    config.model.n_speakers = max(count, room[0])
    diffusion.spk = dict(ids)
    diffusion.model.n_spk = max(count, room[1])


KEPT_SECTIONS = ("train", "data", "infer", "vocoder")
FOLLOWS = {"training_files", "validation_files", "vol_aug", "encoder", "encoder_out_channels", "sampling_rate"}
FOLLOWS |= {"block_size", "unit_interpolate_mode"}  # what the command line and the main config decide


def keep_changes(config: AnyConfig, before: AnyConfig, template: AnyConfig) -> list[str]:
    """Put into a new config what the user changed by hand in the one before.

    Args:
        before: the config that is about to be replaced.
        template: what it was made from.

    Returns:
        ``section.key = value`` of each change.
    """
    kept = []
    for name in KEPT_SECTIONS:
        if name not in type(config).model_fields:
            continue
        new, originals = getattr(config, name), getattr(template, name).model_dump()
        for key, value in getattr(before, name).model_dump().items():
            if key not in FOLLOWS and value != originals.get(key):
                setattr(new, key, value)
                kept.append(f"{name}.{key} = {value}")
    return kept


def size_of(config: Config) -> str:
    """The flag that a config of this size is made with: micro, tiny, or none for the full size."""
    if config.model.vocoder_name == "nsf-istft":
        return "micro"
    return "tiny" if config.model.use_depthwise_conv and config.model.flow_share_parameter else ""


def differences_of_model(config: Config, before: Config) -> list[str]:
    """What makes the new config's model another one than that of the config before."""
    words = {"": "full size", "tiny": "--tiny", "micro": "--micro"}
    pairs = {
        "speech encoder": (before.model.speech_encoder, config.model.speech_encoder),
        "size": (words[size_of(before)], words[size_of(config)]),
        "volume embedding": (before.model.vol_embedding, config.model.vol_embedding),
    }
    return [f"{name}: {old} before, {new} now" for name, (old, new) in pairs.items() if old != new]


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
