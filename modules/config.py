"""config.json and diffusion.yaml as typed objects: read, check, write.

Keys, types and defaults are those of so-vits-svc 4.0 and 4.1. Unknown keys are kept; a key that looks like a
misspelt one is reported. A wrong type or value names the file, the key, what is there and what may be there.
"""

from __future__ import annotations

import difflib
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Protocol, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from modules.errors import UserError
from modules.files import write_text
from modules.text_formats import parse_json, parse_yaml, read_text

Positive = Annotated[int, Field(gt=0, le=2**31)]
Size = Annotated[int, Field(gt=0, le=2**16)]  # of a network's parts: more is a slip, and would take all memory there is
Count = Annotated[int, Field(gt=0, le=256)]  # of layers and heads
Sizes = Annotated[list[Size], Field(min_length=1, max_length=16)]
Share = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
# null for a switch is off, as so-vits-svc 4.1 reads it
Switch = Annotated[bool, BeforeValidator(lambda value: False if value is None else value)]
InterpolateMode = Literal["left", "nearest", "linear"]


class Section(BaseModel):
    """A part of a config file; unknown keys are kept and written back."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())


class TrainSection(Section):
    """How train.py trains."""

    log_interval: Positive = 200
    eval_interval: Positive = 800
    seed: Seed = 1234
    epochs: Positive = 10000
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    betas: tuple[Share, Share] = (0.8, 0.99)
    eps: float = 1e-9
    batch_size: Positive = 6
    fp16_run: Switch = False
    half_type: Literal["fp16", "bf16"] = "fp16"
    lr_decay: float = 0.999875
    segment_size: Positive = 10240
    init_lr_ratio: float = 1
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    c_mel: float = 45
    c_kl: float = 1.0
    use_sr: Switch = True
    max_speclen: Positive = 512
    port: str | int = "8001"
    keep_ckpts: Annotated[int, Field(ge=0)] = 3
    all_in_mem: Switch = False
    vol_aug: Switch = False
    # Ours: the steps before the discriminators take part; without them a step takes two thirds of the time.
    adversarial_after: Annotated[int, Field(ge=0)] = 0


class DataSection(Section):
    """Which audio, and its spectrogram and mel."""

    training_files: str = "filelists/train.txt"
    validation_files: str = "filelists/val.txt"
    max_wav_value: float = 32768.0
    sampling_rate: Positive = 44100
    filter_length: Positive = 2048
    hop_length: Positive = 512
    win_length: Positive = 2048
    n_mel_channels: Positive = 80
    mel_fmin: float = 0.0
    mel_fmax: float | None = 22050.0
    unit_interpolate_mode: InterpolateMode = "left"  # what a 4.0 config without the key means


class ModelSection(Section):
    """The sizes and variants of SynthesizerTrn."""

    inter_channels: Size = 192
    hidden_channels: Size = 192
    filter_channels: Size = 768
    n_heads: Count = 2
    n_layers: Count = 6
    kernel_size: Size = 3
    p_dropout: Share = 0.1
    resblock: str = "1"
    resblock_kernel_sizes: Sizes = [3, 7, 11]
    resblock_dilation_sizes: Annotated[list[Sizes], Field(min_length=1, max_length=16)] = [[1, 3, 5]] * 3
    upsample_rates: Sizes = [8, 8, 2, 2, 2]
    upsample_initial_channel: Size = 512
    upsample_kernel_sizes: Sizes = [16, 16, 4, 4, 4]
    n_layers_q: Count = 3
    n_layers_trans_flow: Count = 3
    n_flow_layer: Count = 4  # couplings of a transformer flow; else layers of the WaveNet in each of four couplings
    use_spectral_norm: Switch = False
    gin_channels: Size = 768
    ssl_dim: Size = 768
    n_speakers: Annotated[int, Field(gt=0, le=100_000)] = 200
    vocoder_name: Literal["nsf-hifigan", "nsf-snake-hifigan", "nsf-istft"] = "nsf-hifigan"
    speech_encoder: str = "vec768l12"
    speaker_embedding: Switch = False
    vol_embedding: Switch = False
    use_depthwise_conv: Switch = False
    flow_share_parameter: Switch = False
    use_automatic_f0_prediction: Switch = True
    use_transformer_flow: Switch = False
    # Ours: the width of the discriminators relative to the published ones, for training without a GPU.
    discriminator_width: Annotated[float, Field(gt=0, le=1)] = 1.0

    @model_validator(mode="before")
    @classmethod
    def _name_the_encoder_of_4_0(cls, values: Any) -> Any:
        if isinstance(values, dict) and "speech_encoder" not in values:
            encoder = "vec256l9" if values.get("ssl_dim") == 256 else "vec768l12"
            values = {**values, "speech_encoder": encoder}
        return values


Speakers = dict[str, Annotated[int, Field(ge=0, le=100_000)]]


class Config(Section):
    """A whole config.json."""

    train: TrainSection = Field(default_factory=TrainSection)
    data: DataSection = Field(default_factory=DataSection)
    model: ModelSection = Field(default_factory=ModelSection)
    spk: Speakers = Field(default_factory=dict)

    @property
    def spec_channels(self) -> int:
        """Bins of the linear spectrogram."""
        return self.data.filter_length // 2 + 1

    @property
    def segment_frames(self) -> int:
        """Frames of the slice that the decoder sees in training."""
        return self.train.segment_size // self.data.hop_length

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_text(path, self.to_json())

    def to_json(self) -> str:
        """The text of the config file."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"


