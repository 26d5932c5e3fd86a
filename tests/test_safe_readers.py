"""No reader of encoder files runs anything from them; what they carry is refused by its name (section D)."""

from __future__ import annotations

import argparse
import collections
import enum
import io
import os
import pickle
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modules.errors import UserError
from tests import encoder_files as files
from vencoder import fairseq
from vencoder.dphubert import DphubertEncoder
from vencoder.hubert import HubertEncoder
from vencoder.hubert_soft import HubertSoftEncoder
from vencoder.wavlm import WavlmEncoder
from vencoder.whisper import WhisperEncoder

DATA = Path(__file__).parent / "data"
READERS: dict[str, Callable[[Path], Any]] = {
    "fairseq": HubertEncoder.from_file,
    "hubertsoft": HubertSoftEncoder.from_file,
    "whisper": WhisperEncoder.from_file,
    "wavlm": WavlmEncoder.from_file,
    "dphubert": DphubertEncoder.from_file,
}


class Evil:
    """Runs a shell command when it is unpickled by a careless reader."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.marker}'",)


class EvilEval(Evil):
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"open({str(self.marker)!r}, 'w').close()",)


def hidden(evil: Any) -> dict[str, Any]:
    """The object in every corner of a checkpoint where something may lie."""
    return {
        "top": {"model": {}, "cfg": {"model": {}}, "extra_state": evil},
        "settings": {"model": {}, "cfg": argparse.Namespace(model=evil), "dims": evil, "config": evil},
        "state": {"model": {"a.weight": evil}, "model_state_dict": {"a": evil}, "dims": {}, "state_dict": {"a": evil}},
        "key": collections.OrderedDict({"model": {}, "optimizer_history": [{"lr": [evil]}]}),
    }


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", [Evil, EvilEval])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_code_in_a_file_is_refused_by_name_and_not_run(reader, kind, zipped, tmp_path):
    marker = tmp_path / "ran"
    for corner, content in hidden(kind(marker)).items():
        path = tmp_path / f"{corner}.pt"
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(UserError) as caught:
            READERS[reader](path)
        assert not marker.exists()
        if corner != "settings" or reader in ("fairseq", "wavlm"):  # the others refuse its Namespace before
            assert ("system" if kind is Evil else "eval") in caught.value.what
        assert caught.value.where == str(path)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "data", [b"", b"not a checkpoint", pickle.dumps({"model": {}}), b"PK\3\4" + b"\0" * 100], ids=range(4)
)
def test_rubbish_is_one_clear_message(reader, data, tmp_path):
    path = tmp_path / "file.pt"
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        READERS[reader](path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("reader", READERS)
def test_cut_off_file_is_one_clear_message(reader, tmp_path):
    for zipped in (True, False):
        path = tmp_path / "file.pt"
        torch.save({"model": {"a": torch.zeros(1000)}}, path, _use_new_zipfile_serialization=zipped)
        path.write_bytes(path.read_bytes()[:-3000])
        with pytest.raises(UserError):
            READERS[reader](path)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_damaged_bytes_are_one_clear_message_or_harmless(reader, zipped, tmp_path):
    """Bytes changed at random among the pickle's; the file either still loads as something else or is refused."""
    content = {"model": {"a": torch.zeros(3)}, "cfg": {"x": [1, "two", 3.0]}, "dims": {"n": 1}}
    path = tmp_path / "file.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    random = np.random.default_rng(7)
    for _ in range(60):
        damaged = bytearray(whole)
        for at in random.integers(0, min(len(whole), 700), size=4):
            damaged[at] = random.integers(0, 256)
        path.write_bytes(damaged)
        with pytest.raises(UserError):  # nothing here makes a whole encoder, damaged or not
            READERS[reader](path)


def test_a_plain_pickle_with_code_is_refused(tmp_path):
    path = tmp_path / "file.pt"
    path.write_bytes(pickle.dumps(Evil(tmp_path / "ran"), protocol=2))
    with pytest.raises(UserError):
        fairseq.read(path)
    assert not (tmp_path / "ran").exists()


def write_pickle(path: Path, pickled: bytes) -> None:
    """A torch file whose content is ``pickled``."""
    blank = io.BytesIO()
    torch.save({}, blank)
    with zipfile.ZipFile(blank) as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.namelist():
            target.writestr(entry, pickled if entry.endswith("/data.pkl") else source.read(entry))


