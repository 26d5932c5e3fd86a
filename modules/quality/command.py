"""The command from its request to its exit code."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modules.audio.resample import SPEECH_RATE, resample
from modules.cli import BatchReport
from modules.devices import pick_device
from modules.errors import UserError
from modules.evaluation.base import Pair, Tools
from modules.evaluation.measure import Evaluator, Scored
from modules.evaluation.recording import RATE, Encode
from modules.evaluation.voices import Voices
from modules.evaluation.words import find_text, read_transcripts
from modules.f0 import get_predictor
from modules.inference.svc import Svc
from modules.options import check
from modules.progress import track
from modules.quality.convert import convert_all, encoder_of, find_sources
from modules.quality.page import write_page
from modules.quality.report import print_table, write_json
from modules.quality.request import Request, read_pairs


def measure(request: Request) -> int:
    """Convert (or read the pairs), score, and write results.json and index.html; the exit code of a batch.

    Raises:
        UserError: it cannot start, or nothing could be scored.
    """
    check(request.model)
    request.inference.check()
    report = BatchReport("pair")
    device = str(pick_device(request.model.device))
    predictor = get_predictor(request.reference_predictor, device=device, pretrain_dir=request.pretrain_dir)
    encode = _named_encoder(request, device)
    if request.pairs is not None:
        pairs = read_pairs(request.pairs)
        voices = _voices(request, [path for pair in pairs for path in (pair.source, pair.output)])
        pairs = [_with_owner(pair, voices) for pair in pairs]
    else:
        sources = find_sources(request, report)
        voices = _voices(request, list(sources))
        svc = Svc.load(request.model, request.pretrain_dir)
        svc.check(request.inference)
        pairs = convert_all(svc, sources, request, voices, predictor, report)
        encode = encode or encoder_of(svc)
    evaluator = Evaluator(
        Tools(predictor, voices, device, request.pretrain_dir, encode, request.language), request.metrics
    )
    scored = _score_all(_with_texts(pairs, request), evaluator, request, report)
    if scored:
        results = evaluator.results(scored)
        print_table(results)
        write_json(request.out_dir / "results.json", results, describe(request), report.failed)
        write_page(request.out_dir / "index.html", results, evaluator, describe(request), request.page_pairs)
        print(f"{request.out_dir / 'results.json'} has all figures, {request.out_dir / 'index.html'} plays the pairs")
    return report.finish()


def _score_all(pairs: list[Pair], evaluator: Evaluator, request: Request, report: BatchReport) -> list[Scored]:
    scored = []
    for pair in track(pairs, "judging"):
        try:
            scored.append(evaluator.score(pair))
            report.ok()
        except (UserError, OSError, RuntimeError, MemoryError) as error:
            if request.debug:
                raise
            report.fail(f"{pair.source} to {pair.target}", error)
    return scored


def _voices(request: Request, leave_out: list[Path]) -> Voices:
    return Voices.find(request.voices, request.named_voices, leave_out, request.voice_clips)


def _with_owner(pair: Pair, voices: Voices) -> Pair:
    return pair if pair.source_speaker else dataclasses.replace(pair, source_speaker=voices.owner(pair.source))


def _with_texts(pairs: list[Pair], request: Request) -> list[Pair]:
    texts = read_transcripts(request.transcripts)
    return [
        pair if pair.text is not None else dataclasses.replace(pair, text=find_text(pair.source, texts))
        for pair in pairs
    ]


def _named_encoder(request: Request, device: str) -> Encode | None:
    if request.speech_encoder is None:
        return None
    from vencoder import get_encoder

    encoder = get_encoder(request.speech_encoder, device, request.pretrain_dir)

    def units(audio: np.ndarray) -> np.ndarray:
        return encoder.encode(torch.from_numpy(resample(audio, RATE, SPEECH_RATE)))[0].float().cpu().numpy()

    return units


def describe(request: Request) -> dict[str, Any]:
    """The settings that decide on the figures, for the report."""
    if request.pairs is not None:
        return {"pairs": str(request.pairs), "judge": request.reference_predictor}
    model, inference = (
        {
            field.name: str(value) if isinstance(value := getattr(options, field.name), Path) else value
            for field in dataclasses.fields(options)
        }
        for options in (request.model, request.inference)
    )
    inference.pop("trans")  # each pair has its own
    return {"judge": request.reference_predictor, "model": model, "conversion": inference}