class DiffusionData(Section):
    """Which audio and which units the diffusion model sees."""

    sampling_rate: Positive = 44100
    block_size: Positive = 512  # hop, samples
    duration: Annotated[float, Field(gt=0)] = 2  # seconds
    encoder: str = "vec768l12"
    cnhubertsoft_gate: float = 10
    encoder_sample_rate: Positive = 16000
    encoder_hop_size: Positive = 320
    encoder_out_channels: Positive = 768
    training_files: str = "filelists/train.txt"
    validation_files: str = "filelists/val.txt"
    extensions: list[str] = ["wav"]
    unit_interpolate_mode: InterpolateMode = "left"


class DiffusionModel(Section):
    """The sizes of Unit2Mel."""

    type: str = "Diffusion"
    n_layers: Count = 20
    n_chans: Size = 512
    n_hidden: Size = 256
    use_pitch_aug: Switch = True
    timesteps: Positive = 1000
    k_step_max: Annotated[int, Field(ge=0)] = 0
    n_spk: Annotated[int, Field(gt=0, le=100_000)] = 1


class DiffusionVocoder(Section):
    """The vocoder that turns the mel into audio."""

    type: Literal["nsf-hifigan", "nsf-hifigan-log10"] = "nsf-hifigan"
    ckpt: str = "pretrain/nsf_hifigan/model"


class DiffusionInfer(Section):
    """The sampler."""

    speedup: Positive = 10
    method: Literal["ddim", "pndm", "dpm-solver", "dpm-solver++", "unipc"] | None = "dpm-solver++"


class DiffusionEnv(Section):
    """Where checkpoints go and which GPU is used."""

    expdir: str = "logs/44k/diffusion"
    gpu_id: int = 0


class DiffusionTrain(Section):
    """How train_diff.py trains."""

    num_workers: Annotated[int, Field(ge=0)] = 4
    amp_dtype: Literal["fp32", "fp16", "bf16"] = "fp32"
    batch_size: Positive = 48
    cache_all_data: Switch = True
    cache_device: str = "cpu"
    cache_fp16: Switch = True
    epochs: Positive = 100000
    interval_log: Positive = 10
    interval_val: Positive = 2000
    interval_force_save: Positive = 5000
    lr: Annotated[float, Field(gt=0)] = 1e-4
    decay_step: Positive = 100000
    gamma: float = 0.5
    weight_decay: float = 0
    save_opt: Switch = False
    seed: Seed = 1234  # ours: the same seed draws the same batches and steps


