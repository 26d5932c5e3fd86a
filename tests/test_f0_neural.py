"""rmvpe and fcpe: the goldens, the hop grid, windows over long audio, and their weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modules import checkpoint
from modules.errors import UserError
from modules.f0 import F0Predictor, get_predictor
from modules.f0.fcpe import FcpeNetwork
from modules.f0.neural import local_average_f0, sample_track, windows
from modules.f0.rmvpe import RmvpeNetwork
from tests.parity import fill, golden, signals

GOLDENS = Path(__file__).parent / "parity" / "goldens"
RATE, HOP = 44100, 512
Case = tuple[dict[str, Any], dict[str, np.ndarray]]


def manifest(name: str) -> dict[str, Any]:
    return json.loads((GOLDENS / "manifests" / f"{name}.json").read_text())


def shapes(name: str) -> dict[str, list[int]]:
    return {key: shape for key, shape, *_ in manifest(name)["entries"]}


def filled(name: str) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value) for key, value in fill.fill_state_dict(manifest(name)).items()}


def cents(value: np.ndarray, reference: np.ndarray | float) -> np.ndarray:
    return np.abs(1200 * np.log2(value / reference))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrain folder with both files, filled as the goldens' were."""
    folder = tmp_path_factory.mktemp("pretrain")
    torch.save({"model": filled("rmvpe")}, folder / "rmvpe.pt")
    config = golden.load(GOLDENS / "g_fcpe.npz")[0]["config"]["fcpe_checkpoint_config"]
    fcpe = {"cent_table": FcpeNetwork(layers=1).cent_table, **filled("fcpe")}
    torch.save({"model": fcpe, "config": config}, folder / "fcpe.pt")
    return folder


@pytest.fixture(scope="module")
def predictors(weights: Path) -> dict[str, F0Predictor]:
    # 0.05 for both, as the goldens have it
    return {name: get_predictor(name, threshold=0.05, pretrain_dir=weights) for name in ("rmvpe", "fcpe")}


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> F0Predictor:
    """fcpe with torchfcpe's weights, which are trained."""
    return get_predictor("fcpe", pretrain_dir=tmp_path_factory.mktemp("empty"))


