"""The readers that scripts/fuzz.py tries, with valid files for each: those of the tests, small and seeded."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Reader:
    """A reader and its valid files.

    Attributes:
        seeds: writes valid files into a folder.
        read: reads one of them, or a mutated one in its place, as the programs do.
    """

    seeds: Callable[[Path], list[Path]]
    read: Callable[[Path], Any]


def _write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


# --- models


def _models(folder: Path) -> list[Path]:
    import torch

    import models
    from modules import checkpoint
    from tests.tiny_voice import tiny_config

    config = tiny_config()
    config.save(folder / "config.json")
    generator = models.build(config)
    optimizer = torch.optim.AdamW(generator.parameters())
    torch.stack([weights.sum() for weights in generator.parameters()]).sum().backward()
    optimizer.step()
    content = {"model": generator.state_dict(), "iteration": 1, "optimizer": optimizer.state_dict()}
    paths = [folder / "G_1.pth", folder / "legacy.pth", folder / "G_1.safetensors"]
    checkpoint.save(content, paths[0])
    torch.save(content, paths[1], _use_new_zipfile_serialization=False)
    checkpoint.save_safetensors(generator.state_dict(), paths[2], {"config": config.to_json()})
    return paths


def _read_model(path: Path) -> None:
    import torch

    import models
    from modules import checkpoint
    from modules.config import load_config, parse_config
    from modules.training.resume import load_optimizer, optimizer_incompatibility

    content = checkpoint.load(path)
    state = checkpoint.model_state(content, path)
    config = load_config(path.parent / "config.json")
    if path.suffix == ".safetensors":
        config = parse_config(checkpoint.safetensors_metadata(path).get("config", ""), path)
    generator = models.build(config)
    checkpoint.load_into(generator, state, path, strict=False)
    if isinstance(content, dict) and isinstance(content.get("optimizer"), dict):
        optimizer = torch.optim.AdamW(generator.parameters())
        if optimizer_incompatibility(optimizer, content["optimizer"]) is None:
            load_optimizer(optimizer, content["optimizer"])


# --- encoders and f0 predictors


def _encoder_files(folder: Path) -> list[Path]:
    from tests import encoder_files as files

    meta, _, manifest, _ = files.load_case("f_contentvec")
    settings = meta["config"]["cfg_model"]
    return [files.write_fairseq(folder / "contentvec.pt", files.filled(manifest), settings)]


def _whisper_files(folder: Path) -> list[Path]:
    from tests import encoder_files as files

    _, _, manifest, _ = files.load_case("f_whisper_ppg")
    return [files.write_whisper(folder / "w.pt", manifest), files.write_ctranslate2(folder / "w.bin", manifest)]


def _wavlm_files(folder: Path) -> list[Path]:
    import torch

    from tests import encoder_files as files

    meta, _, manifest, _ = files.load_case("f_wavlm")
    path = folder / "wavlm.pt"
    torch.save({"cfg": meta["config"]["cfg"], "model": files.filled(manifest)}, path)
    return [path]


def _read_encoder(kind: str) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        import importlib

        module, name = {
            "fairseq": ("vencoder.hubert", "HubertEncoder"),
            "whisper": ("vencoder.whisper", "WhisperEncoder"),
            "wavlm": ("vencoder.wavlm", "WavlmEncoder"),
        }[kind]
        getattr(importlib.import_module(module), name).from_file(path)

    return read


def _fcpe_files(folder: Path) -> list[Path]:
    import torch

    from modules.f0.fcpe import FcpeNetwork
    from tests.parity import fill, golden
    from tests.test_f0_neural import GOLDENS, manifest

    config = golden.load(GOLDENS / "g_fcpe.npz")[0]["config"]["fcpe_checkpoint_config"]
    state = {key: torch.from_numpy(value) for key, value in fill.fill_state_dict(manifest("fcpe")).items()}
    model = {"cent_table": FcpeNetwork(layers=1).cent_table, **state}
    torch.save({"model": model, "config": config}, folder / "fcpe.pt")
    return [folder / "fcpe.pt"]


def _read_fcpe(path: Path) -> None:
    from modules.f0.fcpe import load_network

    load_network(path)


# --- features


def _feature_files(folder: Path) -> list[Path]:
    from modules.data.features import FeaturePaths, Stamp, save_aug_mel, save_mel, write_stamp
    from tests.tiny_voice import write_clip

    wav = folder / "alice/clip.wav"
    write_clip(wav, 0.5, 1)
    paths = FeaturePaths.of(wav)
    save_mel(paths.mel, np.zeros((43, 128)))
    save_aug_mel(paths.aug_mel, np.zeros((43, 128)), 1.5)
    old = folder / "alice/old.wav.f0.npy"  # as the original writes it
    buffer = io.BytesIO()
    np.save(buffer, np.asanyarray((np.arange(30.0), np.ones(30)), dtype=object), allow_pickle=True)
    _write(old, buffer.getvalue())
    write_stamp(wav, Stamp("0" * 64, {"units": {"encoder": "vec768l12"}, "f0": {"predictor": "pm"}}))
    return [paths.units, paths.spec, paths.f0, paths.volume, paths.mel, paths.aug_mel, old, paths.stamp]


def _read_feature(path: Path) -> None:
    from modules.data import features

    for ending, read in {
        ".soft.pt": features.load_units,
        ".spec.pt": features.load_spec,
        ".f0.npy": features.load_f0,
        ".vol.npy": features.load_volume,
        ".aug_mel.npy": features.load_aug_mel,
        ".mel.npy": features.load_mel,
        ".stamp.json": lambda stamp: features.read_stamp(str(stamp).removesuffix(".stamp.json")),
    }.items():
        if path.name.endswith(ending):
            read(path)
            return


# --- timbre


def _timbre_files(folder: Path) -> list[Path]:
    import faiss

    from cluster import kmeans, retrieval

    frames = np.random.default_rng(1).normal(size=(200, 16)).astype(np.float32)
    retrieval.save({0: retrieval.build(frames), 1: retrieval.build(frames[:30])}, folder / "index")
    kmeans.save(kmeans.Centres({"alice": frames[:20]}), folder / "kmeans.pt")
    index = faiss.index_factory(16, "IVF5,Flat")
    index.train(frames)
    index.add(frames)
    original = _write(folder / "original.pkl", pickle.dumps({0: index}))
    return [folder / "kmeans.pt", original, folder / "index/index.json", folder / "index/0.faiss"]


def _read_timbre(path: Path) -> None:
    from cluster import kmeans, retrieval

    if path.suffix == ".pt":
        kmeans.load(path)
        return
    for index in retrieval.load(path if path.suffix == ".pkl" else path.parent).values():
        if index.index.d == 16:
            index.blend(np.zeros((3, 16), np.float32), 0.5)


# --- configs and notes


def _configs(folder: Path) -> list[Path]:
    from modules.config import DiffusionConfig
    from tests.tiny_voice import tiny_config

    tiny_config().save(folder / "config.json")
    DiffusionConfig().save(folder / "diffusion.yaml")
    return [folder / "config.json", folder / "diffusion.yaml"]


def _read_config(path: Path) -> None:
    import torch

    import models
    from diffusion.unit2mel import build_unit2mel
    from modules.config import load_config, load_diffusion_config

    with torch.device("meta"):
        if path.suffix == ".json":
            models.build(load_config(path))
        else:
            build_unit2mel(load_diffusion_config(path))


def _vocoders(folder: Path) -> list[Path]:
    from tests.encoder_files import GOLDENS

    manifest = json.loads((GOLDENS / "manifests" / "e_vocoder.json").read_text(encoding="utf-8"))
    return [_write(folder / "config.json", json.dumps(manifest["config_json"]))]


def _read_vocoder(path: Path) -> None:
    import torch

    from vdecoder.mel_vocoder import MelGenerator, VocoderConfig

    with torch.device("meta"):
        MelGenerator(VocoderConfig.load(path.parent / "model"))


def _notes(folder: Path) -> list[Path]:
    sources = {"made_from": {"version": 1, "sha256": "0", "options": {}}, "clips": {"a.wav": 3}, "skipped": ""}
    rows = [{"step": step, "epoch": 1, "val/mel_distance": 1.5} for step in range(3)]
    return [
        _write(folder / "note.json", json.dumps(sources)),
        _write(folder / "best.json", json.dumps({"step": 3, "mel_distance": 0.8})),
        _write(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows)),
        _write(folder / "part.json", json.dumps({"total": 5, "validator": "x"})),
        _write(folder / "train.txt", "dataset/44k/alice/0.wav\ndataset/44k/bob/1.wav|x\n"),
        _write(folder / "texts.csv", "file,text\na.wav,one two\nb.wav,three\n"),
    ]


def _read_note(path: Path) -> None:
    from modules.data.dataset import read_file_list
    from modules.data.preprocess_resample import _Note
    from modules.evaluation.words import read_transcripts
    from modules.text_formats import read_as
    from modules.training.best import BestCheckpoint
    from modules.training.logging import read_metrics
    from pretrain.download import Origin

    if path.name == "metrics.jsonl":
        read_metrics(path)
    elif path.name == "best.json":
        BestCheckpoint(path.parent, 5)
    elif path.name == "train.txt":
        read_file_list(path)
    elif path.name == "texts.csv":
        read_transcripts([path])
    else:
        read_as(Origin if path.name == "part.json" else _Note, path)


def _reports(folder: Path) -> list[Path]:
    from modules.data.recordings_measure import measure_folder
    from modules.data.recordings_report import RecordingsReport
    from tests.tiny_voice import write_clip

    write_clip(folder / "raw/alice/a.wav", 1.0, 1)
    reports = [item for item in measure_folder(folder / "raw", (), 1, False) if isinstance(item, RecordingsReport)]
    return [_write(folder / "report.json", reports[0].to_json())]


def _read_report(path: Path) -> None:
    from modules.data.recordings_report import RecordingsReport
    from modules.text_formats import read_text

    RecordingsReport.from_json(read_text(path))


# --- graphs


def _graph_files(folder: Path) -> list[Path]:
    from modules.onnx.manifest import Manifest, PredictorFacts

    facts = {"fcpe": PredictorFacts(0.006, 50.0, 1100.0)}
    parts = {"sovits": "x.onnx", "fcpe": "fcpe.onnx"}
    Manifest(44100, 512, 768, 192, 2, False, "nearest", "vec768l12", {"a": 0}, "nsf-hifigan", parts, facts).save(folder)
    np.savez(folder / "kmeans.npz", alice=np.zeros((5, 16), np.float32))
    cells = {"0.centroids": np.eye(3, 16), "0.vectors": np.eye(9, 16), "0.offsets": np.array([0, 3, 6, 9])}
    np.savez(folder / "retrieval.npz", **cells, **{"0.nprobe": np.array(2)})
    return [folder / "parts.json", folder / "kmeans.npz", folder / "retrieval.npz"]


def _read_graph_file(path: Path) -> None:
    from modules.onnx.manifest import Manifest
    from modules.onnx.retrieval import CentreBlender, RetrievalBlender

    if path.suffix == ".json":
        Manifest.load(path.parent)
    else:
        blender = CentreBlender(path, {"alice": 0}) if path.stem == "kmeans" else RetrievalBlender(path)
        blender.blend(np.zeros((3, 16), np.float32), 0, 0.5)


# --- audio


def _audio(folder: Path) -> list[Path]:
    import soundfile

    from tests.parity import signals

    wave = signals.voice_like(44100, 0.4, [200.0, 240.0], seed=1)
    paths = []
    for name, options in {
        "a.wav": {"subtype": "PCM_16"}, "f.wav": {"subtype": "FLOAT"}, "a.flac": {}, "a.ogg": {}, "a.mp3": {},
        "a.aiff": {}, "a.w64": {}, "a.caf": {},
    }.items():  # fmt: skip
        soundfile.write(folder / name, np.stack([wave, wave], 1), 44100, **options)
        paths.append(folder / name)
    return paths


def _read_audio(path: Path) -> None:
    from modules.audio.io import audio_info, load_audio

    audio_info(path)
    load_audio(path, 44100)


# --- archives


def _archives(folder: Path) -> list[Path]:
    import zipfile

    path = folder / "vocoder.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("nsf_hifigan/model", b"weights" * 1000)
        archive.writestr("nsf_hifigan/config.json", b"{}")
    return [path]


def _read_archive(path: Path) -> None:
    from modules.errors import UserError
    from pretrain.download import DownloadError
    from pretrain.fetch import _check_zip, _unpack

    try:
        _check_zip(path)
        _unpack(path, path.parent / "out/model")
    except DownloadError as error:  # the caller turns it into a UserError
        raise UserError(str(error)) from None


READERS: dict[str, Reader] = {
    "checkpoint": Reader(_models, _read_model),
    "fairseq": Reader(_encoder_files, _read_encoder("fairseq")),
    "whisper": Reader(_whisper_files, _read_encoder("whisper")),
    "wavlm": Reader(_wavlm_files, _read_encoder("wavlm")),
    "fcpe": Reader(_fcpe_files, _read_fcpe),
    "features": Reader(_feature_files, _read_feature),
    "timbre": Reader(_timbre_files, _read_timbre),
    "configs": Reader(_configs, _read_config),
    "vocoder": Reader(_vocoders, _read_vocoder),
    "notes": Reader(_notes, _read_note),
    "reports": Reader(_reports, _read_report),
    "graphs": Reader(_graph_files, _read_graph_file),
    "audio": Reader(_audio, _read_audio),
    "archives": Reader(_archives, _read_archive),
}