class Foreign:
    """Makes objects that a pickle calls by foreign names, and forgets those names afterwards."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch

    def put(self, name: str, value: Any) -> Any:
        module_name, _, attribute = name.rpartition(".")
        parts = module_name.split(".")
        for depth in range(1, len(parts) + 1):
            parent = ".".join(parts[:depth])
            if parent not in sys.modules:
                self.patch.setitem(sys.modules, parent, types.ModuleType(parent))
        value.__module__, value.__qualname__ = module_name, attribute
        setattr(sys.modules[module_name], attribute, value)
        return value

    def make(self, name: str, **state: Any) -> Any:
        made = self.put(name, type(name.rpartition(".")[2], (), {}))()
        vars(made).update(state)
        return made


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_known_foreign_objects_are_read_as_what_they_say(zipped, tmp_path):
    meta, _, manifest, wav = files.load_case("f_contentvec")
    settings = meta["config"]["cfg_model"]
    expected = files.write_fairseq(tmp_path / "plain.pt", files.filled(manifest), settings)
    path = tmp_path / "old.pt"
    with pytest.MonkeyPatch.context() as patch:
        names = Foreign(patch)
        dictionary = names.make("fairseq.data.dictionary.Dictionary", symbols=["<s>", "1"], indices={"<s>": 0})
        meter = names.make("fairseq.meters.AverageMeter", sum=torch.zeros(1))
        choices = names.put("fairseq.dataclass.constants.Choices", enum.Enum("Choices", {"adam": "adam"}))
        content = {
            "model": files.filled(manifest),
            "args": argparse.Namespace(**settings, optimizer=choices.adam, data=Path("/data")),
            "task_state": {"dictionaries": [dictionary]},
            "extra_state": {"metrics": meter, "train": collections.defaultdict(int, {"epoch": 3})},
            "optimizer_history": [{"num_updates": 1}],
        }
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert "fairseq" not in sys.modules
    read = fairseq.read(path)
    assert read.settings["encoder_attention_heads"] == settings["encoder_attention_heads"]
    assert read.settings["optimizer"] == "adam"
    units = HubertEncoder.from_file(path, precision="fp32").encode(wav)
    torch.testing.assert_close(units, HubertEncoder.from_file(expected, precision="fp32").encode(wav))


@pytest.mark.parametrize("name", ["omegaconf_cfg", "fairseq_structured_cfg"])
def test_settings_written_by_omegaconf_itself_are_read(name, tmp_path):
    """The pickles in tests/data were written by omegaconf 2.0.6, with and without a structured config."""
    path = tmp_path / "file.pt"
    write_pickle(path, (DATA / f"{name}.pkl").read_bytes())
    settings = fairseq.read(path).settings
    if name == "omegaconf_cfg":
        assert settings == {"a": 1, "b": [1, 2.0, "x", None, True]}
    else:
        assert settings["a"] == 3 and settings["c"] == [1] and settings["g"] == 2.0 and settings["b"] is None


def test_contents_that_unfold_without_bounds_stay_small(tmp_path):
    content: Any = [0]
    for _ in range(60):  # 2 ** 60 leaves if every mention were copied
        content = [content, content]
    torch.save({"model": {}, "cfg": content}, tmp_path / "file.pt")
    assert fairseq.read(tmp_path / "file.pt").settings == {}
    deep = b"]" * 5000 + b"a" * 4999
    write_pickle(tmp_path / "file.pt", b"\x80\x02}(X\x05\x00\x00\x00model" + deep + b"u.")
    with pytest.raises(UserError, match="without end"):
        fairseq.read(tmp_path / "file.pt")


def test_an_unknown_class_is_refused_by_its_name(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        torch.save({"model": {}, "extra": Foreign(patch).make("somebody.models.Surprise")}, tmp_path / "file.pt")
    with pytest.raises(UserError, match=r"somebody\.models\.Surprise"):
        fairseq.read(tmp_path / "file.pt")


def test_stand_ins_do_nothing_when_called_or_filled(tmp_path):
    """A file may claim that fairseq.anything is to be called with its words; only the words are kept."""
    called = []

    def trap(*args: Any) -> None:
        called.append(args)

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return trap, ("rm -rf /",), {"state": 1}

    with pytest.MonkeyPatch.context() as patch:
        Foreign(patch).put("fairseq.trap.trap", trap)
        torch.save({"model": {}, "args": Trap()}, tmp_path / "file.pt")
        assert fairseq.read(tmp_path / "file.pt").settings == {"state": 1}
    assert not called
