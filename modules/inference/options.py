"""Every setting of a conversion, its default, its flag and its range: the one place CLI and web page read.

Importing this module is cheap: no torch, no numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modules.errors import UserError
from modules.f0 import PREDICTORS
from modules.options import check, setting

WAV_FORMATS = ("flac", "wav", "mp3", "ogg")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
MIN_CLIP_SECONDS = 0.5
DEFAULT_KMEANS = Path("logs/44k/kmeans_10000.pt")
DEFAULT_INDEX = Path("logs/44k/feature_and_index.pkl")


def is_cluster_file(path: Path) -> bool:
    """Whether k-means centres or an index lie there; our index is a folder, and goes by its name with .pkl too."""
    return path.exists() or (path.suffix == ".pkl" and path.with_suffix("").is_dir())


@dataclass(frozen=True)
class ModelOptions:
    """What is loaded once and then converts many songs."""

    model_path: Path = setting(
        Path("logs/44k/G_37600.pth"),
        "-m",
        "--model_path",
        help="the model: G_<step>.pth, released or .safetensors; base is the one that comes along, in pretrain/base",
    )
    config_path: Path = setting(
        Path("logs/44k/config.json"),
        "-c",
        "--config_path",
        help="the config of the model; not needed where a .safetensors file carries it",
    )
    onnx: Path | None = setting(
        None, "--onnx", help="folder of onnx_export.py: convert with its graphs, without torch; -m and -c are not read"
    )
    device: str | None = setting(None, "-d", "--device", help="cpu, cuda, cuda:1, mps; the best there is if absent")
    precision: str = setting(
        "auto",
        "--precision",
        help="number format of the networks; auto takes what is fast and good",
        choices=PRECISIONS,
    )
    cluster_model_path: Path | None = setting(
        None,
        "-cm",
        "--cluster_model_path",
        help=f"k-means centres or, with -fr, retrieval index; if absent {DEFAULT_KMEANS.name} or {DEFAULT_INDEX.name} "
        f"beside the model, else in {DEFAULT_INDEX.parent}",
    )
    feature_retrieval: bool = setting(
        False, "-fr", "--feature_retrieval", help="blend with retrieved features instead of k-means centres"
    )
    shallow_diffusion: bool = setting(
        False, "-shd", "--shallow_diffusion", help="refine the result by shallow diffusion; switches -eh off"
    )
    only_diffusion: bool = setting(False, "-od", "--only_diffusion", help="use the diffusion model alone")
    diffusion_model_path: Path = setting(
        Path("logs/44k/diffusion/model_0.pt"), "-dm", "--diffusion_model_path", help="the diffusion model"
    )
    diffusion_config_path: Path = setting(
        Path("logs/44k/diffusion/config.yaml"), "-dc", "--diffusion_config_path", help="its config"
    )
    enhance: bool = setting(False, "-eh", "--enhance", help="run the NSF-HiFiGAN enhancer over the result")

    def cluster_path(self) -> Path:
        """The k-means centres or the retrieval index: the one given, that beside the model, or the original's place."""
        if self.cluster_model_path is not None:
            return self.cluster_model_path
        default = DEFAULT_INDEX if self.feature_retrieval else DEFAULT_KMEANS
        beside = self.model_path.with_name(default.name)
        return beside if is_cluster_file(beside) else default

    def no_cluster_file(self) -> UserError:
        """What to tell the user where ``cluster_path`` is none."""
        kind = "feature index" if self.feature_retrieval else "file of k-means centres"
        fix = "make it with train_index.py" if self.feature_retrieval else "train it with cluster/train_cluster.py"
        where = str(self.cluster_path())
        if self.cluster_model_path is None and self.model_path.parent != self.cluster_path().parent:
            where = f"{self.model_path.parent}, {self.cluster_path()}"
        return UserError(f"there is no {kind}", where, f"{fix}, or give it with -cm")


