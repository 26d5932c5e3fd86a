"""ContentVec, HubertSoft and Chinese HuBERT: parity, layouts, windows, batches, precision."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from modules.audio.io import load_audio
from modules.errors import UserError
from tests import encoder_files as files
from tests.conftest import ROOT
from tests.parity import golden, signals
from vencoder import ENCODERS, get_encoder, hubert
from vencoder.encoder import MAX_WINDOW, SHORTEST_WINDOW, join_windows, plan_windows
from vencoder.hubert import STANDARD_CONVS, HubertEncoder, parse_convs
from vencoder.hubert_soft import HubertSoftEncoder

CASES = {
    "f_contentvec": {"l9_final_proj": {"layer": 9, "project": True}, "l12": {"layer": 12}},
    "f_cnhubertlarge_bias0": {"units": {}},
    "f_cnhubertlarge_bias1": {"units": {}},
}


def write_case(folder: Path, name: str) -> Path:
    meta, _, manifest, _ = files.load_case(name)
    return files.write_fairseq(folder / f"{name}.pt", files.filled(manifest), meta["config"]["cfg_model"])


@pytest.fixture(scope="module")
def contentvec(tmp_path_factory) -> Path:
    """A small ContentVec file."""
    return write_case(tmp_path_factory.mktemp("contentvec"), "f_contentvec")


@pytest.fixture(scope="module")
def full_size(tmp_path_factory) -> Path:
    """A full-size ContentVec file with the pack's values."""
    manifest = files.load_manifest("contentvec_hubert_base")
    path = tmp_path_factory.mktemp("full") / "checkpoint_best_legacy_500.pt"
    return files.write_fairseq(path, files.filled(manifest), manifest["cfg_model"])


@pytest.mark.parametrize("name", CASES)
def test_units_match_the_original(name, tmp_path):
    meta, arrays, _, wav = files.load_case(name)
    path = write_case(tmp_path, name)
    for output, options in CASES[name].items():
        encoder = HubertEncoder.from_file(path, precision="fp32", **options)
        golden.compare(meta, arrays, output, encoder.encode(wav).numpy())
        for samples, frames in meta["frames"].items():
            assert encoder.encode(torch.zeros(int(samples))).shape[2] == frames


@pytest.fixture(scope="module")
def soft(tmp_path_factory) -> Path:
    state = files.filled(files.load_manifest("hubert_soft"))
    path = tmp_path_factory.mktemp("soft") / "hubert-soft-0d54a1f4.pt"
    torch.save({f"module.{key}": value for key, value in state.items()}, path)
    return path


def test_hubertsoft_units_match_the_original(soft):
    meta, arrays = golden.load(files.GOLDENS / "f_hubertsoft.npz")
    encoder = HubertSoftEncoder.from_file(soft, precision="fp32")
    wav = torch.from_numpy(golden.inputs(meta, arrays)["wav"])
    units = encoder.encode(wav)
    golden.compare(meta, arrays, "units", units.numpy())
    for samples, frames in meta["frames"].items():
        assert encoder.encode(torch.zeros(int(samples))).shape[2] == frames
    half = get_encoder("hubertsoft", pretrain_dir=soft.parent)
    assert half.width == 256 and files.snr(half.encode(wav), units) > 30


def test_layers_that_are_not_needed_are_not_even_loaded(contentvec):
    assert len(HubertEncoder.from_file(contentvec, layer=9, project=True).model.blocks) == 9
    with pytest.raises(UserError, match="12 layers, 13"):
        HubertEncoder.from_file(contentvec, layer=13)


def test_full_size_contentvec_loads_strictly_and_keeps_30_db_in_native_precision(full_size, voices):
    import soundfile

    audio, rate = soundfile.read(voices / "librispeech" / "1688" / "1688-142285-0001.flac", dtype="float32")
    assert rate == 16000
    clip = torch.from_numpy(audio[: 3 * rate])
    for name in ("vec768l12", "vec256l9"):
        native = get_encoder(name, pretrain_dir=full_size.parent)
        exact = get_encoder(name, pretrain_dir=full_size.parent, precision="fp32")
        assert native.width == exact.width == ENCODERS[name].width
        assert files.snr(native.encode(clip), exact.encode(clip)) > 30