class DiffusionConfig(Section):
    """A whole diffusion.yaml."""

    data: DiffusionData = Field(default_factory=DiffusionData)
    model: DiffusionModel = Field(default_factory=DiffusionModel)
    device: str = "cuda"
    vocoder: DiffusionVocoder = Field(default_factory=DiffusionVocoder)
    infer: DiffusionInfer = Field(default_factory=DiffusionInfer)
    env: DiffusionEnv = Field(default_factory=DiffusionEnv)
    train: DiffusionTrain = Field(default_factory=DiffusionTrain)
    spk: Speakers = Field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write as YAML, atomically."""
        text = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        write_text(path, text)


AnyConfig = TypeVar("AnyConfig", Config, DiffusionConfig)


def load_config(path: str | Path) -> Config:
    """Read config.json. Raises UserError naming the file and the key."""
    return parse_config(_read_text(path), path)


def parse_config(text: str, source: object) -> Config:
    """A Config from JSON text; ``source`` is named in errors."""
    try:
        values = parse_json(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"not valid JSON: {error.msg}", f"{source}, line {error.lineno}", "mend the file or make it anew"
        ) from None
    except ValueError as error:
        raise UserError(f"not valid JSON: {error}", source, "mend the file or make it anew") from None
    return _validate(Config, values, source)


def load_diffusion_config(path: str | Path) -> DiffusionConfig:
    """Read diffusion.yaml. Raises UserError naming the file and the key."""
    try:
        values = parse_yaml(_read_text(path))
    except ValueError as error:
        raise UserError(f"not valid YAML: {error}", path, "mend the file or make it anew") from None
    return _validate(DiffusionConfig, values, path)


def check_same_features(config: Config, diffusion: DiffusionConfig, path: Path) -> None:
    """Refuse a diffusion model that takes other units or frames than the generator whose audio it is to refine.

    Args:
        path: of the diffusion model's config.

    Raises:
        UserError: names the first key that differs.
    """
    pairs = {
        "data.encoder": (diffusion.data.encoder, config.model.speech_encoder),
        "data.encoder_out_channels": (diffusion.data.encoder_out_channels, config.model.ssl_dim),
        "data.sampling_rate": (diffusion.data.sampling_rate, config.data.sampling_rate),
        "data.block_size": (diffusion.data.block_size, config.data.hop_length),
    }
    for key, (own, other) in pairs.items():
        if own != other:
            raise UserError(
                f"the diffusion model has {own}, the voice model {other}",
                f"{path}, key {key}",
                "use the two models of one voice, made with the same encoder",
            )


def _read_text(path: str | Path) -> str:
    fix = "give the path of an existing config; preprocess_flist_config.py makes a new one"
    return read_text(path, "config file", fix)


def _validate(kind: type[AnyConfig], values: Any, source: object) -> AnyConfig:
    if not isinstance(values, dict):
        raise UserError(f"the config holds a {type(values).__name__}, not sections", source, "make it anew")
    try:
        config = kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{first['msg']}; found {first['input']!r}", f"{source}, key {key}", "change it") from None
    if isinstance(config, Config):
        for misfit in _misfits(config):
            raise UserError(misfit.what, f"{source}, key {misfit.key}", "change it, or take the config of this model")
    _warn_of_misspelt_keys(config, source)
    return config


class _Misfit(NamedTuple):
    """Two values of a config that cannot go together."""

    key: str
    what: str


def _misfits(config: Config) -> Iterator[_Misfit]:
    """Sizes that make no network, or one that trains on nothing."""
    data, model = config.data, config.model
    if data.win_length > data.filter_length:
        what = f"a window of {data.win_length} in a transform of {data.filter_length} samples"
        yield _Misfit("data.win_length", what)
    if data.hop_length > data.win_length:
        yield _Misfit("data.hop_length", f"a hop of {data.hop_length} leaps over windows of {data.win_length} samples")
    if model.hidden_channels % model.n_heads:
        yield _Misfit("model.n_heads", f"{model.n_heads} heads cannot share {model.hidden_channels} hidden_channels")
    if model.inter_channels % 2:
        yield _Misfit("model.inter_channels", f"{model.inter_channels} is odd; the flow takes it in halves")
    least = max(data.hop_length, (data.filter_length - data.hop_length) // 2 + 1)
    if config.train.segment_size < least:
        what = f"segments of {config.train.segment_size} samples are shorter than the {least} that a mel needs"
        yield _Misfit("train.segment_size", what)
    if model.vocoder_name != "nsf-istft":
        for misfit in decoder_misfits(model, data.hop_length, "data.hop_length"):
            yield _Misfit(f"model.{misfit.key}", misfit.what)


class DecoderShape(Protocol):
    """The sizes of a decoder that upsamples in stages."""

    @property
    def upsample_rates(self) -> Sequence[int]: ...
    @property
    def upsample_kernel_sizes(self) -> Sequence[int]: ...
    @property
    def upsample_initial_channel(self) -> int: ...
    @property
    def resblock_kernel_sizes(self) -> Sequence[int]: ...
    @property
    def resblock_dilation_sizes(self) -> Sequence[Sequence[int]]: ...


def decoder_misfits(model: DecoderShape, hop_length: int, hop_key: str) -> Iterator[_Misfit]:
    """Sizes of a decoder that cannot go together, by their keys."""
    rates, kernels = model.upsample_rates, model.upsample_kernel_sizes
    if math.prod(rates) != hop_length:
        what = f"{' x '.join(map(str, rates))} is {math.prod(rates)}, and {hop_key} {hop_length}"
        yield _Misfit("upsample_rates", what)
    if len(kernels) != len(rates):
        yield _Misfit("upsample_kernel_sizes", f"{len(kernels)} sizes for {len(rates)} upsample_rates")
    if model.upsample_initial_channel < 2 ** len(rates):
        what = f"{model.upsample_initial_channel} channels cannot be halved {len(rates)} times"
        yield _Misfit("upsample_initial_channel", what)
    for kernel, rate in zip(kernels, rates, strict=False):
        if kernel < rate or (kernel - rate) % 2:
            yield _Misfit("upsample_kernel_sizes", f"{kernel} does not go with the rate {rate}")
    if len(model.resblock_dilation_sizes) != len(model.resblock_kernel_sizes):
        what = f"{len(model.resblock_dilation_sizes)} lists for {len(model.resblock_kernel_sizes)} kernel sizes"
        yield _Misfit("resblock_dilation_sizes", what)
    for kernel in model.resblock_kernel_sizes:
        if kernel % 2 == 0:
            yield _Misfit("resblock_kernel_sizes", f"{kernel} is even, which has no middle")


def _warn_of_misspelt_keys(config: Section, source: object, prefix: str = "") -> None:
    known = list(type(config).model_fields)
    for key in config.model_extra or {}:
        close = difflib.get_close_matches(key, [name for name in known if name not in config.model_fields_set])
        if close:
            print(f"warning: {source}: unknown key {prefix}{key}; did you mean {prefix}{close[0]}?", file=sys.stderr)
    for name in known:
        section = getattr(config, name)
        if isinstance(section, Section):
            _warn_of_misspelt_keys(section, source, f"{prefix}{name}.")
