"""Where a song rests, its melody does too.

Predictors fill f0 over unvoiced frames, which NSF-HiFiGAN was made for. A decoder whose source are pulses at f0 hums
the filled melody in rests and breaths, and sings what is whispered.
"""

from __future__ import annotations

import numpy as np

HUMMING_DECODERS = frozenset({"nsf-istft"})  # model.vocoder_name; the f0 of the others stays as it is in 4.1
LONGEST_CONSONANT = 12  # frames, 140 ms: unvoiced stretches up to here stay filled
KEPT = 3  # frames next to a note that stay filled, where the predictor may be late


def silence_rests(f0: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """f0 [T] in Hz, with 0 inside of unvoiced stretches that are no consonants; uv [T] is 1 where voiced."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], uv <= 0, [0]]).astype(np.int8)))
    quiet = f0.copy()
    for start, stop in edges.reshape(-1, 2):
        if stop - start > LONGEST_CONSONANT:
            quiet[start + (KEPT if start else 0) : stop - (KEPT if stop < len(uv) else 0)] = 0
    return quiet
