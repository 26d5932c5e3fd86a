"""The clips that training sees, what it refuses to start with, and which rank sees which clip."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from modules import checkpoint
from modules.audio.resample import resample
from modules.audio.spectrogram import spectrogram
from modules.audio.volume import volume
from modules.config import Config
from modules.data import features
from modules.data.dataset import ClipDataset, change_loudness, collate, read_file_list
from modules.data.features import FeaturePaths
from modules.data.sampler import ClipSampler, Draw
from modules.errors import UserError
from modules.f0 import get_predictor
from tests.parity import fill, golden, signals
from tests.tiny_voice import HOP, N_FFT, SAMPLE_RATE, tiny_config, write_clip, write_features, write_list
from vencoder.hubert import HubertModel, HubertSizes
from vencoder.hubert_soft import HubertSoftEncoder, rename

GOLDENS = Path(__file__).parent / "parity/goldens"


@pytest.fixture
def clip_dir(tmp_path: Path) -> Path:
    """Two clips of alice (86 and 60 frames) and one of bob."""
    write_clip(tmp_path / "alice/long.wav", 1.0, seed=1)
    write_clip(tmp_path / "alice/short.wav", 0.7, seed=2)
    write_clip(tmp_path / "bob/clip.wav", 0.8, seed=3)
    return tmp_path


def dataset(wavs: list[Path], config: Config | None = None, **kwargs: bool) -> ClipDataset:
    return ClipDataset(wavs, config or tiny_config(), **{"training": True, **kwargs})


def test_items_and_batches_equal_the_golden_loader(tmp_path: Path) -> None:
    meta, arrays = golden.load(GOLDENS / "j_loader.npz")
    model = HubertModel(HubertSizes(projection=256))
    manifest = json.loads((GOLDENS / "manifests/hubert_soft.json").read_text())
    state = {key: torch.from_numpy(value) for key, value in fill.fill_state_dict(manifest).items()}
    checkpoint.load_into(model, rename(state), "the filled weights")
    encoder, predictor = HubertSoftEncoder(model, "cpu", "fp32"), get_predictor("dio")
    wavs = []
    for name, audio in golden.inputs(meta, arrays).items():
        wav = tmp_path / "dataset/44k" / f"{name}.wav"
        wav.parent.mkdir(parents=True)
        soundfile.write(wav, audio, SAMPLE_RATE, subtype="PCM_16")
        paths, contour = FeaturePaths.of(wav), predictor(audio)
        features.save_units(paths.units, encoder.encode(torch.from_numpy(resample(audio, SAMPLE_RATE, 16000))))
        features.save_f0(paths.f0, contour.f0, contour.uv)
        features.save_spec(paths.spec, spectrogram(torch.from_numpy(audio)[None], N_FFT, HOP, N_FFT)[0])
        features.save_volume(paths.volume, volume(audio, HOP))
        wavs.append(wav)

    clips = ClipDataset(wavs, Config.model_validate(meta["config"]["config_json"]), training=True)
    batch = collate([clips[0], clips[1]])

    names = {"c": "units", "y": "audio", "spk": "speaker"}
    for name in meta["outputs"]:
        golden.compare(meta, arrays, name, getattr(batch, names.get(name, name)).numpy())


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_audio_is_at_its_own_level_whatever_the_wav_format(tmp_path: Path, subtype: str) -> None:
    """(A22)"""
    wav = tmp_path / "alice/a.wav"
    write_clip(wav, 0.7, seed=1)
    expected = dataset([wav])[0].audio
    audio, _ = soundfile.read(wav)
    soundfile.write(wav, np.stack([audio, audio], axis=1), SAMPLE_RATE, subtype=subtype)  # stereo on top of it
    assert expected.abs().max() > 0.3
    torch.testing.assert_close(dataset([wav])[0].audio, expected, atol=2e-7, rtol=0)


def test_clips_over_max_speclen_are_cropped_at_random_and_everything_stays_aligned(clip_dir: Path) -> None:
    """(A22)"""
    wav = clip_dir / "alice/long.wav"
    config = tiny_config({"max_speclen": 30}, {"vol_embedding": True})
    whole = dataset([wav], tiny_config({"max_speclen": 86}, {"vol_embedding": True}))[0]
    assert whole.frames == 86
    starts = set()
    for epoch in range(12):
        clip = dataset([wav], config)[Draw(epoch, 0)]
        start = next(s for s in range(57) if torch.equal(whole.spec[:, s : s + 30], clip.spec))
        window = slice(start, start + 30)
        for name in ("units", "f0", "uv", "volume"):
            assert torch.equal(getattr(whole, name)[..., window], getattr(clip, name)), name
        assert torch.equal(whole.audio[:, start * HOP : (start + 30) * HOP], clip.audio)
        starts.add(start)
    assert len(starts) > 4


def test_validation_clips_are_whole(clip_dir: Path) -> None:
    clips = dataset([clip_dir / "alice/long.wav"], tiny_config({"max_speclen": 30}), training=False)
    assert clips[0].frames == 86


def test_a_draw_is_repeatable_and_follows_seed_and_epoch(clip_dir: Path) -> None:
    wavs = [clip_dir / "alice/long.wav"]

    def draw(epoch: int, seed: int = 5) -> torch.Tensor:
        return dataset(wavs, tiny_config({"max_speclen": 30, "seed": seed}))[Draw(epoch, 0)].audio

    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))
    assert not torch.equal(draw(3), draw(3, seed=6))


def test_clips_in_memory_equal_clips_from_files(clip_dir: Path) -> None:
    wavs = sorted(clip_dir.rglob("*.wav"))
    config = tiny_config({"max_speclen": 30, "vol_aug": True}, {"vol_embedding": True})
    from_files, in_memory = dataset(wavs, config), dataset(wavs, config, in_memory=True)
    for wav in wavs:
        wav.unlink()  # so that memory is all there is
    for index in range(len(wavs)):
        with pytest.raises(UserError):
            from_files[Draw(0, index)]
        assert in_memory[Draw(0, index)].frames == 30
    for wav, seed, seconds in zip(wavs, (1, 2, 3), (1.0, 0.7, 0.8), strict=True):
        write_clip(wav, seconds, seed=seed)
    for index in range(len(wavs)):
        for epoch in range(4):
            for left, right in zip(from_files[Draw(epoch, index)], in_memory[Draw(epoch, index)], strict=True):
                assert torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right


def test_loudness_augmentation_equals_features_of_the_scaled_audio(clip_dir: Path) -> None:
    clip = dataset([clip_dir / "alice/long.wav"], tiny_config({"max_speclen": 86}, {"vol_embedding": True}))[0]
    factors = []
    for seed in range(20):
        changed = change_loudness(clip, np.random.default_rng(seed))
        expected = spectrogram(changed.audio, N_FFT, HOP, N_FFT)[0]
        inner = slice(4, 80)  # the clip's own end is cut to whole frames, its spectrogram saw what follows
        torch.testing.assert_close(changed.spec[:, inner], expected[:, inner], atol=2e-4, rtol=2e-3)
        loudness = torch.from_numpy(volume(changed.audio[0].numpy(), HOP))
        torch.testing.assert_close(changed.volume[inner], loudness[inner], atol=1e-5, rtol=1e-4)
        factors.append(float(changed.audio.abs().max() / clip.audio.abs().max()))
        assert changed.audio.abs().max() <= 1.0001
    assert min(factors) >= 0.0999 and min(factors) < 0.3 and max(factors) > 0.8


def test_half_of_the_draws_change_their_loudness(clip_dir: Path) -> None:
    wavs = [clip_dir / "alice/short.wav"]
    config = tiny_config({"vol_aug": True, "max_speclen": 86}, {"vol_embedding": True})
    plain = dataset(wavs, tiny_config({"max_speclen": 86}, {"vol_embedding": True}))[0].audio
    clips = dataset(wavs, config, in_memory=True)
    changed = sum(not torch.equal(clips[Draw(epoch, 0)].audio, plain) for epoch in range(200))
    assert 70 <= changed <= 130
    assert torch.equal(dataset(wavs, config, training=False)[0].audio, plain)


def test_batches_are_padded_with_zeros_behind_the_longest_clip(clip_dir: Path) -> None:
    clips = dataset(sorted(clip_dir.rglob("*.wav")), tiny_config({"max_speclen": 86}))
    batch = collate([clips[1], clips[0], clips[2]])
    assert batch.lengths.tolist() == [86, 68, 60]
    assert batch.speaker.tolist() == [[0], [1], [0]]
    assert batch.volume is None
    for row, length in enumerate(batch.lengths.tolist()):
        assert not batch.spec[row, :, length:].any() and batch.spec[row, :, :length].all()
        assert not batch.audio[row, :, length * HOP :].any()
        assert not batch.units[row, :, length:].any() and not batch.f0[row, length:].any()


def test_a_clip_that_was_changed_after_its_features_is_left_out_and_named(clip_dir: Path) -> None:
    """A wav that was edited at the same length trained with what it was before."""
    wav, other = clip_dir / "alice/long.wav", clip_dir / "alice/short.wav"
    for each in (wav, other):
        features.write_stamp(each, features.Stamp(features.digest(each.read_bytes()), {"units": {"encoder": "x"}}))
    config = tiny_config(model={"speech_encoder": "x"})
    later = FeaturePaths.of(wav).stamp.stat().st_mtime + 10
    os.utime(other, (later, later))  # touched, and the same as before
    assert not dataset([wav, other], config).skipped
    wav.write_bytes(wav.read_bytes()[:-2] + b"xy")
    os.utime(wav, (later, later))
    ((left_out, reason),) = dataset([wav, other], config).skipped
    assert left_out == wav and "changed after its features were made" in reason


def test_a_clip_that_lacks_a_feature_is_left_out_and_named(clip_dir: Path) -> None:
    wav = clip_dir / "bob/clip.wav"
    FeaturePaths.of(wav).f0.unlink()
    clips = dataset(sorted(clip_dir.rglob("*.wav")))
    assert wav not in clips.wavs and len(clips) == 2 and clips[0].speaker_id == 0
    ((left_out, reason),) = clips.skipped
    assert left_out == wav and "clip.wav.f0.npy is missing; run preprocess_hubert_f0.py" in reason


def test_where_no_clip_is_left_the_missing_file_and_the_command_are_named(clip_dir: Path) -> None:
    wav = clip_dir / "bob/clip.wav"
    FeaturePaths.of(wav).f0.unlink()
    with pytest.raises(UserError, match="1 more clips") as caught:
        dataset([wav, clip_dir / "bob/gone.wav"])
    assert caught.value.where.endswith("bob/clip.wav.f0.npy")
    assert "preprocess_hubert_f0.py" in caught.value.fix


def test_whether_a_file_is_there_is_looked_at_before_its_speaker(clip_dir: Path) -> None:
    """A comment in a list was blamed for its speaker."""
    clips = dataset([Path("# my clips"), clip_dir, clip_dir / "bob/clip.wav"])
    assert [reason for _, reason in clips.skipped] == ["there is no such file"] * 2 and len(clips) == 1


@pytest.mark.parametrize("name", ["units", "spec", "f0"])
def test_a_feature_file_that_is_cut_says_how_to_make_it_anew(clip_dir: Path, name: str) -> None:
    wav = clip_dir / "bob/clip.wav"
    path = getattr(FeaturePaths.of(wav), name)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match="no readable") as caught:
        dataset([wav])[0]
    assert caught.value.where == str(path)
    assert caught.value.fix == "delete it and run preprocess_hubert_f0.py again"


def test_volume_is_asked_for_only_by_models_with_volume_embedding(clip_dir: Path) -> None:
    wavs = [clip_dir / "bob/clip.wav"]
    FeaturePaths.of(wavs[0]).volume.unlink()
    assert dataset(wavs)[0].volume is None
    with pytest.raises(UserError, match="missing") as caught:
        dataset(wavs, tiny_config(model={"vol_embedding": True}))
    assert caught.value.where.endswith("clip.wav.vol.npy")


def test_a_listed_wav_that_is_gone_names_the_lists(clip_dir: Path) -> None:
    with pytest.raises(UserError) as caught:
        dataset([clip_dir / "bob/gone.wav"])
    assert caught.value.where.endswith("bob/gone.wav") and "preprocess_flist_config.py" in caught.value.fix


def test_a_speaker_that_the_config_does_not_name_is_refused(clip_dir: Path) -> None:
    write_clip(clip_dir / "carol/a.wav", 0.6, seed=1)
    with pytest.raises(UserError, match="'carol'.*alice, bob"):
        dataset([clip_dir / "carol/a.wav"])


def test_a_speaker_id_beyond_the_model_is_refused(clip_dir: Path) -> None:
    with pytest.raises(UserError, match="ids up to 0"):
        dataset([clip_dir / "bob/clip.wav"], tiny_config(model={"n_speakers": 1}))


def test_units_of_another_width_or_encoder_are_refused(clip_dir: Path) -> None:
    wavs = [clip_dir / "bob/clip.wav"]
    with pytest.raises(UserError, match="16 channels, model.ssl_dim of the config is 256"):
        dataset(wavs, tiny_config(model={"ssl_dim": 256}))[0]
    features.write_stamp(wavs[0], features.Stamp("x", {"units": {"encoder": "dphubert"}}))
    with pytest.raises(UserError, match="made by dphubert, the config wants vec768l12"):
        dataset(wavs)


def test_a_clip_of_another_sampling_rate_is_refused(clip_dir: Path) -> None:
    wav = clip_dir / "bob/clip.wav"
    soundfile.write(wav, signals.voice_like(22050, 0.8), 22050)
    with pytest.raises(UserError, match="22050 Hz, the config wants 44100 Hz"):
        dataset([wav])[0]


def test_a_clip_that_was_cut_after_preprocessing_is_refused(clip_dir: Path) -> None:
    wav = clip_dir / "bob/clip.wav"
    soundfile.write(wav, signals.voice_like(SAMPLE_RATE, 0.5), SAMPLE_RATE)
    with pytest.raises(UserError, match="shorter than its features"):
        dataset([wav])[0]


def test_file_lists_are_utf8_and_take_the_first_field(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_text("﻿./dataset/44k/声/音 1.wav|extra\n\nb.wav\n", encoding="utf-8")
    assert read_file_list(path) == [Path("dataset/44k/声/音 1.wav"), Path("b.wav")]


def test_a_line_of_a_file_list_ends_at_a_line_feed_alone(tmp_path: Path) -> None:
    """U+2028, U+0085, vertical tab and form feed in a name split the line."""
    path = tmp_path / "train.txt"
    names = ["d/a\u2028b.wav", "d/a\u0085b.wav", "d/a\x0bb.wav", "d/a\x0cb.wav", "d/a\rb.wav"]
    path.write_bytes("\r\n".join([*names, ""]).encode())
    assert read_file_list(path) == [Path(name) for name in names]


def test_backslashes_of_a_list_made_on_windows_separate_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    odd = Path("d") / r"odd\name.wav"
    odd.parent.mkdir()
    odd.touch()
    Path("train.txt").write_text("dataset\\44k\\alice\\0.wav\n./dataset/44k\\bob\\1.wav\nd/odd\\name.wav\n")
    assert read_file_list("train.txt") == [Path("dataset/44k/alice/0.wav"), Path("dataset/44k/bob/1.wav"), odd]


@pytest.mark.parametrize("content", ["", "\n  \n"])
def test_an_empty_file_list_is_an_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "train.txt"
    path.write_text(content)
    with pytest.raises(UserError, match="empty") as caught:
        read_file_list(path)
    assert caught.value.where == str(path)


def test_a_missing_file_list_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file list"):
        read_file_list(write_list(tmp_path / "x.txt", []).with_name("train.txt"))


def test_ranks_draw_disjoint_clips_in_a_new_order_each_epoch() -> None:
    """(A18)"""
    samplers = [ClipSampler(range(11), rank, 3, seed=1) for rank in range(3)]

    def epoch_of(number: int) -> list[list[int]]:
        for sampler in samplers:
            sampler.set_position(number)
        return [[draw.index for draw in sampler] for sampler in samplers]

    first, second = epoch_of(1), epoch_of(2)
    for epoch in (first, second):
        drawn = sum(epoch, [])
        assert len(drawn) == len(set(drawn)) == 9  # the two left over differ from epoch to epoch
    assert first != second and epoch_of(1) == first
    left_out = {frozenset(range(11)) - frozenset(sum(epoch_of(number), [])) for number in range(10)}
    assert len(left_out) > 3


def test_one_process_draws_every_clip_and_can_go_on_in_the_middle() -> None:
    sampler = ClipSampler(range(7), 0, 1, seed=1)
    sampler.set_position(4)
    whole = list(sampler)
    assert sorted(draw.index for draw in whole) == list(range(7)) and {draw.epoch for draw in whole} == {4}
    sampler.set_position(4, skip=4)
    assert list(sampler) == whole[4:]


def test_fewer_clips_than_ranks_still_give_every_rank_one() -> None:
    assert [len(list(ClipSampler(range(2), rank, 3, seed=1))) for rank in range(3)] == [1, 1, 1]


def test_features_of_the_original_with_object_arrays_are_read(clip_dir: Path) -> None:
    wav = clip_dir / "bob/clip.wav"
    paths = FeaturePaths.of(wav)
    expected = dataset([wav])[0]
    rows = np.load(paths.f0)
    np.save(paths.f0, np.array([row.astype(float).tolist() for row in rows], dtype=object))
    clip = dataset([wav])[0]
    assert torch.equal(clip.f0, expected.f0) and torch.equal(clip.uv, expected.uv)


def test_streams_are_cut_to_the_shorter_of_f0_and_spectrogram(clip_dir: Path) -> None:
    wav = clip_dir / "bob/clip.wav"
    write_features(wav, signals.voice_like(SAMPLE_RATE, 0.8))
    spec = features.load_spec(FeaturePaths.of(wav).spec)
    features.save_spec(FeaturePaths.of(wav).spec, spec[:, :-2])
    clip = dataset([wav], tiny_config({"max_speclen": 100}))[0]
    frames = spec.shape[-1] - 2
    assert clip.frames == clip.units.shape[-1] == clip.spec.shape[-1] == frames
    assert clip.audio.shape == (1, frames * HOP)
