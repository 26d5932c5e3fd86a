"""Going on from pairs of so-vits-svc 4.1 and of our own past: every moment has to reach its own parameter."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modules import checkpoint
from modules.config import Config
from modules.training.distributed import Ranks
from modules.training.resume import load_optimizer
from modules.training.vits import build_networks
from tests.parity import fill

MANIFESTS = Path(__file__).parent / "parity/goldens/manifests"
CPU = Ranks(torch.device("cpu"))
# The order in which parts of the generator were registered before it was that of so-vits-svc.
OUR_OLD_ORDER = [
    *(f"dec.{part}" for part in ("m_source", "conv_pre", "ups", "noise_convs", "resblocks", "conv_post", "cond")),
    *("dec.snakes", "dec.snake_post", "flow.wn", "flow.flows"),
]


def moment(kind: str, name: str, shape: Iterable[int]) -> Tensor:
    """Made up from the name of the parameter alone."""
    return torch.from_numpy(fill.fill(f"{kind}/{name}", tuple(shape))).square()


def adam_state(names: list[str], shapes: dict[str, list[int]], **group: Any) -> dict[str, Any]:
    """What torch.optim.AdamW writes, as the original makes it: neither fused nor foreach was asked for."""
    state = {
        number: {
            "step": torch.tensor(800.0),
            "exp_avg": moment("exp_avg", name, shapes[name]),
            "exp_avg_sq": moment("exp_avg_sq", name, shapes[name]),
        }
        for number, name in enumerate(names)
    }
    settings = {"lr": 1e-4, "betas": (0.8, 0.99), "eps": 1e-9, "weight_decay": 0.01, "amsgrad": False}
    ways = {"maximize": False, "foreach": None, "capturable": False, "differentiable": False, "fused": None}
    numbers = list(range(len(names)))
    return {"state": state, "param_groups": [{**settings, **ways, "initial_lr": 1e-4, **group, "params": numbers}]}


def as_it_is(entries: list[Any]) -> list[Any]:
    return entries


def in_our_old_order(entries: list[Any]) -> list[Any]:
    tops = list(dict.fromkeys(entry[0].split(".")[0] for entry in entries))

    def place(entry: Any) -> tuple[int, int]:
        part = ".".join(entry[0].split(".")[:2])
        return tops.index(part.split(".")[0]), OUR_OLD_ORDER.index(part) if part in OUR_OLD_ORDER else 0

    return sorted(entries, key=place)


def write_pair(folder: Path, config: Config, manifest: dict[str, Any], order: Callable[[list[Any]], list[Any]]) -> None:
    """G_800.pth and D_800.pth as a training of so-vits-svc leaves them, their parameters in some order."""
    values = fill.fill_state_dict(manifest)
    entries = order(manifest["entries"])
    shared = {key: extra[0]["same_as"] for key, _, _, _, *extra in entries if extra and "same_as" in extra[0]}
    shapes = {key: shape for key, shape, *_ in entries}
    # what a parameter is called where the original registers it first
    names = list(dict.fromkeys(shared.get(key, key) for key, _, _, kind, *_ in entries if kind != "buffer"))
    content = {"iteration": 3, "learning_rate": 1e-4}
    weights = {key: torch.from_numpy(values[key]) for key, *_ in entries}
    checkpoint.save({"model": weights, "optimizer": adam_state(names, shapes), **content}, folder / "G_800.pth")
    discriminator = build_networks(config, CPU, folder / "nothing")[0].discriminator
    shapes = {name: list(parameter.shape) for name, parameter in discriminator.named_parameters()}
    optimizer = adam_state(list(shapes), shapes)
    checkpoint.save({"model": discriminator.state_dict(), "optimizer": optimizer, **content}, folder / "D_800.pth")


@pytest.mark.parametrize("order", [as_it_is, in_our_old_order])
@pytest.mark.parametrize("variant", ["default", "snake", "tiny"])
def test_every_moment_reaches_its_own_parameter(
    variant: str, order: Callable[[list[Any]], list[Any]], tmp_path: Path
) -> None:
    manifest = json.loads((MANIFESTS / f"b_{variant}.json").read_text())
    config = Config.model_validate({"model": {**manifest["config_model"], "discriminator_width": 0.0625}})
    assert config.spec_channels == manifest["spec_channels"]
    write_pair(tmp_path, config, manifest, order)
    networks, progress, notes = build_networks(config, CPU, tmp_path)
    assert (progress.step, progress.epoch, notes) == (800, 3, ["resuming from step 800"])
    for network in networks.pair:
        for name, parameter in network.module.named_parameters():
            for kind in ("exp_avg", "exp_avg_sq"):
                got = network.optimizer.state[parameter][kind]
                assert torch.equal(got, moment(kind, name, parameter.shape)), (network.name, name, kind)
        assert network.optimizer.param_groups[0]["fused"] is True


def test_step_counts_lie_where_a_fused_step_needs_them() -> None:
    """On CUDA it reads them on the device. The original's file says nothing of fused, and torch went by the file."""
    parameter = nn.Parameter(torch.zeros(2, 3, device="meta"))
    optimizer = torch.optim.AdamW([parameter])
    optimizer.param_groups[0]["fused"] = True  # the constructor refuses it on a device that computes nothing
    load_optimizer(optimizer, adam_state(["x"], {"x": [2, 3]}))
    assert optimizer.state[parameter]["step"].device == parameter.device
    assert optimizer.param_groups[0]["fused"] is True


def test_step_counts_stay_on_the_cpu_where_the_step_is_not_fused() -> None:
    parameter = nn.Parameter(torch.zeros(2, 3, device="meta"))
    optimizer = torch.optim.AdamW([parameter], foreach=False)
    load_optimizer(optimizer, adam_state(["x"], {"x": [2, 3]}, fused=True))
    assert optimizer.state[parameter]["step"].device.type == "cpu"
    group = optimizer.param_groups[0]
    assert (group["fused"], group["foreach"], group["betas"]) == (None, False, (0.8, 0.99))
