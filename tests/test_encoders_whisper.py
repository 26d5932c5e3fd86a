"""The Whisper encoders: parity, both file formats, windows, precision, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import vencoder
from modules.errors import UserError
from tests import encoder_files as files
from tests.parity import golden, signals
from vencoder import get_encoder
from vencoder.whisper import Dims, WhisperEncoder, WhisperModel, log_mel, rename_openai, sinusoids


@pytest.fixture(scope="module")
def case():
    return files.load_case("f_whisper_ppg")


@pytest.fixture(scope="module")
def official(case, tmp_path_factory) -> Path:
    return files.write_whisper(tmp_path_factory.mktemp("whisper") / "tiny.pt", case[2])


def test_units_and_log_mel_match_the_original(case, official):
    meta, arrays, _, wav = case
    encoder = WhisperEncoder.from_file(official, precision="fp32", padded=True)
    golden.compare(meta, arrays, "units", encoder.encode(wav).numpy())
    mel = log_mel(wav, 80, 3000)
    assert list(mel.shape) == meta["log_mel_shape"]
    golden.compare(meta, arrays, "log_mel_first400", mel[:, :400].numpy())
    golden.compare(meta, arrays, "positional_embedding_every100", sinusoids(1500, 48)[::100].numpy())


@pytest.mark.parametrize("padded", [True, False])
def test_frame_counts_match_the_original(case, official, padded):
    encoder = WhisperEncoder.from_file(official, precision="fp32", padded=padded)
    for samples, frames in case[0]["frames"].items():
        assert encoder.encode(torch.zeros(int(samples))).shape == (1, 48, frames)
    assert encoder.encode(torch.zeros(0)).shape == (1, 48, 1)


def test_ctranslate2_file_gives_the_units_of_the_official_file(case, official, tmp_path):
    wav = torch.from_numpy(signals.voice_like(16000, 2.0))
    expected = WhisperEncoder.from_file(official, precision="fp32").encode(wav)
    exact = files.write_ctranslate2(tmp_path / "f32.bin", case[2], torch.float32)
    torch.testing.assert_close(WhisperEncoder.from_file(exact, precision="fp32").encode(wav), expected)
    half = files.write_ctranslate2(tmp_path / "f16.bin", case[2])
    assert files.snr(WhisperEncoder.from_file(half, precision="fp32").encode(wav), expected) > 40


def test_input_over_30_s_keeps_its_end(case, official):
    """(A25)"""
    audio = torch.from_numpy(signals.voice_like(16000, 45.0))
    for padded in (True, False):
        encoder = WhisperEncoder.from_file(official, precision="fp32", padded=padded)
        units = encoder.encode(audio)
        assert units.shape == (1, 48, 45 * 50)
        start, stop = encoder.plan(45 * 50)[-1]
        # the last window alone, with the floor of its log-mel fixed by the loudest frame of the whole clip
        mel = log_mel(audio, 80, stop * 2 + 2 * encoder.silence)[:, start * 2 :][:, :3000]
        alone = encoder.model(mel[None])[0, : stop - start]
        torch.testing.assert_close(units[0, :, -200:].T, alone[-200:], atol=1e-4, rtol=1e-4)


def test_short_clip_of_a_small_encoder_does_not_pay_for_30_s(case, official, monkeypatch):
    """(A25)"""
    seen = []
    forward = WhisperModel.forward
    monkeypatch.setattr(WhisperModel, "forward", lambda self, mel: seen.append(mel.shape[2]) or forward(self, mel))
    WhisperEncoder.from_file(official, precision="fp32").encode(torch.zeros(16000))
    assert seen == [2 * (50 + 25)]
    assert not any(vencoder.ENCODERS[f"whisper-ppg-{size}"].options for size in ("small", "base", "tiny", "tiny.en"))
    assert vencoder.ENCODERS["whisper-ppg"].options == {"padded": True}  # as 4.1 models expect it


def test_full_size_tiny_loads_strictly(tmp_path):
    manifest = files.load_manifest("whisper_tiny")
    state = files.shapes_only(manifest, torch.float16)
    torch.save({"dims": manifest["dims"], "model_state_dict": state}, tmp_path / "tiny.pt")
    encoder = get_encoder("whisper-ppg-tiny", pretrain_dir=tmp_path)
    assert encoder.width == 384 and len(encoder.model.blocks) == 4
    del state["encoder.blocks.3.mlp.2.bias"]
    torch.save({"dims": manifest["dims"], "model_state_dict": state}, tmp_path / "tiny.pt")
    with pytest.raises(UserError, match="blocks.3.feed_forward.down.bias"):
        get_encoder("whisper-ppg-tiny", pretrain_dir=tmp_path)


@pytest.mark.parametrize(("name", "width"), [("medium", 1024), ("large-v2", 1280)])
def test_large_sizes_have_exactly_the_keys_of_the_official_file(parity_pack, name, width):
    manifest = json.loads((parity_pack / "manifests" / f"whisper_{name}.json").read_text(encoding="utf-8"))
    dims = manifest["dims"]
    with torch.device("meta"):
        state = rename_openai({key: torch.empty(shape) for key, shape, *_ in manifest["entries"]})
        model = WhisperModel(Dims(*(dims[key] for key in Dims.__dataclass_fields__)))
    assert {key: value.shape for key, value in state.items()} == {
        key: value.shape for key, value in model.state_dict().items()
    }
    assert dims["n_audio_state"] == width


def test_weights_of_another_size_are_refused(official, tmp_path):
    (tmp_path / "base.pt").write_bytes(official.read_bytes())
    with pytest.raises(UserError, match="width 48, whisper-ppg-base has 512"):
        get_encoder("whisper-ppg-base", pretrain_dir=tmp_path)


def test_native_precision_keeps_30_db_on_the_full_size_model(tmp_path):
    path = files.write_whisper(tmp_path / "tiny.pt", files.load_manifest("whisper_tiny"))
    audio = torch.from_numpy(signals.voice_like(16000, 4.0))
    exact = WhisperEncoder.from_file(path, precision="fp32").encode(audio)
    assert files.snr(WhisperEncoder.from_file(path).encode(audio), exact) > 30


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (truncated, "whole CTranslate2"),
        (lambda data: b"", "whole CTranslate2"),
        (lambda data: b"\7" + data[1:], "version 7"),
        (lambda data: b"RIFF" + data[4:], "version"),
        (lambda data: data.replace(b"encoder/conv1/bias\0", b"encoder/conv1/biasX"), "whole CTranslate2"),
        (lambda data: data.replace(b"WhisperSpec\0", b"WhisperSpoc\0"), "WhisperSpoc"),
        (lambda data: data.replace(b"encoder/", b"anchors/"), "no Whisper encoder"),
    ],
)
def test_broken_ctranslate2_file_is_one_clear_message(case, tmp_path, change, reason):
    path = files.write_ctranslate2(tmp_path / "tiny.bin", case[2])
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=reason) as caught:
        WhisperEncoder.from_file(path)
    assert caught.value.where == str(path) and caught.value.fix


def test_quantised_ctranslate2_file_is_refused_by_name(tmp_path):
    variables = {"encoder/conv1/weight": torch.zeros(4, 80, 3, dtype=torch.int8)}
    (tmp_path / "tiny.bin").write_bytes(files.ctranslate2_bytes(variables))
    with pytest.raises(UserError, match="quantised to 8 bits"):
        WhisperEncoder.from_file(tmp_path / "tiny.bin")


def test_a_file_of_another_model_is_refused(tmp_path):
    torch.save({"model": {}}, tmp_path / "tiny.pt")
    with pytest.raises(UserError, match="not a Whisper checkpoint"):
        WhisperEncoder.from_file(tmp_path / "tiny.pt")
