"""The networks of a conversion in torch: loaded from a user's files, checked against each other, called with arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import models
from cluster import kmeans
from diffusion.unit2mel import Unit2Mel, load_unit2mel
from modules import checkpoint
from modules.config import (
    Config,
    DiffusionConfig,
    check_same_features,
    load_config,
    load_diffusion_config,
    parse_config,
)
from modules.devices import DTYPES, fastest_dtype, forget_convolution_lengths, pick_device
from modules.errors import UserError
from modules.f0 import F0Predictor, cached_predictor
from modules.f0.rests import HUMMING_DECODERS
from modules.inference.options import ModelOptions, is_cluster_file
from modules.inference.voice import Generator, Network, Speaker, UnitBlender
from modules.progress import bar_on_terminal
from vdecoder.mel_vocoder import MelVocoder, resample
from vencoder import get_encoder
from vencoder.encoder import SpeechEncoder

ENHANCER = Path("pretrain/nsf_hifigan/model")


def seeded(seed: int, device: torch.device) -> torch.Generator:
    """The random numbers of one network in one window; nothing draws from torch's global ones."""
    return torch.Generator(device).manual_seed(seed)


@dataclass
class TorchEncoder:
    """A speech encoder, see modules.inference.voice.Encoder."""

    encoder: SpeechEncoder

    def encode(self, audio: np.ndarray) -> np.ndarray:
        """Units [F, dim] of audio [n] at 16 kHz."""
        return self.encoder.encode(torch.from_numpy(audio))[0].T.float().cpu().numpy()


