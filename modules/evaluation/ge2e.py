"""A speaker encoder: the network and weights of Resemblyzer (Apache-2.0), trained with the GE2E loss.

Wan et al., "Generalized end-to-end loss for speaker verification", 2018. The weights come from the package index;
the package itself is not needed: it wants a compiler on every machine. Only its voice activity detection is another
one here: what lies 40 dB under the loudest frame is left out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from modules import checkpoint
from modules.audio.resample import SPEECH_RATE
from modules.errors import UserError
from pretrain import require
from vencoder.layers import load_model

WEIGHT = "resemblyzer"  # in the table of weights
WIDTH, N_MELS, LAYERS = 256, 40, 3
N_FFT, MEL_HOP = 25 * SPEECH_RATE // 1000, 10 * SPEECH_RATE // 1000
PARTIAL = 160  # mel frames that the network sees at once
STEP = 77  # mel frames from one partial to the next: 1.3 a second
MIN_COVERAGE = 0.75  # of the last partial
LEVEL_DB = -30.0  # quieter audio is raised to it
PAUSE_FRAME, PAUSE_DB = 30 * SPEECH_RATE // 1000, 40.0


class Ge2eEncoder(nn.Module):
    """Turns a voice into a vector; the cosine of two vectors tells how alike the voices are."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(N_MELS, WIDTH, LAYERS, batch_first=True)
        self.linear = nn.Linear(WIDTH, WIDTH)

    @classmethod
    def load(cls, device: str = "cpu", pretrain_dir: Path = Path("pretrain")) -> Ge2eEncoder:
        """Build it with its weights. Raises UserError where they are missing or of something else."""
        path = require(WEIGHT, pretrain_dir)
        content = checkpoint.load(path)
        if not isinstance(content, dict) or not isinstance(content.get("model_state"), dict):
            raise UserError("the file holds no speaker encoder", path, "delete it and fetch it again")
        state = {key: value for key, value in content["model_state"].items() if key.startswith(("lstm.", "linear."))}
        return load_model(state, path, cls).eval().requires_grad_(False).to(device)

    def forward(self, mels: Tensor) -> Tensor:
        """mels [B, PARTIAL, N_MELS] to vectors [B, WIDTH] of length 1."""
        _, (hidden, _) = self.lstm(mels)
        return nn.functional.normalize(torch.relu(self.linear(hidden[-1])), dim=1)

    @torch.inference_mode()
    def embed(self, audio: np.ndarray) -> np.ndarray | None:
        """The vector [WIDTH], of length 1, of audio [T] at 16 kHz; None for silence."""
        audio = leave_out_pauses(audio)
        if audio.size == 0:
            return None
        audio = raise_level(audio)
        device = self.linear.weight.device
        vectors = self(torch.from_numpy(partials(audio)).to(device)).mean(dim=0)
        return nn.functional.normalize(vectors, dim=0).cpu().numpy()


def leave_out_pauses(audio: np.ndarray) -> np.ndarray:
    """Audio [T] without the frames of 30 ms that lie PAUSE_DB under the loudest one; empty for silence."""
    usable = len(audio) - len(audio) % PAUSE_FRAME
    frames = audio[:usable].reshape(-1, PAUSE_FRAME)
    power = np.square(frames, dtype=np.float64).mean(axis=1)
    if not power.any():
        return audio[:0]
    return frames[power > power.max() * 10 ** (-PAUSE_DB / 10)].reshape(-1)


def raise_level(audio: np.ndarray) -> np.ndarray:
    """Audio [T] at LEVEL_DB of full scale where it is quieter."""
    level = 10 * np.log10(np.square(audio, dtype=np.float64).mean())
    return audio * np.float32(10 ** (max(0.0, LEVEL_DB - level) / 20))


def partials(audio: np.ndarray) -> np.ndarray:
    """Overlapping windows of the mel spectrogram, float32 [B, PARTIAL, N_MELS], of audio [T] at 16 kHz."""
    from librosa.feature import melspectrogram

    frames = -(-(len(audio) + 1) // MEL_HOP)
    starts = list(range(0, max(1, frames - PARTIAL + STEP + 1), STEP))
    covered = (len(audio) - starts[-1] * MEL_HOP) / (PARTIAL * MEL_HOP)
    if len(starts) > 1 and covered < MIN_COVERAGE:
        starts.pop()
    audio = np.pad(audio, (0, max(0, (starts[-1] + PARTIAL) * MEL_HOP - len(audio))))
    mel = melspectrogram(y=audio, sr=SPEECH_RATE, n_fft=N_FFT, hop_length=MEL_HOP, n_mels=N_MELS).T
    return np.stack([mel[start : start + PARTIAL] for start in starts]).astype(np.float32)
