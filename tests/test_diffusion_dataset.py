"""The windows that diffusion training sees: the published ones, cached or not, never of two different draws."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from modules import checkpoint
from modules.audio.resample import resample
from modules.audio.volume import volume
from modules.config import DiffusionConfig
from modules.data import features
from modules.data.diffusion_dataset import DiffusionDataset, Window, collate
from modules.data.features import FeaturePaths
from modules.data.sampler import Draw
from modules.errors import UserError
from modules.f0 import get_predictor
from tests.parity import fill, golden
from tests.test_mel_vocoder import write_vocoder
from tests.tiny_diffusion import tiny_diffusion_config, write_diffusion_clip, write_mels
from tests.tiny_voice import HOP, SAMPLE_RATE
from vdecoder.mel_vocoder import MelExtractor
from vencoder.hubert import HubertModel, HubertSizes
from vencoder.hubert_soft import HubertSoftEncoder, rename

GOLDENS = Path(__file__).parent / "parity/goldens"


@pytest.fixture(scope="module")
def extractor(tmp_path_factory: pytest.TempPathFactory) -> MelExtractor:
    return MelExtractor.load(write_vocoder(tmp_path_factory.mktemp("vocoder")))


@pytest.fixture(scope="module")
def wavs(tmp_path_factory: pytest.TempPathFactory, extractor: MelExtractor) -> list[Path]:
    """Two clips of alice, one of bob."""
    root = tmp_path_factory.mktemp("clips")
    paths = [root / "alice/a.wav", root / "alice/b.wav", root / "bob/a.wav"]
    for seed, (path, seconds) in enumerate(zip(paths, (1.2, 0.9, 1.0), strict=True)):
        write_diffusion_clip(path, seconds, seed, extractor)
    return paths


def dataset(wavs: list[Path], config: DiffusionConfig | None = None, **options: bool) -> DiffusionDataset:
    return DiffusionDataset(wavs, config or tiny_diffusion_config(), **{"augment": True, **options})


def assert_same(one: Window, other: Window) -> None:
    for name, first, second in zip(Window._fields, one, other, strict=True):
        assert first.dtype == second.dtype
        assert torch.equal(first, second), name


def test_windows_equal_the_golden_loader(tmp_path: Path, extractor: MelExtractor) -> None:
    meta, arrays = golden.load(GOLDENS / "j_diff_loader.npz")
    model = HubertModel(HubertSizes(projection=256))
    manifest = json.loads((GOLDENS / "manifests/hubert_soft.json").read_text())
    state = {key: torch.from_numpy(value) for key, value in fill.fill_state_dict(manifest).items()}
    checkpoint.load_into(model, rename(state), "the filled weights")
    encoder, predictor = HubertSoftEncoder(model, "cpu", "fp32"), get_predictor("dio")
    wavs = []
    for name, audio in golden.inputs(meta, arrays).items():
        wav = tmp_path / f"{name}.wav"
        wav.parent.mkdir(parents=True)
        soundfile.write(wav, audio, SAMPLE_RATE, subtype="PCM_16")
        paths, contour = FeaturePaths.of(wav), predictor(audio)
        features.save_units(paths.units, encoder.encode(torch.from_numpy(resample(audio, SAMPLE_RATE, 16000))))
        features.save_f0(paths.f0, contour.f0, contour.uv)
        features.save_volume(paths.volume, volume(audio, HOP))
        write_mels(wav, extractor, random.Random(1234))
        wavs.append(wav)
    config = DiffusionConfig.model_validate(
        {
            "data": {"encoder": "hubertsoft", "encoder_out_channels": 256, "unit_interpolate_mode": "nearest"},
            "model": {"n_spk": 3},
            "spk": {"alice": 0, "bob": 1, "carol": 2},
        }
    )
    clips = DiffusionDataset(wavs, config, augment=True)
    rng = random.Random(7)
    for number, index in enumerate((0, 1, 1)):
        window = clips.window(index, rng)
        for field in ("mel", "f0", "volume", "units", "aug_shift"):
            golden.compare(meta, arrays, f"item{number}_{field}", getattr(window, field).numpy())
        golden.compare(meta, arrays, f"item{number}_spk_id", window.speaker.numpy())
        for field, name in (("mel", "mel"), ("units", "units"), ("f0", "f0")):
            assert str(getattr(window, field).dtype) == meta["dtypes"][f"item{number}_{name}"]


def test_cached_and_uncached_windows_are_the_same(wavs: list[Path]) -> None:
    """(A13) In both, an augmented window has the augmented mel and volume with its own shift."""
    cached, uncached = dataset(wavs, in_memory=True), dataset(wavs)
    shifts = set()
    for epoch in range(1, 7):
        for index in range(len(wavs)):
            draw = Draw(epoch, index)
            assert_same(cached[draw], uncached[draw])
            shifts.add(float(cached[draw].aug_shift))
    assert 0.0 in shifts and len(shifts) == len(wavs) + 1


def test_every_part_of_a_window_is_of_the_same_draw(wavs: list[Path]) -> None:
    """(A13)"""
    clips = dataset(wavs)
    plain, augmented = dataset(wavs, augment=False), 0
    for index, wav in enumerate(wavs):
        paths = FeaturePaths.of(wav)
        aug_mel, shift = features.load_aug_mel(paths.aug_mel)
        for epoch in range(6):
            window, same = clips[Draw(epoch, index)], plain[Draw(epoch, index)]
            assert torch.equal(window.units, same.units)
            if not window.aug_shift.any():
                assert_same(window, same)
                continue
            augmented += 1
            assert math.isclose(float(window.aug_shift), shift, rel_tol=1e-6)
            torch.testing.assert_close(window.f0, same.f0 * 2 ** (shift / 12))
            rows = aug_mel.astype(np.float16)
            start = next(i for i in range(len(rows)) if np.array_equal(rows[i : i + len(window.mel)], window.mel))
            loudness = features.load_volume(paths.aug_volume)[start : start + len(window.mel)]
            np.testing.assert_array_equal(window.volume[:, 0], loudness)
            original = features.load_volume(paths.volume)[start : start + len(window.mel)]
            np.testing.assert_array_equal(same.volume[:, 0], original)
    assert 3 < augmented < 16


def test_a_model_without_pitch_augmentation_never_sees_a_shifted_mel(wavs: list[Path], tmp_path: Path) -> None:
    clips = dataset(wavs, tiny_diffusion_config(model={"use_pitch_aug": False}))
    assert not any(clips[Draw(epoch, 0)].aug_shift.any() for epoch in range(8))


def test_the_seed_decides_the_windows(wavs: list[Path]) -> None:
    one, other = dataset(wavs), dataset(wavs, tiny_diffusion_config(train={"seed": 5}))
    assert_same(one[Draw(3, 1)], dataset(wavs)[Draw(3, 1)])
    assert not torch.equal(one[Draw(3, 1)].units, other[Draw(3, 1)].units)
    assert not torch.equal(one[Draw(3, 1)].units, one[Draw(4, 1)].units)


def test_short_clips_are_reported_and_skipped_and_the_others_stay(wavs: list[Path]) -> None:
    """(B15)"""
    config = tiny_diffusion_config()
    config.data.duration = 0.85
    clips = dataset(wavs, config)
    assert [path for path, _ in clips.skipped] == [wavs[1]]
    assert "0.90 s" in clips.skipped[0][1]
    assert len(clips) == 2 and [clips[i].speaker.item() for i in range(2)] == [0, 1]


def test_a_clip_that_lacks_a_feature_is_left_out_and_named(
    wavs: list[Path], tmp_path: Path, extractor: MelExtractor
) -> None:
    lacking = tmp_path / "alice/a.wav"
    write_diffusion_clip(lacking, 0.9, 1, extractor)
    FeaturePaths.of(lacking).mel.unlink()
    clips = dataset([lacking, tmp_path / "alice/gone.wav", wavs[2]])
    assert clips.wavs == [wavs[2]] and clips.speaker_ids == [1]
    reasons = dict(clips.skipped)
    assert "a.wav.mel.npy is missing; run preprocess_hubert_f0.py --use_diff" in reasons[lacking]
    assert reasons[tmp_path / "alice/gone.wav"] == "there is no such file"


def test_only_short_clips_are_an_error_and_not_a_recursion(wavs: list[Path]) -> None:
    """(B15)"""
    config = tiny_diffusion_config()
    config.data.duration = 30
    with pytest.raises(UserError, match="longest of 3 has 1.20 s") as error:
        dataset(wavs, config)
    assert "duration" in error.value.fix


def test_a_batch_is_float32_on_the_device(wavs: list[Path]) -> None:
    clips = dataset(wavs)
    batch = collate([clips[0], clips[2]]).to(torch.device("cpu"))
    frames = int(0.5 * SAMPLE_RATE / HOP)
    assert batch.mel.shape == (2, frames, 128) and batch.f0.shape == batch.volume.shape == (2, frames, 1)
    assert batch.speaker.tolist() == [[0], [1]] and batch.aug_shift.shape == (2, 1, 1)
    assert {batch.mel.dtype, batch.units.dtype, batch.f0.dtype} == {torch.float32}


def test_the_middle_is_as_recorded_and_short_clips_have_one_too(wavs: list[Path]) -> None:
    clips = dataset(wavs)
    middle, mel = clips.middle(0), features.load_mel(FeaturePaths.of(wavs[0]).mel).astype(np.float16)
    start = int(0.35 * SAMPLE_RATE / HOP)
    np.testing.assert_array_equal(middle.mel, mel[start : start + int(0.5 * SAMPLE_RATE / HOP)])
    assert not middle.aug_shift.any()
    config = tiny_diffusion_config()
    config.data.duration = 1.0
    clips = dataset(wavs, config, augment=False, short_too=True)
    assert len(clips) == 3 and not clips.skipped
    assert [len(clips.middle(i).mel) for i in range(3)] == [86, int(0.9 * SAMPLE_RATE) // HOP, 86]


def test_what_is_missing_or_does_not_fit_is_named(wavs: list[Path], tmp_path: Path, extractor: MelExtractor) -> None:
    wav = tmp_path / "alice/a.wav"
    write_diffusion_clip(wav, 0.9, 1, extractor)
    config = tiny_diffusion_config()
    config.data.encoder_out_channels = 768
    with pytest.raises(UserError, match="16 channels"):
        dataset([wav], config)[0]
    for change, message in (({"spk": {"carol": 0}}, "'alice'"), ({"spk": {"alice": 9}}, "the id 9")):
        other = DiffusionConfig.model_validate({**tiny_diffusion_config().model_dump(), **change})
        with pytest.raises(UserError, match=message):
            dataset([wav], other)
    soundfile.write(wav, np.zeros(3 * SAMPLE_RATE), SAMPLE_RATE)
    with pytest.raises(UserError, match="77 frames, the clip has 258"):
        dataset([wav])[0]
    FeaturePaths.of(wav).aug_mel.unlink()
    with pytest.raises(UserError, match="missing") as error:
        dataset([wav])
    assert "--use_diff" in error.value.fix and "aug_mel" in error.value.where
    assert len(dataset([wav], augment=False)) == 1