class TorchGenerator:
    """A synthesiser, see modules.inference.voice.Generator.

    Args:
        model: prepared for inference on ``device``.
    """

    def __init__(self, config: Config, model: models.SynthesizerTrn, device: torch.device) -> None:
        self.config, self.model, self.device = config, model, device
        self.sample_rate, self.hop_length = config.data.sampling_rate, config.data.hop_length
        self.speakers, self.n_speakers = dict(config.spk), config.model.n_speakers
        self.unit_mode: str = config.data.unit_interpolate_mode
        self.takes_volume = config.model.vol_embedding
        self.hums_in_rests = config.model.vocoder_name in HUMMING_DECODERS

    def check_f0_decoder(self) -> None:
        """All that there is of it lies in the model."""

    def infer(
        self,
        units: np.ndarray,
        f0: np.ndarray,
        uv: np.ndarray,
        speaker: Speaker,
        volume: np.ndarray | None,
        *,
        noise_scale: float,
        predict_f0: bool,
        seed: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """See modules.inference.voice.Generator."""
        row = partial(as_row, device=self.device)
        audio, used_f0 = self.model.infer(
            row(units.T),
            row(f0),
            row(uv),
            as_speaker(speaker, self.device),
            volume=None if volume is None else row(volume),
            noise_scale=noise_scale,
            predict_f0=predict_f0,
            seed=seed,
        )
        return audio[0, 0].float().cpu().numpy(), used_f0[0].cpu().numpy()


class TorchVocoder:
    """A stand-alone vocoder, see modules.inference.voice.Vocoder."""

    def __init__(self, vocoder: MelVocoder) -> None:
        self.vocoder = vocoder
        self.sample_rate = vocoder.config.sampling_rate

    def resample(self, audio: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
        """Audio [ceil(n * to_rate / from_rate)] of audio [n]."""
        if from_rate == to_rate:
            return audio
        return resample(as_row(audio, self.vocoder.device), from_rate, to_rate)[0].cpu().numpy()

    def extract(self, audio: np.ndarray) -> np.ndarray:
        """Log mel [T, M] of audio [n]."""
        return self.vocoder.extract(as_row(audio, self.vocoder.device), self.sample_rate)[0].cpu().numpy()

    def synthesise(self, mel: np.ndarray, f0: np.ndarray, seed: int) -> np.ndarray:
        """Audio [T * hop] of log mel [T, M] and f0 [T] in Hz."""
        device = self.vocoder.device
        audio = self.vocoder.synthesise(as_row(mel, device), as_row(f0, device), seeded(seed, device))
        return audio[0, 0].float().cpu().numpy()


class TorchMelModel:
    """A diffusion model and its vocoder on one device, see modules.inference.voice.MelModel."""

    def __init__(self, config: DiffusionConfig, model: Unit2Mel, vocoder: MelVocoder) -> None:
        self.config, self.model, self.vocoder = config, model, vocoder
        self.sample_rate, self.hop_length = config.data.sampling_rate, config.data.block_size
        self.speakers, self.n_speakers = dict(config.spk), config.model.n_spk
        self.unit_mode: str = config.data.unit_interpolate_mode
        self.timesteps, self.k_step_max = model.timesteps, model.k_step_max

    def infer(
        self,
        units: np.ndarray,
        f0: np.ndarray,
        volume: np.ndarray,
        speaker: Speaker,
        *,
        seed: int,
        source: np.ndarray | None = None,
        k_step: int = 1,
    ) -> np.ndarray:
        """See modules.inference.voice.MelModel."""
        device = self.vocoder.device
        row, generator = partial(as_row, device=device), seeded(seed, device)
        mel = self.model.infer(
            row(units),
            row(f0)[..., None],
            row(volume)[..., None],
            as_speaker(speaker, device),
            source_mel=None if source is None else self.vocoder.extract(row(source), self.sample_rate),
            k_step=k_step,
            speedup=self.config.infer.speedup,
            method=self.config.infer.method,
            generator=generator,
            track=partial(bar_on_terminal, description="diffusion"),
        )
        return self.vocoder.synthesise(mel, row(f0), generator)[0, 0].float().cpu().numpy()

    def unknown_speaker(self, name: str) -> UserError:
        """See modules.inference.voice.MelModel."""
        return UserError(
            f"the diffusion model was not trained on {name}; it knows {', '.join(self.config.spk)}",
            "--diffusion_config_path, key spk",
            "use the diffusion model of this voice, or name the speaker alike in both configs",
        )


def as_row(values: np.ndarray, device: torch.device) -> Tensor:
    """A batch of one, float32 [1, ...]."""
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(device)[None]


def as_speaker(speaker: Speaker, device: torch.device) -> Tensor:
    """An id as int64 [1], weights as float32 [T, n_speakers]."""
    return torch.tensor([speaker], device=device) if isinstance(speaker, int) else as_row(speaker, device)[0]


@dataclass
class CentreBlender:
    """K-means centres, which know speakers by name, see modules.inference.voice.UnitBlender."""

    centres: kmeans.Centres
    speakers: Mapping[str, int]

    def blend(self, units: np.ndarray, speaker: int, ratio: float) -> np.ndarray:
        """Towards the nearest centres of the speaker."""
        names = {speaker_id: name for name, speaker_id in self.speakers.items()}
        return self.centres.blend(units, names.get(speaker, str(speaker)), ratio)


class IndexBlender:
    """A feature index, see modules.inference.voice.UnitBlender."""

    def __init__(self, path: Path, speakers: Mapping[str, int]) -> None:
        from cluster import retrieval

        self.path, self.speakers = path, speakers
        self.indexes = retrieval.load(path)
        retrieval.check_speakers(self.indexes, speakers, path)

    def blend(self, units: np.ndarray, speaker: int, ratio: float) -> np.ndarray:
        """Towards the nearest frames of the speaker's recordings."""
        if speaker not in self.indexes:
            name = next((name for name, speaker_id in self.speakers.items() if speaker_id == speaker), "nameless")
            known = ", ".join(str(key) for key in self.indexes)
            raise UserError(
                f"the feature index has no speaker {speaker} ({name}); it has {known}",
                self.path,
                "make it anew with train_index.py, or use --cluster_infer_ratio 0",
            )
        return self.indexes[speaker].blend(units, ratio)


class TorchNetworks:
    """Loads what the options name, see modules.inference.voice.Networks.

    Args:
        pretrain_dir: where encoders and the enhancer's vocoder are.
    """

    watches_range = True

    def __init__(self, options: ModelOptions, pretrain_dir: Path = Path("pretrain")) -> None:
        forget_convolution_lengths()
        self.options, self.pretrain_dir = options, pretrain_dir
        self.torch_device = pick_device(options.device)
        self.device = str(self.torch_device)

    def load_generator(self) -> tuple[TorchEncoder, TorchGenerator]:
        """The model and the encoder of its config."""
        options = self.options
        config, weights = read_model(options)
        model = models.build(config, with_posterior=False)
        checkpoint.load_into(model, weights, options.model_path, ignore=("enc_q.",))
        del weights
        model = models.prepare_for_inference(model, self.torch_device, options.precision)
        where = f"{options.config_path}, keys model.speech_encoder, model.ssl_dim"
        encoder = self._load_encoder(config.model.speech_encoder, config.model.ssl_dim, where)
        return encoder, TorchGenerator(config, model, self.torch_device)

    def load_diffusion(self) -> tuple[TorchEncoder, TorchMelModel]:
        """The diffusion model and the encoder of its config."""
        mel_model = self._load_mel_model()
        data = mel_model.config.data
        where = f"{self.options.diffusion_config_path}, keys data.encoder, data.encoder_out_channels"
        return self._load_encoder(data.encoder, data.encoder_out_channels, where), mel_model

    def load_shallow_diffusion(self, generator: Generator) -> TorchMelModel:
        """The diffusion model; it has to take the units and frames of the generator."""
        assert isinstance(generator, TorchGenerator)
        mel_model = self._load_mel_model()
        check_same_features(generator.config, mel_model.config, self.options.diffusion_config_path)
        return mel_model

    def load_enhancer(self, network: Network) -> TorchVocoder:
        """The vocoder under pretrain/."""
        vocoder = self._load_vocoder(ENHANCER, "nsf-hifigan")
        check_frames(vocoder, network.sample_rate, network.hop_length, ENHANCER)
        return TorchVocoder(vocoder)

    def load_blender(self, speakers: Mapping[str, int], retrieval: bool) -> UnitBlender:
        """The file that the options name, or the default one."""
        path = self.options.cluster_path()
        if not is_cluster_file(path):
            raise self.options.no_cluster_file()
        if not retrieval and (path.suffix == ".pkl" or path.is_dir()):
            raise UserError("a feature index is no file of k-means centres", path, "add --feature_retrieval (-fr)")
        return IndexBlender(path, speakers) if retrieval else CentreBlender(kmeans.load(path), speakers)

    def get_predictor(self, name: str, **settings: object) -> F0Predictor:
        """A predictor that stays loaded."""
        return cached_predictor(name, **settings)

    def _load_encoder(self, name: str, width: int, where: str) -> TorchEncoder:
        encoder = get_encoder(
            name,
            device=self.device,
            pretrain_dir=self.pretrain_dir,
            precision="fp32" if self.options.precision == "fp32" else "auto",
        )
        if encoder.width != width:
            raise UserError(
                f"{name} gives {encoder.width} channels, the model takes {width}",
                where,
                "write the encoder that the model was trained with into the config",
            )
        return TorchEncoder(encoder)

    def _load_mel_model(self) -> TorchMelModel:
        options = self.options
        for path, flag in ((options.diffusion_config_path, "-dc"), (options.diffusion_model_path, "-dm")):
            if not path.is_file():
                raise UserError(
                    "there is no such diffusion file", path, f"train with train_diff.py, or give it with {flag}"
                )
        config = load_diffusion_config(options.diffusion_config_path)
        model = load_unit2mel(options.diffusion_model_path, config, self.torch_device, options.precision)
        vocoder = self._load_vocoder(Path(config.vocoder.ckpt), config.vocoder.type)
        check_frames(vocoder, config.data.sampling_rate, config.data.block_size, options.diffusion_config_path)
        return TorchMelModel(config, model, vocoder)

    def _load_vocoder(self, path: Path, kind: str) -> MelVocoder:
        """The vocoder at ``path``; where that is under pretrain/, which may lie elsewhere, it is looked for there."""
        elsewhere = self.pretrain_dir.joinpath(*path.parts[1:])
        if not path.is_file() and path.parts[0] == "pretrain" and elsewhere.is_file():
            path = elsewhere
        vocoder = MelVocoder.load(path, kind, self.torch_device)
        automatic = self.options.precision == "auto"  # a decoder like the model's own, which bears the same
        dtype = fastest_dtype(self.torch_device) if automatic else DTYPES[self.options.precision]
        vocoder.generator.set_precision(dtype)
        return vocoder


def check_frames(vocoder: MelVocoder, sample_rate: int, hop_length: int, config_path: Path) -> None:
    """Refuse a vocoder that works at another rate or hop than the model's config says. Raises UserError."""
    rate, hop = vocoder.config.sampling_rate, vocoder.config.hop_size
    if (rate, hop) != (sample_rate, hop_length):
        raise UserError(
            f"the vocoder works at {rate} Hz with a hop of {hop}, the model at {sample_rate} Hz with {hop_length}",
            config_path,
            "use a vocoder that fits the model",
        )


def read_model(options: ModelOptions) -> tuple[Config, dict[str, Tensor]]:
    """The config, from its file or from a .safetensors model that carries it, and the weights."""
    if not options.model_path.is_file():
        raise UserError("there is no such model", options.model_path, "give the path of a G_<step>.pth with -m")
    is_safetensors = options.model_path.suffix == ".safetensors"
    embedded = checkpoint.safetensors_metadata(options.model_path).get("config") if is_safetensors else None
    if embedded is not None and options.config_path == ModelOptions().config_path:
        config = parse_config(embedded, options.model_path)
    else:
        config = load_config(options.config_path)
    return config, checkpoint.generator_state(options.model_path)