def steps(predictor: F0Predictor, audio: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mel, salience and raw track."""
    with torch.inference_mode():
        padded, total = predictor._prepare(audio)
        window = next(windows(total))
        mel = predictor._mel(padded, window, total)
        salience = predictor._salience(mel, None)
        return mel.numpy(), salience.numpy(), predictor._decode(salience).numpy()


def test_rmvpe_equals_the_golden_up_to_its_own_frames(predictors: dict[str, F0Predictor]) -> None:
    meta, arrays = golden.load(GOLDENS / "g_rmvpe.npz")
    wav = golden.inputs(meta, arrays)["wav"]
    mel, salience, track = steps(predictors["rmvpe"], wav)
    golden.compare(meta, arrays, "mel", mel[None])
    golden.compare(meta, arrays, "salience", salience[None])
    golden.compare(meta, arrays, "f0_raw_16k_frames", track)
    golden.compare(meta, arrays, "f0_raw_16k_frames", predictors["rmvpe"].raw_track(wav))


def test_fcpe_equals_the_golden_up_to_its_own_frames(predictors: dict[str, F0Predictor]) -> None:
    meta, arrays = golden.load(GOLDENS / "g_fcpe.npz")
    wav = golden.inputs(meta, arrays)["wav"]
    mel, salience, track = steps(predictors["fcpe"], wav)
    golden.compare(meta, arrays, "mel", mel.T[None])
    golden.compare(meta, arrays, "latent_sigmoid", salience[None])
    golden.compare(meta, arrays, "f0_raw_16k_frames", track)
    golden.compare(meta, arrays, "f0_raw_16k_frames", predictors["fcpe"].raw_track(wav))


def test_fcpe_computes_its_cent_table() -> None:
    meta, arrays = golden.load(GOLDENS / "buffers_fcpe_cent_table.npz")
    golden.compare(meta, arrays, "cent_table", FcpeNetwork(layers=1).cent_table.numpy())


def test_every_weight_of_the_files_has_its_place() -> None:
    """The filters on the skips (unet.tf) are in the released rmvpe.pt, but its model does not use them."""
    with torch.device("meta"):
        built = {"rmvpe": RmvpeNetwork(), "fcpe": FcpeNetwork()}
    own = {name: {k: list(v.shape) for k, v in net.state_dict().items()} for name, net in built.items()}
    assert own["rmvpe"] == {k: v for k, v in shapes("rmvpe").items() if not k.startswith("unet.tf.")}
    fcpe = shapes("fcpe")
    fcpe["dense_out.weight"] = fcpe.pop("dense_out.weight_v")  # weight norm is folded
    del fcpe["dense_out.weight_g"]
    assert own["fcpe"] == fcpe


@pytest.mark.parametrize("name", ["rmvpe", "fcpe"])
@pytest.mark.parametrize("n_frames, output", [(258, "f0_uv"), (260, "f0_uv_plen260")])
def test_the_hop_grid_stays_within_20_cents_of_the_golden(
    name: str, n_frames: int, output: str, predictors: dict[str, F0Predictor]
) -> None:
    """(A24) The original takes one of the 10 ms frames around; where these agree, so must we."""
    meta, arrays = golden.load(GOLDENS / f"g_{name}.npz")
    wav = golden.inputs(meta, arrays)["wav"]
    raw = arrays["out_f0_raw_16k_frames"]
    contour = predictors[name](wav, n_frames)
    taken = np.arange(n_frames) * len(raw) // n_frames  # the original's nearest frame
    position = np.arange(n_frames) * HOP / RATE * 100
    around = np.stack([taken, np.floor(position), np.floor(position) + 1]).astype(int).clip(max=len(raw) - 1)
    steady = (raw[around] > 0).all(axis=0) & (np.ptp(1200 * np.log2(raw[around]), axis=0) < 20)
    assert steady.sum() > 10
    assert cents(contour.f0[steady], arrays[f"out_{output}"][steady]).max() < 20
    inside = np.sort(raw[around[1:]], axis=0)
    assert (contour.f0 >= inside[0] * 0.999).all() and (contour.f0 <= inside[1] * 1.001).all()


@pytest.mark.parametrize("name", ["rmvpe", "fcpe"])
def test_the_threshold_makes_frames_unvoiced_as_in_the_golden(name: str, weights: Path) -> None:
    meta, arrays = golden.load(GOLDENS / f"g_{name}_threshold.npz")
    wav = golden.inputs(meta, arrays)["wav"]
    predictor = get_predictor(name, threshold=meta["config"]["threshold"], pretrain_dir=weights)
    flags = arrays["out_f0_uv_flags"]
    raw = predictor.raw_track(wav) > 0
    taken = np.arange(len(flags)) * len(raw) // len(flags)  # the original's nearest frame
    assert (raw[taken] == (flags > 0)).mean() > 0.97  # the golden's own tolerance
    contour = predictor(wav)
    position = np.floor(np.arange(len(flags)) * HOP / RATE * 100).astype(int)
    around = raw[np.stack([position, np.minimum(position + 1, len(raw) - 1)])]
    agree = around[0] == around[1]
    assert 0.1 < contour.uv.mean() < 0.9 and agree.mean() > 0.5
    np.testing.assert_array_equal(contour.uv[agree] > 0, around[0][agree])
    assert (contour.f0 > 0).all()


def vibrato(seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """A sung note at 220 Hz with 80 cents of vibrato at 5.5 Hz, and its f0 at every sample."""
    times = np.arange(int(seconds * RATE)) / RATE
    f0 = 220 * 2 ** (0.8 / 12 * np.sin(2 * np.pi * 5.5 * times))
    phase = 2 * np.pi * np.cumsum(f0) / RATE
    return sum(0.25 / h * np.sin(h * phase) for h in range(1, 12)).astype(np.float32), f0


def test_vibrato_has_no_stair_steps() -> None:
    """(A24) Nearest-frame sampling of the same 10 ms track is off by up to 5 ms of vibrato."""
    n_frames = 200
    exact = vibrato(3.0)[1]
    times = np.arange(n_frames) * HOP / RATE
    track = exact[(np.arange(300) * RATE // 100)]
    truth = exact[np.round(times * RATE).astype(int)]
    smooth = cents(sample_track(track, times * 100), truth)
    nearest = cents(track[np.round(times * 100).astype(int)], truth)
    assert smooth.max() < 2.0 < 10 < nearest.max()


def test_fcpe_follows_a_vibrato(bundled: F0Predictor) -> None:
    audio, exact = vibrato(2.0)
    contour = bundled(audio)
    truth = exact[np.arange(len(contour.f0)) * HOP]
    middle = slice(10, -10)
    assert contour.uv[middle].all() and cents(contour.f0[middle], truth[middle]).max() < 12


def test_unvoiced_neighbours_are_not_interpolated() -> None:
    track = np.array([0.0, 100.0, 200.0, 0.0])
    got = sample_track(track, np.array([0.4, 0.6, 1.0, 1.5, 2.4, 2.6, 9.0]))
    np.testing.assert_allclose(got, [0, 100, 100, 100 * 2**0.5, 200, 0, 0])


def loop_f0(salience: np.ndarray, table: np.ndarray, threshold: float) -> np.ndarray:
    """One frame after the other, bins beyond the ends left out."""
    result = []
    for frame in salience:
        best = int(frame.argmax())
        low, high = max(0, best - 4), min(len(frame), best + 5)
        mean = (frame[low:high] * table[low:high]).sum() / frame[low:high].sum()
        result.append(10 * 2 ** (mean / 1200) if frame[best] > threshold else 0.0)
    return np.array(result)


def test_the_decoding_of_all_frames_at_once_equals_a_loop() -> None:
    """(C3)"""
    salience = torch.rand(200, 360, generator=torch.Generator().manual_seed(1))
    salience[0, 0] = salience[1, 359] = salience[2, 2] = 2.0
    salience[3:20] *= 0.5
    table = 2000 + 20.0 * torch.arange(360)
    got = local_average_f0(salience, table, threshold=0.9).numpy()
    np.testing.assert_allclose(got, loop_f0(salience.numpy(), table.numpy(), 0.9), rtol=1e-5)
    assert (got[3:20] == 0).all() and (got > 0).sum() > 100


def test_windows_cover_every_frame_once() -> None:
    for total in (1, 64, 100, 101, 499, 1000):
        spans = list(windows(total, core=64, context=16))
        assert [frame for span in spans for frame in range(span.start, span.stop)] == list(range(total))
        assert all(span.first <= span.start < span.stop <= span.last <= total for span in spans)


def test_fcpe_gives_in_windows_what_it_gives_in_one_pass(bundled: F0Predictor) -> None:
    audio = signals.voice_like(RATE, 12.0, seed=5)
    whole = bundled.raw_track(audio)
    bundled.core_frames, bundled.context_frames = 320, 160
    try:
        windowed = bundled.raw_track(audio)
    finally:
        del bundled.core_frames, bundled.context_frames
    assert (whole > 0).mean() > 0.5
    np.testing.assert_array_equal(whole > 0, windowed > 0)
    assert cents(windowed[whole > 0], whole[whole > 0]).max() < 1


def test_rmvpe_gives_in_windows_what_it_gives_in_one_pass(weights: Path) -> None:
    """With features of ordinary size: the filled weights drive them to 900, where the GRU forgets nothing."""
    predictor = get_predictor("rmvpe", pretrain_dir=weights)
    with torch.no_grad():
        predictor.network.cnn.weight /= 900
        predictor.network.cnn.bias /= 900
    audio = signals.voice_like(RATE, 13.0, seed=5)
    whole = predictor.raw_track(audio)
    predictor.core_frames, predictor.context_frames = 320, 480
    windowed = predictor.raw_track(audio)
    assert len(list(windows(len(whole), 320, 480))) > 3 and len(np.unique(whole)) > 1000
    assert (cents(windowed, whole) < 1).mean() > 0.995  # two bins of equal height may change places


def test_weights_are_read_once(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """(C1)"""
    calls: list[Path] = []
    original = checkpoint.load

    def counting(path: Path) -> Any:
        calls.append(path)
        return original(path)

    monkeypatch.setattr(checkpoint, "load", counting)
    predictor = get_predictor("fcpe", pretrain_dir=weights)
    for _ in range(2):
        predictor(signals.voice_like(RATE, 0.3))
    assert calls == [weights / "fcpe.pt"]


def test_building_and_running_moves_no_global_generator(weights: Path) -> None:
    before = torch.get_rng_state()
    for name in ("rmvpe", "fcpe"):
        get_predictor(name, pretrain_dir=weights)(signals.voice_like(RATE, 0.3))
    assert torch.equal(before, torch.get_rng_state())


def test_missing_rmvpe_weights_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SVC_AUTO_DOWNLOAD", raising=False)
    with pytest.raises(UserError) as caught:
        get_predictor("rmvpe", pretrain_dir=tmp_path)
    message = str(caught.value)
    assert str(tmp_path / "rmvpe.pt") in message
    assert "https://huggingface.co/datasets/ylzz1997/rmvpe_pretrain_model/resolve/main/rmvpe.pt" in message
    assert "--f0_predictor pm, dio, harvest, crepe, fcpe" in message


@pytest.mark.parametrize(("key", "value"), [("fmax", 11025), ("sampling_rate", 22050), ("hop_size", 256)])
def test_fcpe_weights_that_want_another_mel_are_refused(weights: Path, tmp_path: Path, key: str, value: int) -> None:
    content = torch.load(weights / "fcpe.pt", weights_only=True)
    content["config"]["mel"][key] = value
    torch.save(content, tmp_path / "fcpe.pt")
    with pytest.raises(UserError, match=f"{key} {value}"):
        get_predictor("fcpe", pretrain_dir=tmp_path)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {"x": torch.zeros(1)}}, tmp_path / "fcpe.pt")
    with pytest.raises(UserError, match="not an FCPE model"):
        get_predictor("fcpe", pretrain_dir=tmp_path)
    torch.save({"model": {"x": torch.zeros(1)}}, tmp_path / "rmvpe.pt")
    with pytest.raises(UserError, match="do not fit"):
        get_predictor("rmvpe", pretrain_dir=tmp_path)


def test_fcpe_without_a_file_equals_torchfcpe(bundled: F0Predictor) -> None:
    import torchaudio
    import torchfcpe

    audio = signals.voice_like(RATE, 2.0, seed=9)
    wave = torchaudio.functional.resample(torch.from_numpy(audio), RATE, 16000, lowpass_filter_width=128)
    model = torchfcpe.spawn_bundled_infer_model(device="cpu")
    want = model.infer(wave[None, :, None], sr=16000, decoder_mode="local_argmax", threshold=0.006)[
        0, :, 0
    ].numpy()
    got = bundled.raw_track(audio)
    np.testing.assert_array_equal(got > 0, want > 0)
    assert (want > 0).sum() > 100 and cents(got[want > 0], want[want > 0]).max() < 0.1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["rmvpe", "fcpe"])
def test_the_device_gives_what_the_cpu_gives(name: str, weights: Path) -> None:
    audio = signals.voice_like(RATE, 3.0, seed=9)
    cpu, cuda = (
        get_predictor(name, pretrain_dir=weights, device=device).raw_track(audio) for device in ("cpu", "cuda")
    )
    assert (cents(cuda, cpu) < 1).mean() > 0.98
