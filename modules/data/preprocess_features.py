"""The work behind preprocess_hubert_f0.py: the features of each wav, made once and kept as long as they are current."""

from __future__ import annotations

import contextlib
import io
import math
import os
import random
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from modules.audio.io import load_audio
from modules.audio.resample import SPEECH_RATE, resample
from modules.audio.spectrogram import spectrogram
from modules.audio.volume import volume
from modules.config import Config, DiffusionConfig
from modules.data import features
from modules.data.features import FeatureKey, FeaturePaths, Stamp
from modules.data.folders import dataset_folders, visible
from modules.data.options import DATASET_DIR
from modules.data.worker_pool import CannotStart, Failure, is_fatal, reason
from modules.errors import UserError

if TYPE_CHECKING:
    from modules.f0 import F0Contour, F0Predictor, RangeReport
    from vdecoder.mel_vocoder import MelExtractor
    from vencoder.encoder import SpeechEncoder

MAX_KEY_SHIFT = 5.0  # semitones, of the augmented mel
DEVICE_BATCH = 8  # clips whose windows an accelerator encodes together; on a CPU that gains nothing

Loaded = TypeVar("Loaded")


@dataclass(frozen=True)
class VocoderOptions:
    """Which vocoder's mel the diffusion model learns."""

    path: Path  # of its checkpoint; config.json lies beside it
    kind: str


@dataclass(frozen=True)
class FeatureSettings:
    """What is made for every wav, and how."""

    encoder: str
    predictor: str
    sample_rate: int = 44100  # Hz
    hop_length: int = 512  # samples
    n_fft: int = 2048
    win_length: int = 2048
    f0_min: float = 50.0  # Hz
    f0_max: float = 1100.0
    with_volume: bool = False
    vocoder: VocoderOptions | None = None  # None: no mel
    seed: int = 1234  # of the augmentation
    precision: Literal["auto", "fp32"] = "auto"  # of the encoder
    pretrain_dir: Path = Path("pretrain")

    @classmethod
    def of(
        cls, config: Config, predictor: str, f0_range: tuple[float, float], diffusion: DiffusionConfig | None
    ) -> FeatureSettings:
        """What config.json, and with diffusion also diffusion.yaml, ask for."""
        data = config.data
        vocoder = None
        if diffusion is not None:
            vocoder = VocoderOptions(Path(diffusion.vocoder.ckpt), diffusion.vocoder.type)
        return cls(
            encoder=config.model.speech_encoder,
            predictor=predictor,
            sample_rate=data.sampling_rate,
            hop_length=data.hop_length,
            n_fft=data.filter_length,
            win_length=data.win_length,
            f0_min=f0_range[0],
            f0_max=f0_range[1],
            with_volume=config.model.vol_embedding or diffusion is not None,
            vocoder=vocoder,
            seed=config.train.seed,
        )


@dataclass(frozen=True)
class Made:
    """What became of a wav.

    Attributes:
        features: which were made; none where all of them were current.
        f0_range: how far it leaves what the f0 predictor can find, where f0 was made.
        voiced: frames of it that are.
    """

    features: tuple[str, ...]
    f0_range: RangeReport | None = field(default=None, compare=False)
    voiced: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class FeatureJob:
    """Makes the function that a worker process applies to batches of wavs.

    Attributes:
        devices: one is given to each worker in turn.
        threads: of each worker; 0 leaves that to torch.
        debug: print the traceback of each failure.
    """

    settings: FeatureSettings
    devices: tuple[str, ...]
    threads: int = 0
    debug: bool = False

    def __call__(self, worker: int) -> Callable[[Sequence[Path]], list[Made | Failure]]:
        if self.threads:
            torch.set_num_threads(self.threads)
        return FeatureMaker(self.settings, self.devices[worker % len(self.devices)], self.debug)


def find_wavs(in_dir: Path) -> list[Path]:
    """The wavs in the speakers' folders, sorted, hidden ones left out.

    Raises:
        UserError: there is no such folder, or no wav in it.
    """
    folders = dataset_folders(in_dir)
    wavs = [path for folder in folders for path in visible(folder) if path.suffix.lower() == ".wav"]
    if not wavs:
        fix = f"run resample.py first; it makes {DATASET_DIR.as_posix()}/<speaker>/<name>.wav"
        what = "there are no wavs" if in_dir.is_dir() else "there is no such folder"
        raise UserError(what, f"--in_dir {in_dir}", fix)
    return wavs


