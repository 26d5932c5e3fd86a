"""config.json and diffusion.yaml: what may stand there, and what is said of the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modules.config import Config, load_config, load_diffusion_config, parse_config
from modules.errors import UserError
from tests.conftest import ROOT

TEMPLATES = sorted((ROOT / "configs_template").glob("config*.json"))


def changed(**sections: dict[str, Any]) -> str:
    """The text of the default config with other values."""
    values = Config().model_dump(mode="json")
    for name, section in sections.items():
        values[name].update(section)
    return json.dumps(values)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_templates_are_whole(path: Path) -> None:
    assert load_config(path).model.n_speakers


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    """Windows Notepad and PowerShell write one."""
    path = tmp_path / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + changed(train={"batch_size": 7}).encode())
    assert load_config(path).train.batch_size == 7


@pytest.mark.parametrize("section, key", [
    ("train", "fp16_run"), ("train", "all_in_mem"), ("model", "vol_embedding"), ("model", "use_transformer_flow"),
])  # fmt: skip
def test_null_for_a_switch_is_off(section: str, key: str) -> None:
    config = parse_config(changed(**{section: {key: None}}), "config.json")
    assert getattr(getattr(config, section), key) is False


@pytest.mark.parametrize("section, values, key", [
    ("data", {"hop_length": 256}, "model.upsample_rates"),
    ("data", {"win_length": 4096}, "data.win_length"),
    ("model", {"upsample_rates": [8, 8, 2, 2]}, "model.upsample_rates"),
    ("model", {"upsample_kernel_sizes": [16, 16, 4, 4]}, "model.upsample_kernel_sizes"),
    ("model", {"upsample_kernel_sizes": [16, 16, 4, 4, 3]}, "model.upsample_kernel_sizes"),
    ("model", {"upsample_rates": []}, "model.upsample_rates"),
    ("model", {"resblock_dilation_sizes": [[1, 3, 5]]}, "model.resblock_dilation_sizes"),
    ("model", {"resblock_kernel_sizes": [3, 7, 10]}, "model.resblock_kernel_sizes"),
    ("model", {"n_heads": 5}, "model.n_heads"),
    ("model", {"inter_channels": 15}, "model.inter_channels"),
    ("model", {"p_dropout": 2}, "model.p_dropout"),
    ("model", {"n_layers": 10**6}, "model.n_layers"),
    ("model", {"hidden_channels": 10**12}, "model.hidden_channels"),
    ("train", {"segment_size": 100}, "train.segment_size"),
    ("train", {"betas": [0.8, 1.5]}, "train.betas.1"),
    ("train", {"seed": 2**70}, "train.seed"),
])  # fmt: skip
def test_sizes_that_make_no_network_are_refused_by_their_key(section: str, values: dict[str, Any], key: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_config(changed(**{section: values}), "config.json")
    assert caught.value.where == f"config.json, key {key}"


@pytest.mark.parametrize("text", [
    "[" * 100_000 + "]" * 100_000, '{"spk": ' * 2000 + "{}" + "}" * 2000, '{"train": {"seed": ' + "9" * 5000 + "}}",
    '{"spk": {"\\ud800": 0}}', '{"train": {"epochs": NaN}}', "null", "", '{"spk": 3}', '{"model": []}',
])  # fmt: skip
def test_json_that_no_program_writes_is_one_clear_message(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert str(path) in caught.value.where


@pytest.mark.parametrize("text", [
    "a: &a [1, 2]\n" + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(24)),
    "a0: &a0 {k: 1}\n" + "".join(f"a{i + 1}: &a{i + 1} {{<<: [*a{i}, *a{i}], k{i}: 1}}\n" for i in range(40)),
    "a: &a [*a]", "[" * 5000 + "]" * 5000, "data: !!python/object/apply:os.system [true]", "a: !!int x", "? [a]\n: 1",
    "spk: {a: 99999999999999999999999999}", "model: {n_layers: .inf}", "a: 2001-99-99",
])  # fmt: skip
def test_yaml_that_unfolds_without_end_is_one_clear_message(text: str, tmp_path: Path) -> None:
    path = tmp_path / "diffusion.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_diffusion_config(path)
    assert str(path) in caught.value.where


def test_a_yaml_alias_that_is_used_twice_is_read(tmp_path: Path) -> None:
    path = tmp_path / "diffusion.yaml"
    path.write_text("data: {extensions: &kinds [wav], other: *kinds}\nspk: {alice: 0}\n", encoding="utf-8")
    assert load_diffusion_config(path).spk == {"alice": 0}


def test_a_folder_for_a_config_is_one_clear_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"):
        load_config(tmp_path)


def test_messages_show_control_characters_written_out() -> None:
    """A terminal would obey them: clear the screen, change the title, hide what was said."""
    with pytest.raises(UserError) as caught:
        parse_config(json.dumps({"model": {"vocoder_name": "\x1b[2J\x07evil"}}), "config\x1b.json")
    assert "\x1b" not in str(caught.value) and "evil" in str(caught.value)
