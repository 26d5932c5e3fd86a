"""Which pretrained weights there are, where they come from, how they are fetched and checked."""

from __future__ import annotations

from pathlib import Path

from modules.errors import UserError
from pretrain.weights import BY_NAME, Weight

DEFAULT_DIR = Path("pretrain")


def find(name: str, pretrain_dir: Path = DEFAULT_DIR) -> Path | None:
    """The file of the weight ``name`` of the table, None where none of its forms is there."""
    paths = (pretrain_dir / candidate for candidate in weight_named(name).candidates)
    return next((path for path in paths if path.is_file()), None)


def require(name: str, pretrain_dir: Path = DEFAULT_DIR) -> Path:
    """The file of the weight ``name`` of the table.

    Raises:
        UserError: it is not there; the message names the file, its size and the command that fetches it.
    """
    path = find(name, pretrain_dir)
    if path is None:
        weight = weight_named(name)
        raise UserError(
            f"the weights {weight.name} are missing ({describe_size(weight)}, {weight.used_for})",
            pretrain_dir / weight.file,
            fetch_command(weight, pretrain_dir),
        )
    return path


def weight_named(name: str) -> Weight:
    """The entry of the table.

    Raises:
        UserError: there is no such entry.
    """
    if name not in BY_NAME:
        raise UserError(f"there are no weights called {name}", "", f"choose from: {', '.join(BY_NAME)}")
    return BY_NAME[name]


def describe_size(weight: Weight) -> str:
    """The size as people read it."""
    about = "" if weight.size_known == "exact" else "about "
    return f"{about}{weight.size / 1e6:.0f} MB"


def fetch_command(weight: Weight, pretrain_dir: Path = DEFAULT_DIR) -> str:
    """The one command that puts the weight in place."""
    where = "" if pretrain_dir == DEFAULT_DIR else f" --dir {pretrain_dir}"
    return f"python -m pretrain fetch {weight.name}{where}"