def shard(wavs: Sequence[Path]) -> list[Path]:
    """This process's share under torchrun; all of them otherwise."""
    rank, world = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    return list(wavs[rank::world])


def choose_devices(name: str | None) -> tuple[str, ...]:
    """The device that the user named, else every GPU (under torchrun this process's one), else the CPU.

    Raises:
        UserError: the named device does not exist.
    """
    from modules.devices import pick_device

    if name is None and torch.cuda.is_available():
        count = torch.cuda.device_count()
        if "LOCAL_RANK" in os.environ:
            return (f"cuda:{int(os.environ['LOCAL_RANK']) % count}",)
        return tuple(f"cuda:{index}" for index in range(count))
    return (str(pick_device(name)),)


def batches(wavs: Sequence[Path], devices: Sequence[str]) -> list[tuple[Path, ...]]:
    """The wavs in groups that a worker encodes together."""
    size = 1 if devices[0].startswith("cpu") else DEVICE_BATCH
    return [tuple(wavs[start : start + size]) for start in range(0, len(wavs), size)]


@dataclass(frozen=True)
class _Clip:
    """A wav of which something has to be made."""

    wav: Path
    audio: np.ndarray  # float32 [T]
    stamp: Stamp  # what stays as it is
    missing: Mapping[str, FeatureKey]  # what has to be made, and its key