def test_full_size_chinese_hubert_loads_strictly(tmp_path):
    manifest = files.load_manifest("cnhubert_large")
    path = tmp_path / "chinese-hubert-large-fairseq-ckpt.pt"
    state = files.shapes_only(manifest)
    files.write_fairseq(path, state, manifest["cfg_model"])
    encoder = get_encoder("cnhubertlarge", pretrain_dir=tmp_path)
    assert encoder.width == 1024 and len(encoder.model.blocks) == 24 and encoder.model.pre_norm
    del state["encoder.layers.23.fc1.bias"]
    files.write_fairseq(path, state, manifest["cfg_model"])
    with pytest.raises(UserError, match=r"blocks\.23\.feed_forward\.up\.bias"):
        get_encoder("cnhubertlarge", pretrain_dir=tmp_path)


def test_half_precision_file_loads(contentvec, tmp_path):
    content = torch.load(contentvec)
    content["model"] = {key: value.half() for key, value in content["model"].items()}
    torch.save(content, tmp_path / "half.pt")
    wav = torch.from_numpy(signals.voice_like(16000, 1.0))
    exact = HubertEncoder.from_file(contentvec, precision="fp32").encode(wav)
    assert files.snr(HubertEncoder.from_file(tmp_path / "half.pt", precision="fp32").encode(wav), exact) > 40


def test_two_runs_give_the_same_units_and_no_layer_trains(contentvec):
    """(A26)"""
    wav = torch.from_numpy(signals.voice_like(16000, 1.0))
    encoder = HubertEncoder.from_file(contentvec)
    assert not any(module.training for module in encoder.model.modules())
    first, second = encoder.encode(wav), encoder.encode(wav)
    assert torch.equal(first, second) and not first.requires_grad


def test_joints_of_long_audio_do_not_show(full_size):
    """Over the second around a joint the units stay within 5 % of one pass; docs/encoders.md has all 12 layers."""
    songs = [load_audio(path, 16000)[0] for path in sorted((ROOT / "demo" / "voices").rglob("*.flac"))]
    audio = torch.from_numpy(np.concatenate(songs)[: 33 * 16000])
    assert len(audio) == 33 * 16000
    encoder = HubertEncoder.from_file(full_size, layer=2)
    units = encoder.encode(audio)[0].T
    with torch.inference_mode():
        whole = encoder.model(encoder.prepare(audio)[None])[0]
    assert units.shape == whole.shape == (encoder.frames(len(audio)), 768)
    error = (units - whole).norm(dim=1) / whole.norm(dim=1)
    (_, stop), (start, _) = encoder.plan(len(units))
    joint = (start + stop) // 2
    assert error[joint - 25 : joint + 25].mean() < 0.05
    steps = (units[1:] - units[:-1]).norm(dim=1)
    assert steps[joint - 25 : joint + 25].mean() < 1.5 * steps.mean()


@pytest.mark.parametrize("frames", [1, 1498, 1499, 1500, 2000, 2974, 3000, 180_000])
def test_windows_cover_everything_in_equal_lengths(frames):
    plan = plan_windows(frames, MAX_WINDOW, 200)
    assert plan[0][0] == 0 and plan[-1][1] == frames
    assert len({stop - start for start, stop in plan}) == 1
    assert all(stop - start <= MAX_WINDOW for start, stop in plan)
    heard = sum(stop - start for start, stop in plan)
    assert len(plan) == 1 or heard <= max(frames + len(plan) * 200, len(plan) * SHORTEST_WINDOW)
    assert all(stop - start >= 200 for (_, stop), (start, _) in zip(plan, plan[1:], strict=False))
    track = torch.arange(frames, dtype=torch.float32)[:, None]
    joined = join_windows([track[start:stop] for start, stop in plan], plan, 50)
    torch.testing.assert_close(joined, track)


