"""How the speakers' shares change over a song: tracks as a user writes them, weights as the model takes them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from modules.errors import UserError

MIX_MAP = "spk_mix_map in spkmix.py"

Track = Sequence[Sequence[float]]  # [[start, end, value at start, value at end], ...] with times 0..1 of the song


@dataclass(frozen=True)
class SpeakerMix:
    """Piecewise linear weights of all speakers over the whole song.

    Attributes:
        tracks: speaker id -> float array [segments, 4] of start, end, value at start, value at end.
        n_speakers: rows of the model's speaker embedding.
    """

    tracks: dict[int, np.ndarray]
    n_speakers: int

    @classmethod
    def from_map(cls, tracks: Mapping[int | str, Track], speakers: Mapping[str, int], n_speakers: int) -> SpeakerMix:
        """Check the tracks of spkmix.py against the speakers of a model.

        Args:
            tracks: speaker id or name -> segments; every speaker of the model needs one.
            speakers: name -> id, the ``spk`` section of the config.
            n_speakers: rows of the model's speaker embedding.

        Raises:
            UserError: no map, an unknown or missing speaker, a gap, a segment that does not run forward, a negative
                value.
        """
        if not isinstance(tracks, Mapping):
            what = f"the mix is a {type(tracks).__name__}, not a map of speakers to tracks"
            raise UserError(what, MIX_MAP, f"write it so: {_example(speakers)}")
        checked: dict[int, np.ndarray] = {}
        for key, segments in tracks.items():
            speaker_id = _in_model(str(key), _speaker_id(key, speakers), n_speakers)
            if speaker_id in checked:
                raise UserError(f"speaker {key!r} has two tracks", "spk_mix_map", "keep one of them")
            checked[speaker_id] = _check_track(key, segments)
        missing = [name for name, number in speakers.items() if number < n_speakers and number not in checked]
        if missing:
            raise UserError(
                f"no track for speaker {', '.join(missing)}",
                MIX_MAP,
                f"give every speaker a track, for example {_example(speakers)}",
            )
        return cls(checked, n_speakers)

    def weights(self, times: np.ndarray) -> np.ndarray:
        """The share of every speaker at the given moments.

        Args:
            times: [T], 0 at the start of the song and 1 at its end; moments outside take the nearest end.

        Returns:
            float32 [T, n_speakers]; every row sums to 1. Where all tracks are 0 the speakers that have a track
            share equally.
        """
        times = np.clip(np.asarray(times, dtype=np.float64), 0.0, 1.0)
        weights = np.zeros((len(times), self.n_speakers))
        for speaker_id, track in self.tracks.items():
            start, end, first, last = track[_segment_at(track, times)].T
            weights[:, speaker_id] = first + (last - first) * (times - start) / (end - start)
        silent = weights.sum(axis=1) <= 0
        weights[np.ix_(silent, list(self.tracks))] = 1.0
        return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


Speaker = int | SpeakerMix


def speaker_id(speaker: str | int, speakers: Mapping[str, int], n_speakers: int) -> int:
    """The id of a speaker given by name or by number.

    Raises:
        UserError: the model has no such speaker; the message lists those it has.
    """
    named = spelt_alike(str(speaker), speakers)
    if named is not None:
        return _in_model(named, speakers[named], n_speakers)
    known = ", ".join(f"{name} ({number})" for name, number in speakers.items() if number < n_speakers)
    try:
        number = int(speaker)
    except ValueError:
        number = -1
    if not 0 <= number < n_speakers or (speakers and number not in speakers.values()):
        raise UserError(f"the model has no speaker {speaker!r}", "--spk_list", f"use one of: {known}")
    return number


def spelt_alike(name: str, names: Iterable[str]) -> str | None:
    """The one of ``names`` that is ``name``, also where an accent is a letter's part in one and its own in the other.

    macOS takes names of files apart, so a model that was prepared there may spell its speakers in either way.
    """
    names = list(names)
    if name in names:
        return name
    composed = unicodedata.normalize("NFC", name)
    return next((other for other in names if unicodedata.normalize("NFC", other) == composed), None)


def shared_ids(speakers: Mapping[str, int]) -> str:
    """What to tell the user where several names have one id; empty where none do."""
    names: dict[int, list[str]] = {}
    for name, number in speakers.items():
        names.setdefault(number, []).append(name)
    doubles = [f"{' and '.join(alike)} ({number})" for number, alike in names.items() if len(alike) > 1]
    return f"the config gives several speakers one id, which is one voice: {', '.join(doubles)}" if doubles else ""


def _in_model(name: str, number: int, n_speakers: int) -> int:
    if number < n_speakers:
        return number
    raise UserError(
        f"speaker {name} has the id {number}, and the model has {n_speakers} speaker(s), counted from 0",
        f"config.json: spk.{name}, model.n_speakers",
        "take the config that belongs to this model",
    )


def _segment_at(track: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Index of the segment each moment lies in; a moment on a border belongs to the later segment."""
    return np.clip(np.searchsorted(track[:, 0], times, side="right") - 1, 0, len(track) - 1)


def _speaker_id(key: int | str, speakers: Mapping[str, int]) -> int:
    named = spelt_alike(key, speakers) if isinstance(key, str) else None
    if named is not None:
        return speakers[named]
    if isinstance(key, int) and key in speakers.values():
        return key
    known = ", ".join(f"{speaker_id} ({name})" for name, speaker_id in speakers.items())
    raise UserError(f"the model has no speaker {key!r}", MIX_MAP, f"use one of: {known}")


def _check_track(key: int | str, segments: Track) -> np.ndarray:
    where = f"spk_mix_map, speaker {key!r}"
    try:
        track = np.array(segments, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        track = np.empty(0)
    if track.ndim != 2 or track.shape[1] != 4 or not np.isfinite(track).all():
        raise UserError(
            f"a track is a list of [start, end, value at start, value at end], not {segments!r}", where, "mend it"
        )
    if (track[:, 0] >= track[:, 1]).any():
        row = track[track[:, 0] >= track[:, 1]][0].tolist()
        raise UserError(f"segment {row} does not run forward: start >= end", where, "let every segment end later")
    if (track < 0).any():
        raise UserError("a time or a weight is negative", where, "use times from 0 to 1 and weights from 0 up")
    edges = np.concatenate([[0.0], track[:, 1]])
    starts = np.concatenate([track[:, 0], [1.0]])
    if not np.allclose(edges, starts, atol=1e-6):
        at = int(np.argmin(np.isclose(edges, starts, atol=1e-6)))
        what = f"the track has a gap or an overlap: it ends at {edges[at]:g} and goes on at {starts[at]:g}"
        raise UserError(what, where, "let the segments touch and cover 0 to 1")
    return track


def _example(speakers: Mapping[str, int]) -> str:
    """A valid map for these speakers: the first fades into the second, the others are silent."""
    shapes = ["[[0, 1, 1, 0]]", "[[0, 1, 0, 1]]"]
    tracks = [shapes[i] if i < len(shapes) else "[[0, 1, 0, 0]]" for i in range(len(speakers))]
    if len(speakers) == 1:
        tracks = ["[[0, 1, 1, 1]]"]
    return "{" + ", ".join(f"{name!r}: {track}" for name, track in zip(speakers, tracks, strict=True)) + "}"
