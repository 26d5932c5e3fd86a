"""The speaker mix that `inference_main.py --use_spk_mix` sings with: edit spk_mix_map.

Each speaker (name or id) has a track: a list of [start, end, weight at start, weight at end]. Times run from 0
(start of the song) to 1 (its end); segments touch and cover 0 to 1; weights are 0 or more and are scaled to sum 1
at every moment. Every speaker of the model needs a track. Two speakers, the first fading into the second:

    spk_mix_map = {
        "alice": [[0.0, 1.0, 1, 0]],
        "bob": [[0.0, 0.5, 0, 0.5], [0.5, 1.0, 0.5, 1]],
    }
"""

from __future__ import annotations

spk_mix_map: dict[int | str, list[list[float]]] = {}