def test_batch_gives_what_each_clip_gives_alone(contentvec):
    encoder = HubertEncoder.from_file(contentvec, precision="fp32", layer=9, project=True)
    clips = [torch.from_numpy(signals.voice_like(16000, s, seed=n)) for n, s in enumerate((1.0, 2.0, 1.0, 0.5, 2.0))]
    together = encoder.encode_batch(clips)
    for clip, units in zip(clips, together, strict=True):
        torch.testing.assert_close(units, encoder.encode(clip), atol=1e-5, rtol=1e-4)


def test_equal_clips_run_in_one_pass(contentvec, monkeypatch):
    encoder = HubertEncoder.from_file(contentvec)
    sizes = []
    encode_windows = encoder.encode_windows
    monkeypatch.setattr(
        encoder, "encode_windows", lambda windows: sizes.append(len(windows)) or encode_windows(windows)
    )
    encoder.encode_batch([torch.zeros(16000), torch.zeros(8000), torch.zeros(16000)])
    assert sorted(sizes) == [1, 2]


def test_front_end_in_pieces_gives_what_one_piece_gives(contentvec, monkeypatch):
    """Its group norm spans the clip, and pieces share the statistics of the whole."""
    audio = torch.from_numpy(signals.voice_like(16000, 4.0))
    front = HubertEncoder.from_file(contentvec, precision="fp32").model.front_end
    whole = front(audio, torch.float32)
    for piece in (1, 60, 199):
        monkeypatch.setattr(hubert, "PIECE", piece)
        torch.testing.assert_close(front(audio, torch.float32), whole, atol=1e-5, rtol=1e-4)


def test_front_end_is_group_norm_after_a_convolution(contentvec):
    """The folded statistics against torch's own operators."""
    state = torch.load(contentvec)["model"]
    audio = torch.from_numpy(signals.voice_like(16000, 1.0))

    def reference(x: Tensor) -> Tensor:
        for index, (_, _, stride) in enumerate(STANDARD_CONVS):
            x = torch.nn.functional.conv1d(x, state[f"feature_extractor.conv_layers.{index}.0.weight"], stride=stride)
            if index == 0:
                norm = (state[f"feature_extractor.conv_layers.0.2.{kind}"] for kind in ("weight", "bias"))
                x = torch.nn.functional.group_norm(x, x.shape[1], *norm)
            x = torch.nn.functional.gelu(x)
        return x

    front = HubertEncoder.from_file(contentvec, precision="fp32").model.front_end
    ours = front(audio, torch.float32)
    torch.testing.assert_close(ours.T, reference(audio[None, None])[0], atol=1e-5, rtol=1e-4)


def test_silence_and_very_short_clips_give_finite_units(contentvec):
    encoder = HubertEncoder.from_file(contentvec)
    for samples in (0, 1, 399, 16000):
        units = encoder.encode(torch.zeros(samples))
        assert torch.isfinite(units).all() and units.shape[2] == max(1, (samples - 80) // 320)


def test_stereo_is_refused(contentvec):
    with pytest.raises(ValueError, match="mono"):
        HubertEncoder.from_file(contentvec).encode(torch.zeros(2, 16000))


@pytest.mark.parametrize(
    "text", ["__import__('os').getcwd()", "[(512,10,5)] * 10**9", "[(1,2)]", "open('x')", "[(512,10,5)] * 99999"]
)
def test_convolutions_are_read_and_never_run(text):
    assert parse_convs("[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2") == STANDARD_CONVS
    with pytest.raises((ValueError, SyntaxError)):
        parse_convs(text)


def test_unknown_encoder_and_missing_weights_are_clear(tmp_path, monkeypatch):
    monkeypatch.delenv("SVC_AUTO_DOWNLOAD", raising=False)
    with pytest.raises(UserError, match="no speech encoder vec512"):
        get_encoder("vec512", pretrain_dir=tmp_path)
    with pytest.raises(UserError, match="contentvec are missing") as caught:
        get_encoder("vec768l12", pretrain_dir=tmp_path)
    assert "pretrain fetch contentvec" in caught.value.fix


def test_registry_imports_without_torch():
    code = "import sys, vencoder; assert len(vencoder.ENCODERS) > 8; assert 'torch' not in sys.modules"
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)
    assert time.perf_counter() - start < 2
