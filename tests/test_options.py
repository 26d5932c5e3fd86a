"""Options declared once: the command line that is written from them gives them back."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from cluster.options import ClusterOptions, IndexOptions
from modules.data.options import FeatureOptions, ListOptions, ResampleOptions
from modules.errors import UserError
from modules.onnx.options import ExportOptions
from modules.options import add_arguments, flags, from_namespace, settings
from modules.quality.request import Request
from modules.training.options import DiffusionTrainOptions, ReleaseOptions, TrainOptions
from scripts.demo import DemoOptions

CLASSES = (
    ResampleOptions, ListOptions, FeatureOptions, ClusterOptions, IndexOptions, ExportOptions, Request, DemoOptions,
    TrainOptions, DiffusionTrainOptions, ReleaseOptions,
)  # fmt: skip


def parsed(kind: type[Any], words: list[str]) -> Any:
    parser = argparse.ArgumentParser()
    add_arguments(parser, kind)
    return from_namespace(kind, parser.parse_args(words))


def other_value(default: Any, choices: tuple[str, ...] | None, type_name: str) -> Any:
    """A value that is not the default."""
    if isinstance(default, bool):
        return not default
    if type_name.startswith("tuple"):
        return tuple(choices[:2]) if choices else (1.5, -2.0) if "float" in type_name else (Path("a b"),)
    if choices:
        return next(choice for choice in choices if choice != default)
    if isinstance(default, (int, float)):
        return default + 1
    if type_name in ("int | None", "float | None"):
        return 7
    return Path("some where/else") if "Path" in type_name else "a name"


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_options_come_back_from_their_command_line(kind: type[Any]) -> None:
    required = {field.name: "name" for field, setting in settings(kind) if setting.required}
    assert flags(kind()) == []
    taken = set()  # of groups of flags of which one may be given
    given = dict(required)
    for field, setting in settings(kind):
        if setting.exclusive is None or setting.exclusive not in taken:
            given[field.name] = other_value(field.default, setting.choices, str(field.type))
            taken |= {setting.exclusive}
    if "speakers" in given:
        given["speakers"] = ("alice", "bob lee")
    wanted = kind(**given)
    assert parsed(kind, flags(wanted)) == wanted
    if not required:
        assert parsed(kind, []) == kind()


def test_the_defaults_are_those_of_the_original() -> None:
    resample, lists, features = ResampleOptions(), ListOptions(), FeatureOptions()
    assert (resample.in_dir, resample.out_dir) == (Path("dataset_raw"), Path("dataset/44k"))
    assert (lists.source_dir, lists.train_list) == ("./dataset/44k", "./filelists/train.txt")
    assert features.config == lists.config == Path("configs/config.json")
    assert IndexOptions().root_dir == ClusterOptions().dataset == features.in_dir == resample.out_dir


@pytest.mark.parametrize(
    ("options", "where"),
    [
        (ResampleOptions(sample_rate=100), "--sr2"),
        (ResampleOptions(lufs_target=0.0), "--lufs_target"),
        (ResampleOptions(lufs_target=float("nan")), "--lufs_target"),
        (ResampleOptions(pitch_shift=(4.0, 0.0)), "--pitch_shift"),
        (ResampleOptions(pitch_shift=(-13.0,)), "--pitch_shift"),
        (ResampleOptions(loudnorm="loud"), "--loudnorm"),
    ],
)
def test_what_no_clip_can_be_made_with_is_refused(options: ResampleOptions, where: str) -> None:
    with pytest.raises(UserError) as caught:
        options.check()
    assert caught.value.where == where
