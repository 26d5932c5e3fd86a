"""What the scripts that make a data set are told: resample.py, preprocess_flist_config.py, preprocess_hubert_f0.py.

Importing this module is cheap: no torch, no numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.errors import UserError
from modules.f0 import PREDICTORS
from modules.options import check, setting
from vencoder import ENCODERS

DATASET_DIR = Path("dataset/44k")
CONFIG_PATH = Path("configs/config.json")
DIFFUSION_CONFIG_PATH = Path("configs/diffusion.yaml")
LARGEST_SHIFT = 12.0  # semitones; further away Praat's periods overlap so much, or so little, that the voice breaks
LOUDNORMS = ("peak", "lufs")


@dataclass(frozen=True)
class ResampleOptions:
    """Step 1: what is done to the recordings, and where they lie.

    Raises:
        UserError: from ``check``, naming the flag, the value and what it may be.
    """

    slice: bool = setting(False, "--slice", help="cut long recordings into clips of 5 to 15 s")
    skip_loudnorm: bool = setting(False, "--skip_loudnorm", help="keep the level of the recordings")
    loudnorm: str = setting("peak", "--loudnorm", help="peak: to full scale; lufs: to --lufs_target", choices=LOUDNORMS)
    lufs_target: float = setting(-18.0, "--lufs_target", help="loudness for --loudnorm lufs, LUFS")
    pitch_shift: tuple[float, ...] = setting(
        (),
        "--pitch_shift",
        help="also write copies of each clip at another pitch with the same voice, such as -4 4 8; they only train",
        many=True,
        metavar="SEMITONES",
    )
    sample_rate: int = setting(44100, "--sr2", help="sampling rate to write, Hz", metavar="SR2")
    in_dir: Path = setting(Path("dataset_raw"), "--in_dir", help="one folder a speaker")
    out_dir: Path = setting(DATASET_DIR, "--out_dir2", help="where the wavs go", metavar="OUT_DIR2")
    report: str | None = setting(
        None,
        "--report",
        help="write nothing but a report on the recordings (to FILE too, as JSON): minutes, pitch, levels, problems",
        const="",
        metavar="FILE",
    )
    speakers: tuple[str, ...] = setting(
        (), "--speakers", help="only these folders; default: all", many=True, metavar="NAME"
    )
    num_processes: int = setting(0, "--num_processes", help="worker processes; 0 is one a core")

    @property
    def level(self) -> str:
        """How the level of a recording is set: peak, lufs or none."""
        return "none" if self.skip_loudnorm else self.loudnorm

    @property
    def shifts(self) -> tuple[float, ...]:
        """Semitones of the copies of each clip, none twice."""
        return tuple(dict.fromkeys(self.pitch_shift))

    def check(self) -> None:
        """Refuse what no clip can be made with."""
        if self.sample_rate < 8000:
            raise UserError(f"the sampling rate is {self.sample_rate} Hz", "--sr2", "the models work at 44100")
        if self.lufs_target > -5:
            raise UserError(f"the loudness is {self.lufs_target} LUFS", "--lufs_target", "take a value from -30 to -10")
        for semitones in self.shifts:
            if semitones == 0 or not abs(semitones) <= LARGEST_SHIFT:
                fix = f"take values from -{LARGEST_SHIFT:g} to {LARGEST_SHIFT:g} without 0"
                raise UserError(f"a shift of {semitones:g} semitones", "--pitch_shift", fix)
        check(self)

    def made_with(self) -> dict[str, Any]:
        """What decides on the clips, as it stands in their notes; copies only where there are any, as in old notes."""
        options: dict[str, Any] = {
            "sample_rate": self.sample_rate,
            "loudnorm": self.level,
            "lufs_target": self.lufs_target,
            "slice": self.slice,
        }
        return {**options, "pitch_shift": list(self.shifts)} if self.shifts else options


@dataclass(frozen=True)
class ListOptions:
    """Step 2: which clips train and validate, and what the configs say."""

    speech_encoder: str = setting("vec768l12", "--speech_encoder", help="speech encoder", choices=tuple(ENCODERS))
    tiny: bool = setting(False, "--tiny", help="the smaller model for real-time conversion", exclusive="size")
    micro: bool = setting(False, "--micro", help="a model small enough to train without a GPU", exclusive="size")
    vol_aug: bool = setting(False, "--vol_aug", help="volume embedding, and loudness augmentation")
    source_dir: str = setting(f"./{DATASET_DIR.as_posix()}", "--source_dir", help="one folder of wavs for each speaker")
    train_list: str = setting("./filelists/train.txt", "--train_list", help="list of training clips to write")
    val_list: str = setting("./filelists/val.txt", "--val_list", help="list of validation clips to write")
    config: Path = setting(CONFIG_PATH, "--config", help="config to write")
    diffusion_config: Path = setting(DIFFUSION_CONFIG_PATH, "--diffusion_config", help="diffusion config to write")
    model: str = setting("44k", "-m", "--model", help="the diffusion model will be in logs/<model>/diffusion")
    seed: int = setting(1234, "--seed", help="decides which clips validate")
    speakers: tuple[str, ...] = setting(
        (), "--speakers", help="only these folders; default: all", many=True, metavar="NAME"
    )


@dataclass(frozen=True)
class FeatureOptions:
    """Step 3: which features are made, with what."""

    f0_predictor: str = setting("rmvpe", "--f0_predictor", help="f0 predictor", choices=tuple(PREDICTORS))
    f0_min: float = setting(50.0, "--f0_min", help="lowest f0 looked for, Hz")
    f0_max: float = setting(1100.0, "--f0_max", help="highest f0 looked for, Hz")
    num_processes: int = setting(1, "--num_processes", help="worker processes; 0 is one a core")
    device: str | None = setting(
        None, "-d", "--device", help="such as cpu, cuda:0 or mps; by default all GPUs, else the CPU"
    )
    in_dir: Path = setting(DATASET_DIR, "--in_dir", help="one folder of wavs a speaker")
    config: Path = setting(CONFIG_PATH, "-c", "--config", help="names the encoder")
    use_diff: bool = setting(False, "--use_diff", help="also make what train_diff.py needs")
    diffusion_config: Path = setting(DIFFUSION_CONFIG_PATH, "--diffusion_config", help="names the vocoder")