class FeatureMaker:
    """Makes the features of wavs. Models are loaded when the first wav needs them, once.

    A wav is read once; its content, the encoder, the predictor and all parameters decide whether what lies beside
    it is current.
    """

    def __init__(self, settings: FeatureSettings, device: str, debug: bool = False) -> None:
        self.settings = settings
        self.debug = debug
        self.device = torch.device(device)
        self.keys = feature_keys(settings)

    def __call__(self, wavs: Sequence[Path]) -> list[Made | Failure]:
        """What became of each of ``wavs``, in their order."""
        outcomes: dict[Path, Made | Failure] = {}
        clips = []
        for wav in wavs:
            with _noted(outcomes, wav, self.debug):
                clip = self._read(wav)
                if clip is None:
                    outcomes[wav] = Made(())
                else:
                    clips.append(clip)
        all_units = self._encode([clip for clip in clips if "units" in clip.missing])
        for clip in clips:
            with _noted(outcomes, clip.wav, self.debug):
                outcomes[clip.wav] = self._make(clip, all_units.get(clip.wav))
        return [outcomes[wav] for wav in wavs]

    def _read(self, wav: Path) -> _Clip | None:
        """The wav with what has to be made of it; None where all is current."""
        content = wav.read_bytes()
        digest = features.digest(content)
        stamp = features.read_stamp(wav)
        if stamp is None or stamp.digest != digest:
            stamp = Stamp(digest, {})
        paths = FeaturePaths.of(wav)
        current = {
            name: key
            for name, key in stamp.keys.items()
            if key == self.keys.get(name, key) and all(stamp.is_whole(path) for path in paths.of_feature(name))
        }
        missing = {name: key for name, key in self.keys.items() if name not in current}
        if not missing:
            return None
        audio, rate = load_audio(io.BytesIO(content), name=wav)
        self._check(wav, audio, rate)
        return _Clip(wav, audio, Stamp(digest, current), missing)

    def _check(self, wav: Path, audio: np.ndarray, rate: int) -> None:
        if rate != self.settings.sample_rate:
            what = f"the wav has {rate} Hz, the config wants {self.settings.sample_rate} Hz"
            raise UserError(what, wav, "make it with resample.py")
        if len(audio) <= self.settings.hop_length:
            raise UserError(f"the wav has {len(audio)} samples, less than two frames", wav, "leave it out")

    def _encode(self, clips: Sequence[_Clip]) -> dict[Path, Tensor]:
        """Units [1, C, F] of each clip; a clip that cannot be encoded with the others is left out, to fail alone."""
        if not clips:
            return {}
        encoder = self.encoder
        try:
            units = encoder.encode_batch([self._encoder_input(clip) for clip in clips])
        except Exception as error:
            if is_fatal(error):
                raise
            return {}
        return {clip.wav: each for clip, each in zip(clips, units, strict=True)}

    def _encoder_input(self, clip: _Clip) -> Tensor:
        return torch.from_numpy(resample(clip.audio, self.settings.sample_rate, SPEECH_RATE)).to(self.device)

    def _make(self, clip: _Clip, units: Tensor | None) -> Made:
        """Make and write what is missing. Until all of it is written the stamp does not name any of it."""
        paths = FeaturePaths.of(clip.wav)
        if paths.stamp.is_file():
            features.write_stamp(clip.wav, clip.stamp)
        self._remove_stale(clip, paths)
        settings, audio, missing = self.settings, clip.audio, clip.missing
        if "units" in missing:
            units = self.encoder.encode(self._encoder_input(clip)) if units is None else units
            if not torch.isfinite(units).all():
                raise UserError("the encoder gave units that are not finite", clip.wav, "try -d cpu")
            features.save_units(paths.units, units)
        made = Made(tuple(missing))
        if "f0" in missing:
            np.random.seed(int(clip.stamp.digest[:8], 16))  # crepe dithers its input
            contour = self.predictor(audio)
            features.save_f0(paths.f0, contour.f0, contour.uv)
            made = Made(made.features, self._range(audio, contour), float(contour.uv.sum()))
        if "spec" in missing:
            tensor = torch.from_numpy(audio)[None].to(self.device)
            spec = spectrogram(tensor, settings.n_fft, settings.hop_length, settings.win_length)[0]
            features.save_spec(paths.spec, spec)
        if "volume" in missing:
            features.save_volume(paths.volume, volume(audio, settings.hop_length))
        if "mel" in missing:
            rng = random.Random(f"{settings.seed} {clip.stamp.digest}")
            save_mels(paths, make_mels(audio, self.mel_extractor, settings.hop_length, rng, self.device))
        features.write_stamp(clip.wav, Stamp(clip.stamp.digest, {**clip.stamp.keys, **missing}))
        return made

    def _range(self, audio: np.ndarray, contour: F0Contour) -> RangeReport:
        """How far a clip leaves what the predictor can find: what it misses is trained as unvoiced."""
        from modules.f0 import check_range

        settings, (low, high) = self.settings, self.predictor.reach
        found = None if self.predictor.halves_notes else contour.uv
        rate, hop = settings.sample_rate, settings.hop_length
        return check_range(audio, rate, hop_length=hop, f0_min=low, f0_max=high, found=found)

    def _remove_stale(self, clip: _Clip, paths: FeaturePaths) -> None:
        """Delete features that belong to another content of the wav and are not made anew in this run."""
        for name in ALL_FEATURES:
            if name not in clip.stamp.keys and name not in clip.missing:
                for path in paths.of_feature(name):
                    path.unlink(missing_ok=True)

    @cached_property
    def encoder(self) -> SpeechEncoder:
        from vencoder import get_encoder

        settings = self.settings
        return _or_stop(
            lambda: get_encoder(settings.encoder, str(self.device), settings.pretrain_dir, settings.precision)
        )

    @cached_property
    def predictor(self) -> F0Predictor:
        from modules.f0 import get_predictor

        settings = self.settings
        return _or_stop(
            lambda: get_predictor(
                settings.predictor,
                hop_length=settings.hop_length,
                sample_rate=settings.sample_rate,
                f0_min=settings.f0_min,
                f0_max=settings.f0_max,
                device=str(self.device),
                pretrain_dir=settings.pretrain_dir,
            )
        )

    @cached_property
    def mel_extractor(self) -> MelExtractor:
        from vdecoder.mel_vocoder import MelExtractor

        settings = self.settings
        assert settings.vocoder is not None
        vocoder = settings.vocoder
        extractor = _or_stop(lambda: MelExtractor.load(vocoder.path, vocoder.kind))
        rate, hop = extractor.config.sampling_rate, extractor.config.hop_size
        if (rate, hop) != (settings.sample_rate, settings.hop_length):
            raise CannotStart(
                f"the vocoder works at {rate} Hz with a hop of {hop}, the config has {settings.sample_rate} and"
                f" {settings.hop_length}",
                vocoder.path,
                "use a vocoder that fits the config",
            )
        return extractor


