"""Fundamental frequency: one predictor a file, one registry.

Importing this package is cheap; a predictor's libraries are imported when the first one of its kind is built.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.errors import UserError
from modules.lazy import lazy_names

if TYPE_CHECKING:
    from modules.f0.base import F0Contour, F0Predictor, F0Settings
    from modules.f0.range_check import RangeReport, check_range

__all__ = [
    "PREDICTORS",
    "F0Contour",
    "F0Predictor",
    "PredictorSpec",
    "RangeReport",
    "cached_predictor",
    "check_range",
    "clear_cache",
    "get_predictor",
    "needs_no_file",
    "require_weights",
]


@dataclass(frozen=True)
class PredictorSpec:
    """A member of the registry.

    Attributes:
        path: ``module:class`` of the predictor.
        weights: file under pretrain/ that it needs, or None when everything comes with its package.
    """

    name: str
    path: str
    weights: str | None = None


PREDICTORS: dict[str, PredictorSpec] = {
    spec.name: spec
    for spec in (
        PredictorSpec("pm", "modules.f0.pm:PraatPredictor"),
        PredictorSpec("dio", "modules.f0.dio:DioPredictor"),
        PredictorSpec("harvest", "modules.f0.harvest:HarvestPredictor"),
        PredictorSpec("crepe", "modules.f0.crepe:CrepePredictor"),
        PredictorSpec("rmvpe", "modules.f0.rmvpe:RmvpePredictor", weights="rmvpe.pt"),
        PredictorSpec("fcpe", "modules.f0.fcpe:FcpePredictor"),
    )
}


def needs_no_file() -> list[str]:
    """Names of the predictors that run without a file under pretrain/."""
    return [spec.name for spec in PREDICTORS.values() if spec.weights is None]


def get_predictor(
    name: str,
    *,
    hop_length: int = 512,
    sample_rate: int = 44100,
    f0_min: float = 50.0,
    f0_max: float = 1100.0,
    threshold: float | None = None,
    device: str = "cpu",
    pretrain_dir: str | Path = Path("pretrain"),
) -> F0Predictor:
    """Build a predictor and load its weights, once.

    Args:
        hop_length: samples between two frames of the result.
        f0_min: lowest f0 looked for, Hz.
        f0_max: highest f0 looked for, Hz; rmvpe and fcpe follow a voice above it.
        threshold: voicing threshold of crepe, rmvpe and fcpe; None takes the predictor's own. pm, dio and
            harvest have no such parameter and ignore it.

    Raises:
        UserError: there is no such predictor, a parameter makes no sense, or the weights are missing.
    """
    from modules.f0.base import F0Settings

    spec = _spec(name)
    settings = F0Settings(
        hop_length=hop_length,
        sample_rate=sample_rate,
        f0_min=float(f0_min),
        f0_max=float(f0_max),
        threshold=threshold,
        device=str(device),
        pretrain_dir=Path(pretrain_dir),
    )
    return _build(spec, settings)


def require_weights(name: str, pretrain_dir: Path = Path("pretrain")) -> None:
    """Look for the file of a predictor without loading anything. Raises UserError as get_predictor."""
    if _spec(name).weights is not None:
        from modules.f0.weights import find_weights

        find_weights(pretrain_dir)


def cached_predictor(name: str, **parameters: Any) -> F0Predictor:
    """As get_predictor, but the same parameters give the same object; any other value gives another one."""
    return _cached(name, tuple(sorted(parameters.items())))


def clear_cache() -> None:
    """Let go of the predictors that cached_predictor holds, and of their weights."""
    _cached.cache_clear()


@lru_cache(maxsize=4)
def _cached(name: str, parameters: tuple[tuple[str, Any], ...]) -> F0Predictor:
    return get_predictor(name, **dict(parameters))


def _spec(name: str) -> PredictorSpec:
    if name not in PREDICTORS:
        names = ", ".join(PREDICTORS)
        raise UserError(f"there is no f0 predictor {name!r}", "--f0_predictor", f"use one of {names}")
    return PREDICTORS[name]


def _build(spec: PredictorSpec, settings: F0Settings) -> F0Predictor:
    module, class_name = spec.path.split(":")
    predictor: F0Predictor = getattr(importlib.import_module(module), class_name)(settings)
    return predictor


__getattr__ = lazy_names(
    __name__,
    {
        "F0Contour": "modules.f0.base",
        "F0Predictor": "modules.f0.base",
        "RangeReport": "modules.f0.range_check",
        "check_range": "modules.f0.range_check",
    },
)