@dataclass(frozen=True)
class InferenceOptions:
    """How one song is converted.

    Raises:
        UserError: from ``check``, naming the flag, the value and what it may be.
    """

    trans: float = setting(0.0, "-t", "--trans", help="pitch shift, semitones", low=-60.0, high=60.0)
    auto_predict_f0: bool = setting(
        False, "-a", "--auto_predict_f0", help="let the model predict the pitch; for speech, not for singing"
    )
    f0_predictor: str = setting("pm", "-f0p", "--f0_predictor", help="f0 predictor", choices=tuple(PREDICTORS))
    f0_filter_threshold: float | None = setting(
        None,
        "-ft",
        "--f0_filter_threshold",
        help="confidence below which crepe, rmvpe and fcpe say unvoiced; if absent what suits the predictor's "
        "weights, 0.05 for those of the original",
        low=0.0,
        high=1.0,
    )
    f0_min: float = setting(50.0, "--f0_min", help="lowest pitch looked for, Hz", low=10.0, high=4000.0)
    f0_max: float = setting(1100.0, "--f0_max", help="highest pitch looked for, Hz", low=10.0, high=4000.0)
    clip: float = setting(
        0.0, "-cl", "--clip", help="cut the song every so many seconds; 0 leaves it to the program", low=0.0
    )
    linear_gradient: float = setting(0.0, "-lg", "--linear_gradient", help="overlap of forced clips, seconds", low=0.0)
    linear_gradient_retain: float = setting(
        0.75, "-lgr", "--linear_gradient_retain", help="share of the overlap that is cross-faded", low=0.0, high=1.0
    )
    slice_db: float = setting(
        -40.0, "-sd", "--slice_db", help="quieter than this is silence, dB; -30 for noisy, -50 for breathy songs",
        low=-120.0, high=0.0,
    )  # fmt: skip
    pad_seconds: float = setting(
        0.5, "-p", "--pad_seconds", help="silence put around each piece and cut off again, seconds", low=0.0, high=10.0
    )
    noise_scale: float = setting(
        0.4, "-ns", "--noice_scale", help="how much the model varies articulation and timbre", low=0.0, high=10.0
    )
    loudness_envelope_adjustment: float = setting(
        1.0,
        "-lea",
        "--loudness_envelope_adjustment",
        help="0 keeps the loudness of the input, 1 that of the model",
        low=0.0,
        high=1.0,
    )
    cluster_infer_ratio: float = setting(
        0.0, "-cr", "--cluster_infer_ratio", help="share of k-means centres or retrieved features", low=0.0, high=1.0
    )
    k_step: int = setting(100, "-ks", "--k_step", help="steps of shallow diffusion", low=1)
    second_encoding: bool = setting(
        False, "-se", "--second_encoding", help="encode the result once more before shallow diffusion"
    )
    enhancer_adaptive_key: float = setting(
        0.0, "-eak", "--enhancer_adaptive_key", help="raises the range of the enhancer, semitones", low=-24, high=24
    )
    seed: int = setting(52468, "--seed", help="the same seed gives the same audio", low=0, high=2**63 - 1)

    def check(self) -> None:
        """Refuse values outside their range, each with a message that names the flag."""
        check(self)
        if self.f0_min >= self.f0_max:
            raise UserError(
                f"the pitch range {self.f0_min:g} to {self.f0_max:g} Hz is empty", "--f0_min, --f0_max", "swap them"
            )
        if 0 < self.clip < MIN_CLIP_SECONDS:
            raise UserError(f"clips of {self.clip:g} s are too short to convert", "--clip", "use 0 or 1 and more")
        if self.clip and self.linear_gradient > self.clip:
            raise UserError(
                f"clips of {self.clip:g} s cannot overlap by {self.linear_gradient:g} s",
                "--clip, --linear_gradient",
                "make the clips longer or the overlap shorter",
            )


def idle_flags(model: ModelOptions, conversion: InferenceOptions) -> list[str]:
    """What to tell the user of settings that change nothing, because the one that they belong to is off."""
    blending = conversion.cluster_infer_ratio > 0
    idle = {
        "--feature_retrieval": (model.feature_retrieval and not blending, "give a share with -cr, such as -cr 0.5"),
        "--cluster_model_path": (
            model.cluster_model_path is not None and not blending,
            "give a share with -cr, such as -cr 0.5",
        ),
        "--k_step": (conversion.k_step != InferenceOptions.k_step and not model.shallow_diffusion, "add -shd"),
        "--enhancer_adaptive_key": (
            conversion.enhancer_adaptive_key != 0 and (not model.enhance or model.shallow_diffusion),
            "use -eh, without -shd",
        ),
    }
    return [f"{flag} changes nothing so: {fix}" for flag, (is_idle, fix) in idle.items() if is_idle]