def _or_stop(load: Callable[[], Loaded]) -> Loaded:
    """What ``load`` gives; a model that cannot be loaded ends the whole batch."""
    try:
        return load()
    except UserError as error:
        raise CannotStart(error.what, error.where, error.fix) from None


@contextlib.contextmanager
def _noted(outcomes: dict[Path, Made | Failure], wav: Path, debug: bool) -> Iterator[None]:
    """Turn an error of one wav into its Failure; errors that concern every wav pass."""
    try:
        yield
    except Exception as error:
        if is_fatal(error):
            raise
        if debug:
            traceback.print_exc()
        outcomes[wav] = Failure(reason(error))


ALL_FEATURES = ("units", "f0", "spec", "volume", "mel")


def feature_keys(settings: FeatureSettings) -> dict[str, FeatureKey]:
    """What each wanted feature is made with; a change of any value makes the feature anew."""
    frames = {"sample_rate": settings.sample_rate, "hop_length": settings.hop_length}
    keys: dict[str, FeatureKey] = {
        "units": {"encoder": settings.encoder},
        "f0": {
            "predictor": settings.predictor,
            **frames,
            "f0_min": float(settings.f0_min),
            "f0_max": float(settings.f0_max),
        },
        "spec": {**frames, "n_fft": settings.n_fft, "win_length": settings.win_length},
    }
    if settings.with_volume:
        keys["volume"] = dict(frames)
    if settings.vocoder is not None:
        keys["mel"] = {**frames, "kind": settings.vocoder.kind, "seed": settings.seed, **_vocoder_key(settings.vocoder)}
    return keys


def _vocoder_key(vocoder: VocoderOptions) -> FeatureKey:
    from vdecoder.mel_vocoder import VocoderConfig

    config = asdict(_or_stop(lambda: VocoderConfig.load(vocoder.path)))
    return {name: config[name] for name in ("num_mels", "n_fft", "win_size", "fmin", "fmax")}


@dataclass(frozen=True)
class Mels:
    """The mel of a clip and its augmented version, all of one draw."""

    mel: np.ndarray  # float32 [T, n_mels]
    aug_mel: np.ndarray  # float32 [T, n_mels] of the audio at another loudness and key
    key_shift: float  # semitones
    aug_volume: np.ndarray  # float32 [T] of the audio at that loudness


def make_mels(
    audio: np.ndarray, extract: MelExtractor, hop_length: int, rng: random.Random, device: torch.device
) -> Mels:
    """The mel of ``audio`` [T] and one augmented version.

    Draws, in this order: the loudness, 10**u with u uniform from -1 to what keeps the peak at full scale (at most
    1), and the key shift, uniform within 5 semitones.
    """
    top = float(np.abs(audio).max()) + 1e-5
    louder = 10 ** rng.uniform(-1, min(1, math.log10(1 / top)))
    key_shift = rng.uniform(-MAX_KEY_SHIFT, MAX_KEY_SHIFT)
    changed = audio * np.float32(louder)
    frames = len(audio) // hop_length
    mel, aug_mel = (
        extract(torch.from_numpy(samples)[None].to(device), shift)[0, :frames].cpu().numpy()
        for samples, shift in ((audio, 0.0), (changed, key_shift))
    )
    return Mels(mel, aug_mel, key_shift, volume(changed, hop_length))


def save_mels(paths: FeaturePaths, mels: Mels) -> None:
    """Write the three files of one draw."""
    features.save_mel(paths.mel, mels.mel)
    features.save_aug_mel(paths.aug_mel, mels.aug_mel, mels.key_shift)
    features.save_volume(paths.aug_volume, mels.aug_volume)


def one_by_one(
    results: Iterator[tuple[tuple[Path, ...], list[Made | Failure] | Failure]],
) -> Iterator[tuple[Path, Made | Failure]]:
    """Each wav with its outcome, from the outcomes of batches."""
    for wavs, outcome in results:
        outcomes = [outcome] * len(wavs) if isinstance(outcome, Failure) else outcome
        yield from zip(wavs, outcomes, strict=True)
