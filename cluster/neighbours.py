"""How much each of the neighbours of a frame counts; needs neither faiss nor torch."""

from __future__ import annotations

import numpy as np

NEIGHBOURS = 8


def neighbour_weights(distances: np.ndarray) -> np.ndarray:
    """Weights [T, k] of neighbours at squared distances [T, k]; rows sum to 1, infinite distances weigh 0."""
    nearest = distances.min(axis=1, keepdims=True).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        # relative to the nearest one, so that no power can overflow
        weights = np.where(nearest > 0, (nearest / distances) ** 2, distances == 0)
    weights = np.where(np.isfinite(distances), weights, 0.0)
    return weights / weights.sum(axis=1, keepdims=True)
