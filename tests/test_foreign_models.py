"""Files of other programs, and other parts of ours, that are given for a voice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cluster import kmeans
from diffusion.unit2mel import build_unit2mel
from models import MultiPeriodDiscriminator
from modules import checkpoint
from modules.checkpoint import generator_state
from modules.errors import UserError
from modules.foreign_models import refuse_other_kinds
from tests.standin_voice import small_config, small_model
from tests.tiny_diffusion import tiny_diffusion_config

ONE = torch.zeros(1)


@pytest.mark.parametrize(
    ("content", "what", "fix"),
    [
        ({"weight": {"enc_p.emb_phone.weight": ONE}, "config": [1], "version": "v2", "f0": 1}, "RVC", "train it anew"),
        ({"model": {"enc_p.emb_phone.weight": ONE, "dec.x": ONE}, "iteration": 3}, "RVC", "train it anew"),
        ({"weight": {"enc_p.ssl_proj.weight": ONE}, "config": {}, "info": "x"}, "GPT-SoVITS", "train it anew"),
        ({"model_g": {"dec.x": ONE}}, "so-vits-svc 5", "train it anew"),
        ({"net": {"cfm": {"x": ONE}, "length_regulator": {"x": ONE}}}, "seed-vc", "train it anew"),
        ({"global_step": 9, "model": {"unit2ctrl.stack.0.weight": ONE}}, "DDSP-SVC", "train it anew"),
        ({"generator": {"conv_pre.weight": ONE}}, "stand-alone vocoder", "pretrain/nsf_hifigan"),
        ({"model": {"enc_p.emb.weight": ONE, "dec.x": ONE, "dp.x": ONE}}, "VITS", "train it anew"),
        ({"module.enc_p.emb.weight": ONE, "module.dec.x": ONE}, "VITS", "train it anew"),
    ],
)
def test_a_file_of_another_program_is_called_by_its_name(content: Any, what: str, fix: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "given.pth")
    with pytest.raises(UserError, match=what) as refusal:
        generator_state(tmp_path / "given.pth")
    assert fix in refusal.value.fix


def test_the_discriminator_says_which_file_to_take(tmp_path: Path) -> None:
    state = MultiPeriodDiscriminator(width=0.0625).state_dict()
    checkpoint.save({"model": state, "iteration": 1}, tmp_path / "D_353.pth")
    with pytest.raises(UserError, match="discriminator") as refusal:
        generator_state(tmp_path / "D_353.pth")
    assert "G_353.pth" in refusal.value.fix


def test_parts_of_ours_say_where_they_belong(tmp_path: Path) -> None:
    diffusion = build_unit2mel(tiny_diffusion_config()).state_dict()
    torch.save({"global_step": 0, "model": diffusion}, tmp_path / "model_0.pt")
    kmeans.save(kmeans.Centres({"alice": torch.zeros(2, 4).numpy()}), tmp_path / "kmeans_10000.pt")
    for name, flag in (("model_0.pt", "-dm"), ("kmeans_10000.pt", "-cm")):
        with pytest.raises(UserError) as refusal:
            generator_state(tmp_path / name)
        assert flag in refusal.value.fix


@pytest.mark.parametrize("vocoder", ["nsf-hifigan", "nsf-snake-hifigan"])
def test_voices_pass_as_checkpoint_release_and_bare_weights(vocoder: str) -> None:
    state = small_model(small_config(vocoder_name=vocoder)).state_dict()
    for content in ({"model": state, "iteration": 1}, state, {f"module.{key}": value for key, value in state.items()}):
        refuse_other_kinds(content, "G_1.pth")
    refuse_other_kinds([1], "no dict: for others to judge")
