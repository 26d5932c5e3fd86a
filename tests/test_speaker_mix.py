"""Tracks of spkmix.py: the weights they give, and the reasons wrong ones are refused for."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest

from modules.errors import UserError
from modules.inference.speaker_mix import SpeakerMix, shared_ids, speaker_id

SPEAKERS = {"alice": 0, "bob": 1}
ON, OFF = [[0, 1, 1, 1]], [[0, 1, 0, 0]]


def weights(tracks, times, speakers=SPEAKERS, n_speakers=2):
    return SpeakerMix.from_map(tracks, speakers, n_speakers).weights(np.array(times))


def test_weights_are_piecewise_linear_and_sum_to_one():
    tracks = {"alice": [[0, 0.5, 1, 0], [0.5, 1, 0, 0]], 1: [[0, 1, 0, 1]]}
    got = weights(tracks, [0.0, 0.25, 0.5, 1.0])
    np.testing.assert_allclose(got, [[1, 0], [0.5 / 0.75, 0.25 / 0.75], [0, 1], [0, 1]], atol=1e-6)


def test_a_switch_happens_at_its_moment():
    tracks = {0: [[0, 0.5, 1, 1], [0.5, 1, 0, 0]], 1: [[0, 0.5, 0, 0], [0.5, 1, 1, 1]]}
    np.testing.assert_array_equal(weights(tracks, [0.4999, 0.5]), [[1, 0], [0, 1]])


def test_all_zero_gives_equal_parts_of_the_speakers_that_there_are():
    got = weights({0: OFF, 1: OFF}, [0.3], n_speakers=5)
    np.testing.assert_allclose(got, [[0.5, 0.5, 0, 0, 0]])


def test_one_speaker_can_be_mixed():
    """A model with one speaker crashed (B7)."""
    np.testing.assert_array_equal(weights({0: ON}, [0, 1], {"alice": 0}, 1), [[1], [1]])


def test_moments_outside_the_song_take_its_ends():
    got = weights({0: [[0, 1, 1, 0]], 1: [[0, 1, 0, 1]]}, [-0.1, 1.2])
    np.testing.assert_allclose(got, [[1, 0], [0, 1]])


@pytest.mark.parametrize(
    ("tracks", "reason"),
    [
        ({}, "no track for speaker alice, bob"),
        ({0: ON}, "no track for speaker bob"),
        ({0: ON, 1: ON, 2: ON}, "no speaker 2"),
        ({0: ON, "carol": ON}, "no speaker 'carol'"),
        ({0: ON, "alice": ON, 1: ON}, "two tracks"),
        ({0: ON, 1: [[0, 0.4, 1, 1], [0.5, 1, 1, 1]]}, "gap or an overlap: it ends at 0.4 and goes on at 0.5"),
        ({0: ON, 1: [[0, 0.6, 1, 1], [0.5, 1, 1, 1]]}, "gap or an overlap"),
        ({0: ON, 1: [[0, 0.9, 1, 1]]}, "it ends at 0.9 and goes on at 1"),
        ({0: ON, 1: [[0.1, 1, 1, 1]]}, "it ends at 0 and goes on at 0.1"),
        ({0: ON, 1: [[0, 0, 1, 1], [0, 1, 1, 1]]}, "start >= end"),
        ({0: ON, 1: [[0, 1, -1, 1]]}, "negative"),
        ({0: ON, 1: [[0, 1, float("nan"), 1]]}, "a track is a list"),
        ({0: ON, 1: [[0, 1, 1]]}, "a track is a list"),
        ({0: ON, 1: [[0, 1, 10**400, 1]]}, "a track is a list"),
        ([[0, 1, 1, 0]], "the mix is a list, not a map of speakers to tracks"),
        (None, "the mix is a NoneType"),
        ({0: ON, 1: "loud"}, "a track is a list"),
    ],
)
def test_wrong_tracks_are_refused_with_the_reason(tracks, reason):
    with pytest.raises(UserError, match=reason):
        weights(tracks, [0.0])


def test_the_example_in_the_refusal_is_itself_valid():
    speakers = {"alice": 0, "bob": 1, "carol": 2}
    with pytest.raises(UserError) as refusal:
        weights({}, [0.0], speakers, 3)
    example = eval(refusal.value.fix.partition("for example ")[2], {"__builtins__": {}})
    np.testing.assert_allclose(weights(example, [0, 1], speakers, 3), [[1, 0, 0], [0, 1, 0]])


def test_an_id_that_the_model_has_not_got_is_refused_and_no_track_is_asked_for_it():
    speakers = {"alice": 0, "ghost": 7}
    with pytest.raises(UserError, match=r"ghost has the id 7, and the model has 2 speaker\(s\)") as refusal:
        speaker_id("ghost", speakers, 2)
    assert "spk.ghost" in refusal.value.where
    with pytest.raises(UserError, match="the id 7"):
        weights({0: ON, 7: OFF}, [0.0], speakers)
    np.testing.assert_array_equal(weights({0: ON}, [0.0], speakers), [[1, 0]])
    with pytest.raises(UserError) as unknown:
        speaker_id("carol", speakers, 2)
    assert unknown.value.fix == "use one of: alice (0)"


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_name_is_found_however_its_letters_are_composed(form):
    speakers = {unicodedata.normalize("NFD", "Zoë"): 0, unicodedata.normalize("NFC", "가희"): 1}
    assert [speaker_id(unicodedata.normalize(form, name), speakers, 2) for name in ("Zoë", "가희")] == [0, 1]
    mixed = weights({unicodedata.normalize(form, "Zoë"): ON, 1: OFF}, [0.0], speakers)
    np.testing.assert_array_equal(mixed, [[1, 0]])


def test_names_that_share_an_id_are_told():
    assert shared_ids(SPEAKERS) == ""
    assert "alice and eve (0)" in shared_ids({"alice": 0, "eve": 0, "bob": 1})
