"""Speech encoders beside a plain pass: 60 s of speech on two cores, and what windows and precision change.

    python -m benchmarks.encoders [NAME ...] [--seconds 60] [--threads 2] [--rounds 2] [--device cpu]

The plain pass is fp32 over the whole clip in one window: torchaudio's HuBERT and WavLM, OpenAI's Whisper (in 30 s
passes, which is all it takes), and for DPHuBERT, which no library has, our own model in fp32 and one window. All
weights are random but fixed; the speech is LibriSpeech's or the file given with --audio. Both take turns, and the
best round counts. Seconds are of the wall clock; on a busy machine look at --cpu_time, which counts the processor's.

Columns: seconds of the plain pass and of ours, their ratio, the signal-to-noise ratio of ours against our fp32 in the
same windows, and the mean difference to one pass in the second around a joint, as a share of the units' norm.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.timing import best_of
from modules.audio import load_audio
from modules.audio.resample import SPEECH_RATE
from tests import encoder_files as files
from vencoder import ENCODERS, get_encoder
from vencoder.encoder import SpeechEncoder
from vencoder.hubert import HubertEncoder

WHISPER_LAYERS = {384: 4, 512: 6, 768: 12, 1024: 24, 1280: 32}
SPEECH = Path(__file__).resolve().parents[2] / "shared" / "data" / "librispeech" / "1688"


@dataclass(frozen=True)
class Row:
    """The figures of one encoder."""

    name: str
    plain: float
    ours: float
    snr: float | None
    joint: float | None

    def __str__(self) -> str:
        snr = "-" if self.snr is None else f"{self.snr:.1f}"
        joint = "-" if self.joint is None else f"{100 * self.joint:.1f} %"
        ratio = self.plain / self.ours
        return f"| {self.name} | {self.plain:.1f} | {self.ours:.1f} | {ratio:.1f} | {snr} | {joint} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(ENCODERS), help="encoders; all by default")
    parser.add_argument("--audio", type=Path, help="a recording instead of LibriSpeech's reader 1688")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cpu_time", action="store_true", help="seconds of processor time, of all threads together")
    parser.add_argument("--skip_quality", action="store_true", help="only the seconds")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    audio = speech(args.audio, args.seconds)
    print("| encoder | plain, s | ours, s | times faster | SNR, dB | joint |\n|---|---|---|---|---|---|")
    for name in args.names:
        print(measure(name, audio, args), flush=True)


def speech(path: Path | None, seconds: float) -> Tensor:
    """The recording, or several of one reader in a row, as [T] at 16 kHz."""
    paths = [path] if path else sorted(SPEECH.glob("*.flac"))
    audio = np.concatenate([load_audio(file, SPEECH_RATE)[0] for file in paths])
    length = round(seconds * SPEECH_RATE)
    return torch.from_numpy(np.resize(audio, length))


@torch.inference_mode()
def measure(name: str, audio: Tensor, args: argparse.Namespace) -> Row:
    """Time the plain pass and ours in turns, then compare ours with fp32."""
    audio = audio.to(args.device)
    with tempfile.TemporaryDirectory() as folder:
        write_full(name, Path(folder))
        ours = get_encoder(name, args.device, Path(folder))
        plain = plain_pass(name, Path(folder), args.device)
        jobs: dict[str, Callable[[], Any]] = {"plain": lambda: plain(audio), "ours": lambda: ours.encode(audio)}
        for call in (plain, ours.encode):
            call(audio[:SPEECH_RATE])  # libraries load and kernels are chosen outside the measure
        clock = time.process_time if args.cpu_time else time.perf_counter
        best = best_of(jobs, args.rounds, torch.device(args.device), clock)
        snr = joint = None
        if not args.skip_quality and not name.endswith("-onnx"):
            exact = get_encoder(name, args.device, Path(folder), precision="fp32")
            reference = exact.encode(audio)
            snr = files.snr(ours.encode(audio), reference)
            if isinstance(exact, HubertEncoder):
                joint = joint_difference(exact, audio, reference)
    return Row(name, best["plain"], best["ours"], snr, joint)


def joint_difference(encoder: HubertEncoder, audio: Tensor, units: Tensor) -> float | None:
    """Mean difference to one pass in the second around the joints, as a share of the units' norm."""
    plan = encoder.plan(units.shape[2])
    if len(plan) == 1:
        return None
    whole = encoder.model(encoder.prepare(audio)[None])[0].T
    error = (units[0] - whole).norm(dim=0) / whole.norm(dim=0)
    joints = [(start + stop) // 2 for (_, stop), (start, _) in zip(plan, plan[1:], strict=False)]
    return float(torch.stack([error[joint - 25 : joint + 25].mean() for joint in joints]).max())


def write_full(name: str, folder: Path) -> None:
    """A full-size file of the encoder, with fixed random weights."""
    spec = ENCODERS[name]
    path = folder / spec.file
    torch.manual_seed(5)
    if name.startswith("whisper-"):
        dims = {"n_mels": 80, "n_audio_ctx": 1500, "n_audio_state": spec.width, "n_audio_head": spec.width // 64}
        shapes = files.whisper_shapes(spec.width, WHISPER_LAYERS[spec.width])
        torch.save({"dims": dims, "model_state_dict": files.seeded(shapes)}, path)
    elif name.endswith("-onnx"):
        layers = 9 if "l9" in name else 12
        pad = 40 if spec.options.get("pads") else 0
        projection = nn.Linear(768, 256) if spec.width == 256 else None
        files.export_onnx(files.OnnxGraph(torchaudio_hubert(layers).eval(), pad, projection), path)
    elif name in ("hubertsoft", "dphubert"):
        manifest = files.load_manifest({"hubertsoft": "hubert_soft", "dphubert": "dphubert_example"}[name])
        state = files.seeded({key: shape for key, shape, *_ in manifest["entries"]})
        torch.save(state if name == "hubertsoft" else {"config": manifest["config"], "state_dict": state}, path)
    else:
        known = {"cnhubertlarge": "cnhubert_large", "wavlmbase+": "wavlm_base_plus"}
        manifest = files.load_manifest(known.get(name, "contentvec_hubert_base"))
        state = files.seeded({key: shape for key, shape, *_ in manifest["entries"]})
        if name == "wavlmbase+":
            torch.save({"model": state, "cfg": manifest["cfg"]}, path)
        else:
            files.write_fairseq(path, state, manifest["cfg_model"])


def torchaudio_hubert(layers: int = 12) -> nn.Module:
    """torchaudio's HuBERT base."""
    import torchaudio

    model = torchaudio.models.hubert_base(aux_num_out=None)
    del model.encoder.transformer.layers[layers:]
    return model


def plain_pass(name: str, folder: Path, device: str) -> Callable[[Tensor], Any]:
    """What a user gets without any of our measures, in fp32."""
    import torchaudio

    if name.startswith("whisper-"):
        return openai_pass(ENCODERS[name].width, device)
    if name == "dphubert":
        return one_window(get_encoder(name, device, folder, precision="fp32"))
    if name == "cnhubertlarge":
        model = torchaudio.models.hubert_large(aux_num_out=None)
    elif name == "wavlmbase+":
        model = torchaudio.models.wavlm_base()
    else:  # all 12 layers run, also where 9 would do
        model = torchaudio_hubert()
    model = model.eval().to(device)
    return lambda audio: model(audio[None])


def one_window(encoder: SpeechEncoder) -> Callable[[Tensor], Any]:
    """The encoder over the whole clip at once."""
    assert isinstance(encoder, HubertEncoder)
    return lambda audio: encoder.model(encoder.prepare(audio)[None])


def openai_pass(width: int, device: str) -> Callable[[Tensor], Any]:
    """OpenAI's mel and encoder over clips of 30 s."""
    import whisper

    model = whisper.model.AudioEncoder(80, 1500, width, width // 64, WHISPER_LAYERS[width]).eval().to(device)
    seconds = 30 * SPEECH_RATE

    def run(audio: Tensor) -> list[Tensor]:
        parts = audio.split(seconds)
        return [model(whisper.log_mel_spectrogram(whisper.pad_or_trim(part))[None]) for part in parts]

    return run


if __name__ == "__main__":
    main()
