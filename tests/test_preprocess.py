"""preprocess_hubert_f0.py: features that are right, current and whole, whatever happens on the way."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import preprocess_hubert_f0 as script
from modules import checkpoint
from modules.audio.io import load_audio
from modules.audio.volume import volume
from modules.config import Config
from modules.data import features
from modules.data import preprocess_features as work
from modules.data.features import FeaturePaths, read_stamp
from modules.errors import UserError
from tests.conftest import ROOT
from tests.disk import is_mounted, small_disk
from tests.parity import fill, golden, signals
from vdecoder.mel_vocoder import MelExtractor, VocoderConfig

GOLDENS = Path(__file__).parent / "parity/goldens"
RATE, HOP = 44100, 512
CPU = torch.device("cpu")
VOICE = signals.voice_like(RATE, 1.0, [180, 220, 0, 200], seed=1)
VOCODER = {
    "resblock": "1",
    "upsample_rates": [8, 8, 2, 2, 2],
    "upsample_kernel_sizes": [16, 16, 4, 4, 4],
    "upsample_initial_channel": 64,
    "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
    "num_mels": 128,
    "n_fft": 2048,
    "hop_size": 512,
    "win_size": 2048,
    "sampling_rate": 44100,
    "fmin": 40,
    "fmax": 16000,
}


@pytest.fixture(scope="session")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Whisper of one layer, as wide as the tiny one, in the layout of OpenAI's files."""
    width, n_mels = 384, 80
    shapes = {
        "conv1.weight": (width, n_mels, 3),
        "conv1.bias": (width,),
        "conv2.weight": (width, width, 3),
        "conv2.bias": (width,),
        "positional_embedding": (1500, width),
        "ln_post.weight": (width,),
        "ln_post.bias": (width,),
    }
    layer = {
        "attn.query.weight": (width, width),
        "attn.query.bias": (width,),
        "attn.key.weight": (width, width),
        "attn.value.weight": (width, width),
        "attn.value.bias": (width,),
        "attn.out.weight": (width, width),
        "attn.out.bias": (width,),
        "attn_ln.weight": (width,),
        "attn_ln.bias": (width,),
        "mlp.0.weight": (4 * width, width),
        "mlp.0.bias": (4 * width,),
        "mlp.2.weight": (width, 4 * width),
        "mlp.2.bias": (width,),
        "mlp_ln.weight": (width,),
        "mlp_ln.bias": (width,),
    }
    shapes.update({f"blocks.0.{name}": shape for name, shape in layer.items()})
    state = {
        f"encoder.{name}": torch.from_numpy(fill.fill(name, shape, 1 / math.sqrt(math.prod(shape[1:])))).half()
        for name, shape in shapes.items()
    }
    dims = {"n_mels": n_mels, "n_audio_ctx": 1500, "n_audio_state": width, "n_audio_head": 6, "n_audio_layer": 1}
    path = tmp_path_factory.mktemp("whisper") / "tiny.pt"
    torch.save({"dims": dims, "model_state_dict": state}, path)
    return path


class Workplace:
    """A folder with pretrain, a dataset and configs, and the script run in this process on it."""

    def __init__(self, root: Path, whisper: Path) -> None:
        self.root = root
        self.voice = root / "dataset/44k/alice"
        self.voice.mkdir(parents=True)
        (root / "pretrain/nsf_hifigan").mkdir(parents=True)
        (root / "pretrain/nsf_hifigan/config.json").write_text(json.dumps(VOCODER))
        (root / "pretrain/tiny.pt").symlink_to(whisper)
        (root / "pretrain/tiny.en.pt").symlink_to(whisper)
        self.configure()
        (root / "configs/diffusion.yaml").write_text("{}")

    def configure(self, encoder: str = "whisper-ppg-tiny", vol_embedding: bool = False, **data: Any) -> None:
        model = {"speech_encoder": encoder, "ssl_dim": 384, "vol_embedding": vol_embedding}
        Config.model_validate({"model": model, "data": data, "spk": {"alice": 0}}).save(
            self.root / "configs/config.json"
        )

    def record(self, name: str, audio: np.ndarray = VOICE, rate: int = RATE, subtype: str = "PCM_16") -> Path:
        wav = self.voice / name
        soundfile.write(wav, audio, rate, subtype=subtype, format="WAV")
        return wav

    def run(self, *flags: str, predictor: str = "dio") -> int:
        return script.main(["--f0_predictor", predictor, "-d", "cpu", *flags])

    def state(self) -> dict[str, tuple[int, int]]:
        """Every file beside the wavs, with what shows that it was written anew."""
        paths = [path for path in self.voice.iterdir() if path.suffix.lower() != ".wav"]
        return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in sorted(paths)}

    def written_by(self, *flags: str, predictor: str = "dio", code: int = 0) -> set[str]:
        """What a run writes or deletes, stamps aside."""
        before = self.state()
        assert self.run(*flags, predictor=predictor) == code
        after = self.state()
        changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
        return {name for name in changed if not name.endswith(".stamp.json")}


