"""Which program or part a model file is of, for those who give another one than a voice of so-vits-svc 4."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from modules.errors import UserError


class Kind(NamedTuple):
    """How a kind of file is recognised, and what to say of it.

    Attributes:
        what: what the file is.
        fix: what to do about it.
        holds: keys that the file itself has.
        weights: beginnings of names of weights, each of which has to be there.
        lacks: beginnings of names of weights that may not be there.
    """

    what: str
    fix: str
    holds: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()


TRAIN_ANEW = "such a voice cannot be taken over; train it anew from its recordings"
DIFFUSION = "give it with -dm and its config with -dc, and add -shd or -od"
GENERATOR = "give the generator, {generator}"
KINDS = (
    Kind("the discriminator, which only training needs", GENERATOR, weights=("discriminators.",)),
    Kind("a diffusion model", DIFFUSION, weights=("unit_embed.", "decoder.denoise_fn.")),
    Kind("a model of DDSP-SVC", TRAIN_ANEW, weights=("unit2ctrl.",)),
    Kind("a model of DDSP-SVC", TRAIN_ANEW, weights=("ddsp_model.",)),
    Kind("a model of DDSP-SVC", TRAIN_ANEW, weights=("sampling_rate", "block_size")),
    Kind("a voice of GPT-SoVITS", TRAIN_ANEW, weights=("enc_p.ssl_proj.",)),
    Kind("a voice of RVC", TRAIN_ANEW, holds=("weight", "config", "version")),
    Kind("a voice of RVC", TRAIN_ANEW, holds=("weight", "config", "f0")),
    Kind("a model of RVC", TRAIN_ANEW, weights=("enc_p.emb_phone.",)),
    Kind("a voice of GPT-SoVITS", TRAIN_ANEW, holds=("weight", "config")),
    Kind("a voice of so-vits-svc 5", TRAIN_ANEW, holds=("model_g",)),
    Kind("a model of seed-vc", TRAIN_ANEW, weights=("cfm", "length_regulator")),
    Kind("a stand-alone vocoder", "it belongs into pretrain/nsf_hifigan; give G_<step>.pth", holds=("generator",)),
    Kind(
        "a model of VITS or of so-vits-svc 3, which came before the voices of 4",
        TRAIN_ANEW,
        weights=("enc_p.", "dec."),
        lacks=("emb_uv.",),
    ),
)


def refuse_other_kinds(content: Any, path: str | Path) -> None:
    """Raise UserError where the content of a file is none of a generator but of a kind that is known."""
    if not isinstance(content, dict):
        return
    names = list(_names_of_weights(content))
    if content and all(isinstance(value, dict) and "cluster_centers_" in value for value in content.values()):
        fix = "give it with -cm, and G_<step>.pth with -m"
        raise UserError("the file holds k-means centres, not a voice", path, fix)
    for kind in KINDS:
        if _is_of(kind, content, names):
            name = Path(path).name
            generator = name.replace("D_", "G_", 1) if name.startswith("D_") else "G_<step>.pth"
            fix = kind.fix.format(generator=generator)
            raise UserError(f"the file is {kind.what}, not a voice of so-vits-svc 4", path, fix)


def _is_of(kind: Kind, content: dict[Any, Any], names: list[str]) -> bool:
    there = all(any(name.startswith(start) for name in names) for start in kind.weights)
    others = any(name.startswith(kind.lacks) for name in names) if kind.lacks else False
    return there and not others and set(kind.holds) <= content.keys()


def _names_of_weights(content: dict[Any, Any]) -> Iterable[str]:
    """Of the file itself, or of what stands where these programs put their weights."""
    for key in ("model", "weight", "net", "state_dict"):
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    for name in content:
        yield str(name).removeprefix("module.")
