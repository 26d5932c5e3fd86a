"""One model's export: which graphs are written where, and what the two JSON files say of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import models
from modules import checkpoint
from modules.config import Config, check_same_features, load_config, load_diffusion_config
from modules.errors import UserError
from modules.f0 import get_predictor
from modules.files import write_text
from modules.onnx.export.graph import Graph, export
from modules.onnx.manifest import DiffusionFacts, Facts, Manifest, PredictorFacts, VocoderFacts
from pretrain.weights import BY_NAME
from vencoder import get_encoder

PREDICTORS = ("rmvpe", "fcpe", "crepe")
SHARED_PARTS = ("encoder", *PREDICTORS, "mel", "vocoder")  # do not change with the model's weights


class Exporter:
    """Writes into root/NAME and root/NAME.json.

    Args:
        root: the folder of the models.
        name: of the model.
        pretrain_dir: where the pretrained weights are.
        half: decoders and encoders in float16, as torch has them on CUDA; inputs and outputs stay float32.

    Attributes:
        report: lines for the user.

    Raises:
        UserError: model.pth or config.json is missing, broken, or they do not belong together.
    """

    def __init__(self, root: Path, name: str, pretrain_dir: Path, half: bool = False) -> None:
        self.root, self.name, self.folder = root, name, root / name
        self.pretrain_dir, self.half = pretrain_dir, half
        self.report: list[str] = []
        self.config: Config = load_config(self.folder / "config.json")
        self.model = self._load_model()
        self.manifest = self._manifest()

    def export_generator(self) -> None:
        """NAME_SoVits.onnx, and the JSON that programs running such graphs read."""
        from modules.onnx.export.generator import generator_graph

        self._write("generator", f"{self.name}_SoVits.onnx", generator_graph(self.model))
        text = json.dumps(description(self.name, self.config), indent=2, ensure_ascii=False)
        write_text(self.root / f"{self.name}.json", text + "\n")

    def export_part(self, part: str, forgiving: bool = False) -> None:
        """One of the choices of --parts; ``forgiving`` reports what is not there and goes on."""
        try:
            self._export_part(part)
        except UserError as error:
            if not forgiving:
                raise
            self.report.append(f"left out {part}: {error}")

    def finish(self) -> None:
        """Write parts.json."""
        self.manifest.save(self.folder)

    def _export_part(self, part: str) -> None:
        exports: dict[str, Callable[[], None]] = {
            "encoder": self._export_encoder,
            "f0": self._export_predictors,
            **{name: partial(self._export_predictor, name) for name in PREDICTORS},
            "auto-f0": self._export_f0_decoder,
            "diffusion": self._export_diffusion,
            "vocoder": partial(self._export_vocoder, Path("pretrain/nsf_hifigan/model"), "nsf-hifigan"),
            "cluster": self._export_centres,
            "retrieval": self._export_index,
        }
        exports[part]()

    def _export_encoder(self) -> None:
        name = self.config.model.speech_encoder
        encoder = get_encoder(name, pretrain_dir=self.pretrain_dir, precision="fp32")
        if encoder.width != self.config.model.ssl_dim:
            raise UserError(
                f"{name} gives {encoder.width} channels, the model takes {self.config.model.ssl_dim}",
                f"{self.folder / 'config.json'}, keys model.speech_encoder, model.ssl_dim",
                "write the encoder that the model was trained with into the config",
            )
        from modules.onnx.export.encoders import encoder_graph

        self._write("encoder", f"{hubert_name(name)}.onnx", encoder_graph(encoder, self.half))

    def _export_predictors(self) -> None:
        for name in PREDICTORS:
            self.export_part(name, forgiving=True)

    def _export_predictor(self, name: str) -> None:
        from modules.onnx.export.pitch import pitch_graph

        data = self.config.data
        predictor = get_predictor(
            name, hop_length=data.hop_length, sample_rate=data.sampling_rate, pretrain_dir=self.pretrain_dir
        )
        facts = PredictorFacts(predictor.threshold, *predictor.reach)
        self._write(name, f"{name}.onnx", pitch_graph(predictor), facts)

    def _export_f0_decoder(self) -> None:
        if self.model.f0_decoder is None:
            raise UserError("the model cannot predict f0", self.folder / "config.json", "leave out --parts auto-f0")
        from modules.onnx.export.generator import f0_decoder_graph

        self._write("auto-f0", f"{self.name}_f0.onnx", f0_decoder_graph(self.model))

    def _export_diffusion(self) -> None:
        from diffusion.unit2mel import load_unit2mel
        from modules.onnx.export.diffusion import condition_graph, denoiser_graph

        config = load_diffusion_config(self.folder / "diffusion.yaml")
        check_same_features(self.config, config, self.folder / "diffusion.yaml")
        model = load_unit2mel(self._find("diffusion.pt"), config, precision="fp32")
        self._write("diffusion-condition", "diffusion_condition.onnx", condition_graph(model))
        self._write(
            "diffusion-denoiser",
            "diffusion_denoiser.onnx",
            denoiser_graph(model),
            DiffusionFacts(
                timesteps=model.timesteps,
                k_step_max=model.k_step_max,
                spec_min=float(model.decoder.spec_min),
                spec_max=float(model.decoder.spec_max),
                speedup=config.infer.speedup,
                method=config.infer.method,
                speakers=dict(config.spk),
                n_speakers=config.model.n_spk,
                unit_interpolate_mode=config.data.unit_interpolate_mode,
            ),
        )
        self._export_vocoder(Path(config.vocoder.ckpt), config.vocoder.type)

    def _export_vocoder(self, path: Path, kind: str) -> None:
        from modules.onnx.export.diffusion import mel_graph, vocoder_graph
        from vdecoder.mel_vocoder import MelVocoder

        elsewhere = self.pretrain_dir.joinpath(*path.parts[1:])
        vocoder = MelVocoder.load(elsewhere if not path.is_file() and elsewhere.is_file() else path, kind)
        if self.half:
            vocoder.generator.set_precision(torch.float16)
        facts = VocoderFacts(vocoder.config.sampling_rate, vocoder.config.hop_size)
        self._write("mel", "mel.onnx", mel_graph(vocoder.to_mel), facts)
        self._write("vocoder", "vocoder.onnx", vocoder_graph(vocoder), facts)

    def _export_centres(self) -> None:
        from modules.onnx.export.retrieval import export_centres

        self._copy("cluster", "kmeans.npz", self._find("kmeans_10000.pt"), export_centres)

    def _export_index(self) -> None:
        from modules.onnx.export.retrieval import export_index

        write = partial(export_index, speakers=self.config.spk)
        self._copy("retrieval", "retrieval.npz", self.folder / "feature_and_index.pkl", write)

    def _copy(self, part: str, file: str, source: Path, write: Callable[[Path, Path], int]) -> None:
        width = write(source, self.folder / file)
        if width != self.config.model.ssl_dim:
            (self.folder / file).unlink()
            raise UserError(
                f"the features are {width} wide, the model takes {self.config.model.ssl_dim}",
                source,
                "use the file that was made with this model's speech encoder",
            )
        self.manifest.parts[part] = file
        self.report.append(f"wrote {self.folder / file}: {(self.folder / file).stat().st_size / 1e6:.1f} MB")

    def _write(self, part: str, file: str, graph: Graph, facts: Facts | None = None) -> None:
        model = export(graph, self.folder / file)
        self.manifest.parts[part] = file
        self.manifest.facts.pop(part, None)
        if facts is not None:
            self.manifest.facts[part] = facts
        size = (self.folder / file).stat().st_size / 1e6
        self.report.append(f"wrote {self.folder / file}: {size:.1f} MB, {len(model.graph.node)} nodes")

    def _find(self, name: str) -> Path:
        """A file of the folder, or what pretrain convert made of it."""
        path = self.folder / name
        converted = path.with_suffix(".safetensors")
        return converted if converted.is_file() and not path.is_file() else path

    def _load_model(self) -> models.SynthesizerTrn:
        config, path = self.config, self._find("model.pth")
        if not path.is_file():
            raise UserError("there is no such model", path, "put the model there, as model.pth with its config.json")
        model = models.build(config, with_posterior=False)
        checkpoint.load_into(model, checkpoint.generator_state(path), path, ignore=("enc_q.",))
        return models.prepare_for_inference(model, "cpu", "fp16" if self.half else "fp32")

    def _manifest(self) -> Manifest:
        model, data = self.config.model, self.config.data
        manifest = Manifest(
            sampling_rate=data.sampling_rate,
            hop_length=data.hop_length,
            ssl_dim=model.ssl_dim,
            inter_channels=model.inter_channels,
            n_speakers=model.n_speakers,
            vol_embedding=model.vol_embedding,
            unit_interpolate_mode=data.unit_interpolate_mode,
            speech_encoder=model.speech_encoder,
            speakers=dict(self.config.spk),
            vocoder_name=model.vocoder_name,
        )
        try:
            before = Manifest.load(self.folder)
        except UserError:
            return manifest
        if before.speech_encoder == manifest.speech_encoder:
            kept = [name for name in SHARED_PARTS if (self.folder / before.parts.get(name, "-")).is_file()]
            manifest.parts = {name: before.parts[name] for name in kept}
            manifest.facts = {name: before.facts[name] for name in kept if name in before.facts}
        return manifest


def description(name: str, config: Config) -> dict[str, Any]:
    """What MoeVoiceStudio and its like read: NAME.json."""
    names = {speaker_id: speaker for speaker, speaker_id in config.spk.items()}
    return {
        "Folder": name,
        "Name": name,
        "Type": "SoVits",
        "Rate": config.data.sampling_rate,
        "Hop": config.data.hop_length,
        "Hubert": hubert_name(config.model.speech_encoder),
        "SoVits4": True,
        "SoVits3": False,
        "CharaMix": config.model.n_speakers > 1,
        "Volume": config.model.vol_embedding,
        "HiddenSize": config.model.ssl_dim,
        "Characters": [names.get(index, str(index)) for index in range(config.model.n_speakers)],
        "Cluster": "",
    }


def hubert_name(encoder: str) -> str:
    """The name of an encoder's ONNX file without its ending: that of the published file where there is one."""
    published = encoder if encoder.endswith("-onnx") else f"{encoder}-onnx"
    return Path(BY_NAME[published].file).stem if published in BY_NAME else encoder