@pytest.fixture
def place(tmp_path: Path, whisper: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    return Workplace(tmp_path, whisper)


def beside(name: str, *endings: str) -> set[str]:
    return {f"{name}.spec.pt" if ending == "spec.pt" else f"{name}.wav.{ending}" for ending in endings}


BASE = ("soft.pt", "f0.npy", "spec.pt")
DIFFUSION = ("mel.npy", "aug_mel.npy", "aug_vol.npy")


# --- right ---


def test_features_equal_the_golden_and_are_read_as_the_original_reads_them(tmp_path: Path) -> None:
    from vencoder.hubert import HubertModel, HubertSizes
    from vencoder.hubert_soft import HubertSoftEncoder, rename

    meta, arrays = golden.load(GOLDENS / "j_preprocess.npz")
    manifest = json.loads((GOLDENS / "manifests/hubert_soft.json").read_text(encoding="utf-8"))
    model = HubertModel(HubertSizes(projection=256))
    state = {key: torch.from_numpy(value) for key, value in fill.fill_state_dict(manifest).items()}
    checkpoint.load_into(model, rename(state), "the filled weights")
    vocoder = tmp_path / "vocoder/model"
    vocoder.parent.mkdir()
    (vocoder.parent / "config.json").write_text(json.dumps(meta["config"]["vocoder_config_json"]))
    config = Config.model_validate(meta["config"]["config_json"])
    options = work.FeatureSettings(
        encoder=config.model.speech_encoder,
        predictor="dio",
        with_volume=True,
        vocoder=work.VocoderOptions(vocoder, "nsf-hifigan"),
    )
    wav = tmp_path / "a1.wav"
    audio = golden.inputs(meta, arrays)["wav"]
    soundfile.write(wav, audio, RATE, subtype="PCM_16")
    maker = work.FeatureMaker(options, "cpu")
    maker.__dict__["encoder"] = HubertSoftEncoder(model, "cpu", "fp32")
    assert maker([wav]) == [work.Made(("units", "f0", "spec", "volume", "mel"))]

    f0, uv = np.load(f"{wav}.f0.npy", allow_pickle=True)
    aug_mel, key_shift = np.load(f"{wav}.aug_mel.npy", allow_pickle=True)
    got = {
        "soft": torch.load(f"{wav}.soft.pt").numpy(),
        "spec": torch.load(tmp_path / "a1.spec.pt").numpy(),
        "f0": f0,
        "uv": uv,
        "vol": np.load(f"{wav}.vol.npy"),
        "mel": np.load(f"{wav}.mel.npy"),
    }
    for name, value in got.items():
        golden.compare(meta, arrays, name, value)
    assert aug_mel.shape == (206, 128) and aug_mel.dtype == np.float32 and -5 <= key_shift <= 5

    extractor = MelExtractor(VocoderConfig.load(vocoder))
    mels = work.make_mels(load_audio(wav)[0], extractor, HOP, random.Random(1234), CPU)
    golden.compare(meta, arrays, "mel", mels.mel)
    golden.compare(meta, arrays, "aug_mel", mels.aug_mel)
    golden.compare(meta, arrays, "aug_keyshift", mels.key_shift)
    golden.compare(meta, arrays, "aug_vol", mels.aug_volume)


def test_files_have_the_documented_shapes(place: Workplace) -> None:
    place.configure(vol_embedding=True)
    wav = place.record("a.wav")
    assert place.run("--use_diff") == 0
    frames, paths = len(VOICE) // HOP, FeaturePaths.of(wav)
    assert set(place.state()) == beside("a", *BASE, "vol.npy", *DIFFUSION, "stamp.json")
    units = torch.load(paths.units)
    assert units.dtype == torch.float32 and units.shape[:2] == (1, 384) and abs(units.shape[2] - 50) <= 1
    assert torch.load(paths.spec).shape == (1025, frames)
    f0 = np.load(paths.f0)  # no pickle in it
    assert f0.dtype == np.float32 and f0.shape == (2, frames) and set(f0[1]) == {0, 1}
    assert np.load(paths.volume).shape == np.load(paths.aug_volume).shape == (frames,)
    assert np.load(paths.mel).shape == (frames, 128)
    np.testing.assert_allclose(np.load(paths.volume), volume(load_audio(wav)[0], HOP))
    assert not (place.voice / "a.wav.spec.pt").exists()


@pytest.mark.parametrize(
    ("vol_embedding", "flags", "wanted"),
    [(False, (), False), (True, (), True), (False, ("--use_diff",), True)],
)
def test_volume_is_written_where_something_uses_it(
    place: Workplace, vol_embedding: bool, flags: tuple[str, ...], wanted: bool
) -> None:
    place.configure(vol_embedding=vol_embedding)
    wav = place.record("a.wav")
    assert place.run(*flags) == 0
    assert FeaturePaths.of(wav).volume.exists() is wanted
    assert FeaturePaths.of(wav).mel.exists() is bool(flags)


def test_every_sample_format_and_channel_count_gives_the_same_features(place: Workplace) -> None:
    """(A22)"""
    subtypes = ["PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"]
    wavs = [place.record(f"{subtype}.wav", VOICE, subtype=subtype) for subtype in subtypes]
    wavs.append(place.record("stereo.wav", np.stack([VOICE, VOICE], axis=1)))
    assert place.run() == 0
    first, *others = [FeaturePaths.of(wav) for wav in wavs]
    for paths in others:
        torch.testing.assert_close(torch.load(paths.spec), torch.load(first.spec))
        torch.testing.assert_close(torch.load(paths.units), torch.load(first.units), atol=1e-3, rtol=1e-3)
        np.testing.assert_allclose(np.load(paths.f0), np.load(first.f0), atol=1e-3)


def test_unusual_names_work(place: Workplace) -> None:
    for name in ("UPPER.WAV", "é 歌|1.wav", "a.b.wav"):
        place.record(name)
    assert place.run() == 0
    assert {"UPPER.WAV.f0.npy", "UPPER.spec.pt", "é 歌|1.spec.pt", "a.b.spec.pt"} <= set(place.state())


# --- current ---


def test_a_second_run_does_nothing_and_loads_no_model(place: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    place.record("a.wav")
    place.record("b.wav", VOICE[:30000])
    assert place.written_by() == beside("a", *BASE) | beside("b", *BASE)
    (place.root / "pretrain/tiny.pt").unlink()
    assert place.written_by() == set()
    assert "2 clip(s) were done before" in capsys.readouterr().out


def test_a_feature_file_that_was_cut_is_made_anew(place: Workplace) -> None:
    """A copy from a full disk: training cannot read it, and nothing but deleting it by hand would help."""
    paths = FeaturePaths.of(place.record("a.wav"))
    assert place.run() == 0
    whole = paths.units.read_bytes()
    paths.units.write_bytes(whole[:1000])
    assert place.run() == 0
    assert paths.units.read_bytes() == whole


@pytest.mark.parametrize("text", ["[]", '{"version": 1, "wav": 3, "features": []}', "[" * 9999, '{"version": 1}'])
def test_a_broken_stamp_is_no_stamp(text: str, place: Workplace) -> None:
    paths = FeaturePaths.of(place.record("a.wav"))
    paths.stamp.write_text(text)
    assert place.run() == 0
    assert json.loads(paths.stamp.read_text())["features"].keys() == {"units", "f0", "spec"}


@pytest.mark.parametrize("change", ["predictor", "range", "encoder", "spec", "volume", "mel", "content"])
def test_a_change_makes_anew_what_depends_on_it(place: Workplace, change: str) -> None:
    """(A11) The original kept whatever existed; encoders of one width then mixed without a word."""
    place.record("a.wav")
    place.record("b.wav", VOICE[:30000])
    assert place.run() == 0
    flags: tuple[str, ...] = ()
    predictor, names, endings = "dio", "ab", BASE
    if change == "predictor":
        predictor, endings = "pm", ("f0.npy",)
    elif change == "range":
        flags, endings = ("--f0_max", "900"), ("f0.npy",)
    elif change == "encoder":
        place.configure(encoder="whisper-ppg-tiny.en")  # as wide as the other
        endings = ("soft.pt",)
    elif change == "spec":
        place.configure(win_length=1024)
        endings = ("spec.pt",)
    elif change == "volume":
        place.configure(vol_embedding=True)
        endings = ("vol.npy",)
    elif change == "mel":
        flags, endings = ("--use_diff",), ("vol.npy", *DIFFUSION)
    else:
        place.record("b.wav", 0.5 * VOICE[:30000])
        names = "b"
    want = set().union(*(beside(name, *endings) for name in names))
    assert place.written_by(*flags, predictor=predictor) == want
    assert place.written_by(*flags, predictor=predictor) == set()


@pytest.mark.parametrize("ending", ["soft.pt", "f0.npy", "spec.pt", "stamp.json"])
def test_a_missing_file_is_made_anew(place: Workplace, ending: str) -> None:
    place.record("a.wav")
    assert place.run() == 0
    (missing,) = beside("a", ending)
    (place.voice / missing).unlink()
    assert place.written_by() == (beside("a", *BASE) if ending == "stamp.json" else {missing})


def test_features_of_unknown_origin_are_made_anew(place: Workplace) -> None:
    wav = place.record("a.wav")
    features.save_units(FeaturePaths.of(wav).units, torch.zeros(1, 256, 50))
    assert place.run() == 0
    assert torch.load(FeaturePaths.of(wav).units).shape[1] == 384


def test_mels_of_another_content_do_not_stay(place: Workplace) -> None:
    place.record("a.wav")
    assert place.run("--use_diff") == 0
    assert place.written_by() == set()  # without the flag they stay
    place.record("a.wav", 0.5 * VOICE)
    assert place.run() == 0
    assert set(place.state()) == beside("a", *BASE, "stamp.json")


def test_mel_augmented_mel_and_volume_are_of_one_draw(place: Workplace) -> None:
    """(A12) The original drew anew on every run and saved only what was missing."""
    wavs = [place.record(f"{index}.wav", VOICE[: 30000 + index]) for index in range(3)]
    assert place.run("--use_diff") == 0
    extractor = MelExtractor(VocoderConfig.load(place.root / "pretrain/nsf_hifigan/model"))
    shifts = []
    for wav in wavs:
        paths = FeaturePaths.of(wav)
        audio = load_audio(wav)[0]
        aug_mel, shift = features.load_aug_mel(paths.aug_mel)
        ratio = features.load_volume(paths.aug_volume) / np.maximum(volume(audio, HOP), 1e-9)
        factor = float(np.median(ratio))
        np.testing.assert_allclose(features.load_volume(paths.aug_volume), factor * volume(audio, HOP), rtol=1e-4)
        assert factor >= 0.1 and factor * np.abs(audio).max() <= 1
        again = extractor(torch.from_numpy(audio * np.float32(factor))[None], shift)[0, : len(audio) // HOP]
        np.testing.assert_allclose(aug_mel, again, atol=1e-3)
        shifts.append(shift)
    assert len(set(shifts)) == 3 and max(map(abs, shifts)) <= 5

    paths = FeaturePaths.of(wavs[0])
    before = [path.read_bytes() for path in (paths.mel, paths.aug_mel, paths.aug_volume)]
    paths.aug_volume.unlink()
    assert place.written_by("--use_diff") == beside("0", *DIFFUSION)
    assert [path.read_bytes() for path in (paths.mel, paths.aug_mel, paths.aug_volume)] == before


@pytest.mark.parametrize("audio", [VOICE, 0 * VOICE, 8 * VOICE])
def test_augmentation_stays_within_full_scale_and_range(audio: np.ndarray) -> None:
    extractor = MelExtractor(VocoderConfig.from_dict(VOCODER))
    for seed in range(10):
        mels = work.make_mels(audio[:8192], extractor, HOP, random.Random(seed), CPU)
        assert mels.aug_volume.max() <= 1 and -5 <= mels.key_shift <= 5
        assert np.isfinite(mels.aug_mel).all() and mels.mel.shape == mels.aug_mel.shape == (16, 128)


def test_another_seed_draws_another_augmentation(place: Workplace) -> None:
    wav = place.record("a.wav")
    assert place.run("--use_diff") == 0
    shift = features.load_aug_mel(FeaturePaths.of(wav).aug_mel)[1]
    config = json.loads((place.root / "configs/config.json").read_text())
    config["train"]["seed"] = 99
    (place.root / "configs/config.json").write_text(json.dumps(config))
    assert place.written_by("--use_diff") == beside("a", *DIFFUSION)
    assert features.load_aug_mel(FeaturePaths.of(wav).aug_mel)[1] != shift


# --- once ---


def test_models_are_loaded_once_and_wavs_read_once(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """(C1) The original loaded the predictor's weights for every file."""
    import modules.f0
    import vencoder

    counts: dict[str, int] = {}

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            key = Path(args[0]).name if name == "read" else name
            counts[key] = counts.get(key, 0) + 1
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(modules.f0, "get_predictor", counted("predictor", modules.f0.get_predictor))
    monkeypatch.setattr(vencoder, "get_encoder", counted("encoder", vencoder.get_encoder))
    monkeypatch.setattr(Path, "read_bytes", counted("read", Path.read_bytes))
    for index in range(4):
        place.record(f"{index}.wav", VOICE[: 20000 + index])
    assert place.run() == 0
    assert counts["predictor"] == counts["encoder"] == 1
    assert [counts[f"{index}.wav"] for index in range(4)] == [1, 1, 1, 1]


def test_the_users_device_is_respected_and_workers_spread_over_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """(B14) The original took a GPU whatever -d said."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert work.choose_devices("cpu") == ("cpu",)
    assert work.choose_devices(None) == ("cuda:0", "cuda:1", "cuda:2")
    job = work.FeatureJob(work.FeatureSettings("whisper-ppg-tiny", "pm"), work.choose_devices(None))
    assert [str(job(worker).device) for worker in range(4)] == ["cuda:0", "cuda:1", "cuda:2", "cuda:0"]  # type: ignore[attr-defined]
    monkeypatch.setenv("LOCAL_RANK", "4")
    assert work.choose_devices(None) == ("cuda:1",)
    assert work.choose_devices("cpu") == ("cpu",)


def test_an_unknown_device_cannot_start(place: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    place.record("a.wav")
    assert place.run("-d", "warp9") == 2
    assert "warp9" in capsys.readouterr().err and place.state() == {}


def test_ranks_of_torchrun_share_the_clips(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(5):
        place.record(f"{index}.wav", VOICE[: 20000 + index])
    written = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        written.append({name.split(".")[0] for name in place.written_by()})
    assert written == [{"0", "2", "4"}, {"1", "3"}]


def test_batches_for_an_accelerator_give_the_features_of_single_clips(place: Workplace) -> None:
    wavs = [place.record(f"{index}.wav", VOICE[: 20000 + 4000 * index]) for index in range(4)]
    wavs.insert(2, place.record("bad.wav", np.full(20000, np.nan), subtype="FLOAT"))
    assert work.batches(wavs, ["cuda:0"]) == [tuple(wavs)] and len(work.batches(wavs, ["cpu"])) == 5
    options = work.FeatureSettings("whisper-ppg-tiny", "pm", precision="fp32")
    outcomes = work.FeatureMaker(options, "cpu")(wavs)
    assert [isinstance(outcome, work.Made) for outcome in outcomes] == [True, True, False, True, True]
    together = [torch.load(FeaturePaths.of(wav).units) for wav in wavs if wav.name != "bad.wav"]
    maker = work.FeatureMaker(options, "cpu")
    for wav, units in zip([wav for wav in wavs if wav.name != "bad.wav"], together, strict=True):
        FeaturePaths.of(wav).stamp.unlink()
        maker([wav])
        torch.testing.assert_close(torch.load(FeaturePaths.of(wav).units), units, atol=1e-4, rtol=1e-4)


def test_one_clip_that_cannot_be_encoded_does_not_take_its_batch_along(place: Workplace) -> None:
    wavs = [place.record(f"{index}.wav", VOICE[: 20000 + 1000 * index]) for index in range(3)]
    maker = work.FeatureMaker(work.FeatureSettings("whisper-ppg-tiny", "pm"), "cpu")
    encode = maker.encoder.encode_batch

    def fails(audios: list[torch.Tensor]) -> list[torch.Tensor]:
        if any(len(audio) == round(21000 * 16000 / RATE) for audio in audios):
            raise RuntimeError("out of memory")
        return encode(audios)

    maker.encoder.encode_batch = fails  # type: ignore[method-assign]
    first, second, third = maker(wavs)
    assert isinstance(first, work.Made) and isinstance(third, work.Made)
    assert second == work.Failure("RuntimeError: out of memory")


# --- whatever happens ---


@pytest.mark.parametrize("processes", ["1", "2"])
def test_bad_files_are_listed_and_the_others_are_done(
    place: Workplace, processes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """(B14) One bad file aborted the original's whole pool."""
    place.record("good.wav")
    place.record("silent.wav", 0 * VOICE)
    place.record("short.wav", VOICE[10000:14410])  # 0.1 s
    nan = VOICE.copy()
    nan[100] = np.nan
    place.record("nan.wav", nan, subtype="FLOAT")
    cut = place.record("cut.wav")
    cut.write_bytes(cut.read_bytes()[:20000])
    (place.voice / "lyrics.wav").write_text("la la la")
    place.record("slow.wav", VOICE, 8000)
    place.record("click.wav", VOICE[:500])
    assert place.run("--num_processes", processes) == 1
    made = {name.split(".")[0] for name in place.state()}
    assert made == {"good", "silent", "short"}
    out, error = capsys.readouterr()
    assert "3 clip(s) done, 0 skipped, 5 failed" in out
    reasons = {"nan": "NaN", "cut": "cut off", "lyrics": "cannot be read", "slow": "8000 Hz", "click": "500 samples"}
    for name, reason in reasons.items():
        assert any(f"{name}.wav" in line and reason in line for line in error.splitlines()), (name, error)
    f0 = np.load(place.voice / "silent.wav.f0.npy")
    assert not f0.any() and np.load(place.voice / "short.wav.f0.npy").shape == (2, 8)


def test_a_bad_file_that_is_mended_is_done_by_the_next_run(place: Workplace) -> None:
    (place.voice / "a.wav").write_text("la la la")
    assert place.run() == 1
    place.record("a.wav")
    assert place.run() == 0


def test_missing_weights_stop_with_the_file_and_the_way_to_get_it(
    place: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    place.record("a.wav")
    assert place.run(predictor="rmvpe") == 2
    error = capsys.readouterr().err
    assert "pretrain/rmvpe.pt" in error and "pretrain fetch rmvpe" in error and "pm" in error
    (place.root / "pretrain/tiny.pt").unlink()
    assert place.run() == 2
    assert "pretrain/tiny.pt" in capsys.readouterr().err


def test_a_missing_predictor_is_found_before_workers_start(
    place: Workplace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place.record("a.wav")
    place.record("b.wav")
    monkeypatch.setattr("modules.data.worker_pool.run_all", lambda *_: pytest.fail("workers were started"))
    assert place.run("--num_processes", "2", predictor="rmvpe") == 2
    assert "--f0_predictor pm" in capsys.readouterr().err


def test_notes_beyond_the_predictor_are_told_of_once_a_speaker(
    place: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    """They would be trained as unvoiced, or an octave low."""
    t = np.arange(RATE) / RATE
    high = sum(np.sin(2 * np.pi * 1500 * harmonic * t) / harmonic for harmonic in range(1, 6)) * 0.2
    for name in ("a.wav", "b.wav"):
        place.record(name, np.concatenate([VOICE, high.astype(np.float32)]))
    assert place.run() == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: alice")]
    assert "above 1100 Hz" in line and "--f0_max 1700" in line
    assert place.run() == 0
    assert "warning" not in capsys.readouterr().err  # nothing was made
    assert place.run("--f0_max", "1700", predictor="pm") == 0
    assert "warning" not in capsys.readouterr().err


def test_a_missing_vocoder_stops_with_its_name(place: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    place.record("a.wav")
    (place.root / "pretrain/nsf_hifigan/config.json").unlink()
    assert place.run("--use_diff") == 2
    assert "python -m pretrain fetch nsf_hifigan" in capsys.readouterr().err
    assert place.run() == 0


def test_a_vocoder_of_another_rate_is_refused(place: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    place.record("a.wav")
    (place.root / "pretrain/nsf_hifigan/config.json").write_text(json.dumps({**VOCODER, "sampling_rate": 24000}))
    assert place.run("--use_diff") == 2
    assert "24000 Hz" in capsys.readouterr().err


def test_nothing_to_do_or_no_config_cannot_start(place: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.run() == 2
    assert "there are no wavs" in capsys.readouterr().err
    assert place.run("--in_dir", "nowhere") == 2
    assert "no such folder" in capsys.readouterr().err
    place.record("a.wav")
    assert place.run("-c", "none.json") == 2
    assert "none.json" in capsys.readouterr().err


def test_ctrl_c_leaves_whole_sets_only(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    from modules.f0.dio import DioPredictor

    for index in range(3):
        place.record(f"{index}.wav", VOICE[: 20000 + index])
    track = DioPredictor._track

    def interrupted(self: DioPredictor, audio: np.ndarray, n_frames: int) -> np.ndarray:
        if len(audio) == 20001:
            raise KeyboardInterrupt
        return track(self, audio, n_frames)

    monkeypatch.setattr(DioPredictor, "_track", interrupted)
    assert place.run() == 130
    assert read_stamp(place.voice / "0.wav") is not None and read_stamp(place.voice / "1.wav") is None
    monkeypatch.setattr(DioPredictor, "_track", track)
    assert place.written_by() == beside("1", *BASE) | beside("2", *BASE)


def test_features_being_made_anew_count_as_missing_until_all_are_written(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between a new file and its stamp, the old stamp must not vouch for the new file."""
    wav = place.record("a.wav")
    assert place.run() == 0
    write, killed = features.write_stamp, []

    def last_stamp_fails(path: Path, stamp: features.Stamp) -> None:
        if "f0" in stamp.keys:
            killed.append(path)
            raise KeyboardInterrupt
        write(path, stamp)

    monkeypatch.setattr(features, "write_stamp", last_stamp_fails)
    assert place.run(predictor="pm") == 130 and len(killed) == 1
    monkeypatch.setattr(features, "write_stamp", write)
    pm = np.load(FeaturePaths.of(wav).f0)
    assert place.written_by() == {"a.wav.f0.npy"}  # back to dio, whose name the first stamp had
    assert not np.array_equal(np.load(FeaturePaths.of(wav).f0), pm)


def whole(wav: Path) -> bool:
    """Whether a stamped wav has all its features, each readable."""
    paths = FeaturePaths.of(wav)
    units, spec = features.load_units(paths.units), features.load_spec(paths.spec)
    f0, _ = features.load_f0(paths.f0)
    return units.shape[1] == 384 and spec.shape[1] == len(f0) == soundfile.info(wav).frames // HOP


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_killed_run_goes_on_and_ends_as_an_unbroken_one(
    tmp_path: Path, whisper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [Workplace(tmp_path / name, whisper) for name in ("killed", "unbroken")]
    for place in places:
        for index in range(24):
            place.record(f"{index:02d}.wav", VOICE[: 20000 + 500 * index])
    killed, unbroken = places

    def stamped() -> list[Path]:
        return [wav for wav in killed.voice.glob("*.wav") if FeaturePaths.of(wav).stamp.exists()]

    command = [sys.executable, str(ROOT / "preprocess_hubert_f0.py"), "-d", "cpu", "--f0_predictor", "dio"]
    kills = 0
    for wanted in (1, 8):
        process = subprocess.Popen(command, cwd=killed.root, stdout=subprocess.DEVNULL)
        while len(stamped()) < wanted and process.poll() is None:
            time.sleep(0.002)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert all(whole(wav) for wav in stamped())
    assert kills == 2 and len(stamped()) < 24
    for place in places:
        monkeypatch.chdir(place.root)
        assert place.run() == 0
    assert set(killed.state()) == set(unbroken.state()) and len(stamped()) == 24
    for name in killed.state():
        assert (killed.voice / name).read_bytes() == (unbroken.voice / name).read_bytes(), name


def test_a_full_disk_stops_with_one_message_and_keeps_what_is_done(
    tmp_path: Path, whisper: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        place = Workplace(tmp_path, whisper)
        place.voice = disk / "44k/alice"
        place.voice.mkdir(parents=True)
        for index in range(6):
            place.record(f"{index}.wav", VOICE[: 20000 + index])  # 0.3 MB with its features
        monkeypatch.chdir(tmp_path)
        assert place.run("--in_dir", str(disk / "44k")) == 2
        error = capsys.readouterr().err
        assert "No space left on device" in error and "free some space" in error
        stamped = [wav for wav in place.voice.glob("*.wav") if FeaturePaths.of(wav).stamp.exists()]
        assert 0 < len(stamped) < 6 and all(whole(wav) for wav in stamped)
        assert not is_mounted(disk) or not [name for name in place.state() if name.startswith(".")]


# --- the files themselves ---


def test_object_arrays_of_the_original_are_read(tmp_path: Path) -> None:
    f0 = np.array([[220.0, 221.5, 0.0], [1.0, 1.0, 0.0]], dtype=object)
    np.save(tmp_path / "f0.npy", f0, allow_pickle=True)
    np.testing.assert_array_equal(features.load_f0(tmp_path / "f0.npy"), f0.astype(np.float32))
    pair = np.empty(2, dtype=object)
    pair[:] = [np.ones((3, 128), np.float32), np.float64(-2.5)]
    np.save(tmp_path / "mel.npy", pair, allow_pickle=True)
    mel, shift = features.load_aug_mel(tmp_path / "mel.npy")
    assert mel.shape == (3, 128) and shift == -2.5


def test_numpy_1_object_arrays_are_read(tmp_path: Path) -> None:
    """numpy 1 pickled its module under the name numpy.core."""
    np.save(tmp_path / "f0.npy", np.array([[220.0], [1.0]], dtype=object), allow_pickle=True)
    data = (tmp_path / "f0.npy").read_bytes()
    name = b"numpy._core.multiarray"
    assert name in data
    index = data.index(name)
    old = data[: index - 1] + bytes([len(name) - 1]) + name.replace(b"_core", b"core") + data[index + len(name) :]
    frame = data.index(b"\x95", data.index(b"\x80")) + 1  # the length of the pickle's frame shrinks with it
    size = int.from_bytes(old[frame : frame + 8], "little") - 1
    (tmp_path / "f0.npy").write_bytes(old[:frame] + size.to_bytes(8, "little") + old[frame + 8 :])
    assert features.load_f0(tmp_path / "f0.npy")[0] == [220.0]


@pytest.mark.parametrize("target", ["os.system", "builtins.eval", "subprocess.Popen"])
def test_code_in_a_feature_file_is_refused_and_not_run(tmp_path: Path, target: str) -> None:
    marker = tmp_path / "ran"
    module, name = target.split(".")

    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            argument = f"open({str(marker)!r}, 'w')" if target == "builtins.eval" else f"touch {marker}"
            return getattr(__import__(module), name), (argument,)

    pair = np.empty(2, dtype=object)
    pair[:] = [np.ones((3, 128), np.float32), Evil()]
    np.save(tmp_path / "mel.npy", pair, allow_pickle=True)
    with pytest.raises(UserError, match="refused"):
        features.load_aug_mel(tmp_path / "mel.npy")
    assert not marker.exists()


def test_broken_or_foreign_files_are_refused_with_their_name(tmp_path: Path) -> None:
    features.save_f0(tmp_path / "good.npy", np.ones(100), np.ones(100))
    (tmp_path / "half.npy").write_bytes((tmp_path / "good.npy").read_bytes()[:300])
    (tmp_path / "text.npy").write_text("la la la")
    np.save(tmp_path / "shape.npy", np.ones((3, 4)))
    np.save(tmp_path / "words.npy", np.array([["a"], ["b"]], dtype=object), allow_pickle=True)
    for name in ("half", "text", "shape", "words", "none"):
        with pytest.raises(UserError) as caught:
            features.load_f0(tmp_path / f"{name}.npy")
        assert caught.value.where == str(tmp_path / f"{name}.npy")
    features.save_units(tmp_path / "units.pt", torch.ones(1, 2, 3))
    with pytest.raises(UserError, match="instead of a tensor with 2 axes"):
        features.load_spec(tmp_path / "units.pt")


def test_f0_files_are_plain_and_small(tmp_path: Path) -> None:
    """(C7) The original's object arrays are pickles of boxed floats."""
    features.save_f0(tmp_path / "f0.npy", np.full(1000, 220.0), np.ones(1000))
    assert (tmp_path / "f0.npy").stat().st_size < 2 * 1000 * 4 + 200
    assert np.load(tmp_path / "f0.npy", allow_pickle=False).shape == (2, 1000)


def test_units_of_another_encoder_are_refused(place: Workplace) -> None:
    """(A11)"""
    wav = place.record("a.wav")
    features.check_encoder(wav, "whisper-ppg-tiny")  # no stamp: the original made them
    assert place.run() == 0
    features.check_encoder(wav, "whisper-ppg-tiny")
    with pytest.raises(UserError, match="made by whisper-ppg-tiny, the config wants whisper-ppg-tiny.en"):
        features.check_encoder(wav, "whisper-ppg-tiny.en")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1}', '{"version": 99, "wav": "x", "features": {}}'])
def test_a_broken_stamp_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.wav.stamp.json").write_text(text)
    assert read_stamp(tmp_path / "a.wav") is None
