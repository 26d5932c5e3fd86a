"""f0 in rests, of decoders that would hum it."""

from __future__ import annotations

import numpy as np
import pytest

from modules.f0.rests import silence_rests
from modules.inference.options import InferenceOptions
from modules.inference.voice import Enhancer, Refiner, Voice
from modules.inference.windows import WindowInput
from tests.standin_voice import HOP, RATE


def contour(*runs: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """f0 and uv of runs of (voiced, frames)."""
    uv = np.concatenate([np.full(frames, voiced, np.float32) for voiced, frames in runs])
    return np.linspace(200, 300, len(uv), dtype=np.float32), uv


def test_a_rest_is_silent_but_for_three_frames_beside_the_notes() -> None:
    f0, uv = contour((1, 20), (0, 30), (1, 10))
    quiet = silence_rests(f0, uv)
    assert np.flatnonzero(quiet == 0).tolist() == list(range(23, 47))
    np.testing.assert_array_equal(quiet[quiet > 0], f0[quiet > 0])
    assert f0.all()  # the predictor's own contour stays as it is


def test_consonants_stay_filled_and_the_ends_of_a_song_rest() -> None:
    f0, uv = contour((0, 13), (1, 5), (0, 12), (1, 5), (0, 13))
    quiet = silence_rests(f0, uv)
    assert np.flatnonzero(quiet == 0).tolist() == [*range(10), *range(38, 48)]


@pytest.mark.parametrize("uv", [np.zeros(40), np.ones(40), np.zeros(0)])
def test_what_is_whispered_or_sung_throughout_has_one_kind_of_f0(uv: np.ndarray) -> None:
    assert ((silence_rests(np.full(len(uv), 200.0), uv) > 0) == (uv > 0)).all()


class Generator:
    """Remembers the f0 that it is given."""

    sample_rate, hop_length, speakers, n_speakers, unit_mode, takes_volume = RATE, HOP, {"alice": 0}, 1, "left", False

    def __init__(self, hums: bool) -> None:
        self.hums_in_rests = hums

    def check_f0_decoder(self) -> None:
        pass

    def infer(
        self, units: np.ndarray, f0: np.ndarray, *rest: object, **options: object
    ) -> tuple[np.ndarray, np.ndarray]:
        self.f0 = f0
        return np.zeros(len(f0) * HOP, np.float32), f0


class Encoder:
    def encode(self, audio: np.ndarray) -> np.ndarray:
        return np.zeros((len(audio) // 320, 4), np.float32)


class Watch(Enhancer):
    """A refiner that remembers the f0 that it is given."""

    def __init__(self) -> None:
        pass

    def refine(self, audio: np.ndarray, units: np.ndarray, f0: np.ndarray, *rest: object) -> np.ndarray:
        self.f0 = f0
        return audio


@pytest.mark.parametrize(("hums", "auto", "rests"), [(True, False, True), (False, False, False), (True, True, False)])
def test_only_decoders_that_hum_get_an_f0_with_rests_and_vocoders_after_them_the_whole_one(
    hums: bool, auto: bool, rests: bool
) -> None:
    f0, uv = contour((1, 20), (0, 30), (1, 10))
    generator, watch = Generator(hums), Watch()
    refiners: list[Refiner] = [watch]
    voice = Voice(Encoder(), generator, refiners=refiners)
    voice.render(WindowInput(np.zeros(len(f0) * HOP, np.float32), f0, uv, 0), InferenceOptions(auto_predict_f0=auto))
    assert (generator.f0 == 0).any() == rests
    np.testing.assert_array_equal(watch.f0, f0)
