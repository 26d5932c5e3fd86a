"""Linear and mel spectrograms of the synthesiser: hann window, no centring, frames = samples // hop."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor


def spectrogram(audio: Tensor, n_fft: int, hop_length: int, win_length: int) -> Tensor:
    """Linear magnitude spectrogram.

    Args:
        audio: [B, T] in [-1, 1].
        n_fft, hop_length, win_length: samples.

    Returns:
        float32 [B, n_fft // 2 + 1, T // hop_length], sqrt(re^2 + im^2 + 1e-6).
    """
    with torch.autocast(audio.device.type, enabled=False):  # half precision loses quiet partials
        audio = audio.float()
        frames = audio.shape[-1] // hop_length
        padded = _pad_edges(audio, (n_fft - hop_length) // 2, n_fft)
        window = _window(win_length, audio.device)
        spec = torch.stft(padded, n_fft, hop_length, win_length, window, center=False, return_complex=True)
        power = spec.real.square() + spec.imag.square()
        return torch.sqrt(power + 1e-6)[..., :frames]


def _pad_edges(audio: Tensor, pad: int, n_fft: int) -> Tensor:
    """Reflect ``pad`` samples at both ends; audio shorter than that is lengthened with silence first."""
    if audio.shape[-1] <= pad:
        audio = F.pad(audio, (0, max(pad + 1, n_fft) - audio.shape[-1]))
    return F.pad(audio.unsqueeze(1), (pad, pad), mode="reflect").squeeze(1)


def spec_to_mel(
    spec: Tensor, *, n_fft: int, n_mels: int, sample_rate: int, fmin: float, fmax: float | None
) -> Tensor:
    """Natural-log mel spectrogram of a linear one.

    Args:
        spec: linear magnitude [B, n_fft // 2 + 1, T].
        sample_rate, fmin, fmax: Hz; fmax None is half the sampling rate.

    Returns:
        float32 [B, n_mels, T], log(max(mel, 1e-5)) with Slaney's filters.
    """
    with torch.autocast(spec.device.type, enabled=False):
        basis = mel_basis(n_fft, n_mels, sample_rate, fmin, fmax, spec.device)
        return torch.log(torch.clamp(basis @ spec.float(), min=1e-5))


def mel_spectrogram(
    audio: Tensor,
    *,
    n_fft: int,
    n_mels: int,
    sample_rate: int,
    hop_length: int,
    win_length: int,
    fmin: float,
    fmax: float | None,
) -> Tensor:
    """Natural-log mel spectrogram [B, n_mels, T // hop_length] of audio [B, T]; see spectrogram and spec_to_mel."""
    spec = spectrogram(audio, n_fft, hop_length, win_length)
    return spec_to_mel(spec, n_fft=n_fft, n_mels=n_mels, sample_rate=sample_rate, fmin=fmin, fmax=fmax)


@functools.lru_cache(maxsize=16)
def mel_basis(
    n_fft: int, n_mels: int, sample_rate: int, fmin: float, fmax: float | None, device: torch.device
) -> Tensor:
    """Slaney mel filters, float32 [n_mels, n_fft // 2 + 1]."""
    import librosa

    basis = librosa.filters.mel(sr=sample_rate, n_fft=n_fft, n_mels=n_mels, fmin=fmin, fmax=fmax)
    with torch.inference_mode(False):  # a tensor made inside inference_mode could not be used in training later
        return torch.from_numpy(basis).float().to(device)


@functools.lru_cache(maxsize=16)
def _window(win_length: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.hann_window(win_length, device=device)
