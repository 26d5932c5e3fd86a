"""What can be chosen: the models in trained/ and logs/ and what belongs to them. Nothing outside is ever named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from modules.errors import UserError
from modules.web.state import Studio
from pretrain import BASE_DIR, BASE_GENERATOR

MODEL_SUFFIXES = (".pth", ".safetensors")
CLUSTER_SUFFIXES = (".pt", ".pkl", ".safetensors")
DIFFUSION_SUFFIXES = (".pt", ".safetensors")
INDEX_FILE = "index.json"  # of a folder that train_index.py writes
PARTS_FILE = "parts.json"  # of a folder that onnx_export.py writes
NOT_CONFIGS = {INDEX_FILE, PARTS_FILE}
BASE_NAME = "base"  # as inference_main.py -m base


@dataclass(frozen=True)
class Diffusion:
    """A diffusion model and its config."""

    name: str
    model: Path
    config: Path


@dataclass(frozen=True)
class Cluster:
    """K-means centres, or a retrieval index."""

    name: str
    path: Path
    retrieval: bool


@dataclass(frozen=True)
class Choice:
    """A model that can be loaded.

    Attributes:
        name: what the user chooses, unique.
        model: its weights; None where ``onnx`` is a folder of graphs.
        config: None where the model carries it.
    """

    name: str
    model: Path | None
    config: Path | None = None
    onnx: Path | None = None
    diffusions: tuple[Diffusion, ...] = ()
    clusters: tuple[Cluster, ...] = ()


@dataclass(frozen=True)
class Catalog:
    """Everything that can be chosen now, and what cannot with the reason."""

    choices: dict[str, Choice]
    problems: tuple[str, ...] = ()

    def find(self, name: str | None) -> Choice:
        """The choice of a name. Raises UserError: there is none."""
        if not name or name not in self.choices:
            raise UserError(
                "no model is chosen" if not name else f"there is no model {name!r}",
                "trained/",
                "put a folder with one model and one config into trained/, or upload them, and choose it",
            )
        return self.choices[name]


def list_models(studio: Studio, uploaded: Iterable[Choice] = ()) -> Catalog:
    """Look through trained/, logs/ and checkpoints/; uploaded ones come first, the one of the project last."""
    choices, problems = {choice.name: choice for choice in uploaded}, []
    for found in (*_in_trained(studio.folder("trained")), *_in_logs(studio.folder("logs"))):
        if isinstance(found, str):
            problems.append(found)
        else:
            choices[found.name] = found
    for folder in _folders(studio.folder("checkpoints")):
        if (folder / PARTS_FILE).is_file():
            name = f"checkpoints/{folder.name} (ONNX)"
            choices[name] = Choice(name, None, onnx=folder)
    if (BASE_DIR / BASE_GENERATOR).is_file():
        choices[BASE_NAME] = Choice(BASE_NAME, BASE_DIR / BASE_GENERATOR)
    return Catalog(choices, tuple(problems))


def choice_of_files(name: str, files: Iterable[Path]) -> Choice:
    """A model out of uploaded files: one model, its config, perhaps diffusion and clusters.

    Raises:
        UserError: no model, no config, or too many of them.
    """
    return _choice(name, sorted(files), name)


def _in_trained(root: Path) -> Iterator[Choice | str]:
    for folder in _folders(root):
        name = f"trained/{folder.name}"
        try:
            yield _choice(name, _files(folder, root), folder)
        except UserError as error:
            yield f"{name}: {error.what}"
    for path in _files(root, root):
        if path.suffix == ".safetensors" and _carries_config(path):
            yield Choice(f"trained/{path.name}", path)


def _in_logs(root: Path) -> Iterator[Choice]:
    for folder in _folders(root):
        config = folder / "config.json"
        if not config.is_file():
            continue
        files = _files(folder, root)
        models = [path for path in files if path.suffix in MODEL_SUFFIXES and path.name.startswith("G_")]
        models = [path for path in models if path.stem != "G_0"]  # what training starts from sings nothing
        diffusions = _diffusions(folder / "diffusion", root)
        clusters = _clusters(files, models, folder)
        for model in sorted(models, key=_newest_first):
            yield Choice(f"logs/{folder.name}/{model.name}", model, config, None, diffusions, clusters)


def _newest_first(path: Path) -> tuple[int, int]:
    step = path.stem.removeprefix("G_")
    return (0, 0) if step == "best" else (1, -int(step)) if step.isdigit() else (2, 0)


def _choice(name: str, files: list[Path], where: object) -> Choice:
    """Tell the files of one folder apart."""
    configs = [path for path in files if path.suffix == ".json" and path.name not in NOT_CONFIGS]
    models = [path for path in files if path.suffix == ".pth"]
    released = [path for path in files if path.suffix == ".safetensors" and _carries_config(path)]
    if not models:
        models = released or [path for path in files if path.suffix == ".safetensors"]
    if len(models) != 1:
        found = f"{len(models)} models ({', '.join(path.name for path in models)})" if models else "no model"
        raise UserError(f"{found} where there should be one", where, "leave one .pth or .safetensors there")
    configs = [path for path in configs if path.name == "config.json"] or configs
    if released == models:
        configs = []
    elif len(configs) != 1:
        raise UserError(
            f"{len(configs)} configs where there should be one", where, "add the config.json that belongs to the model"
        )
    folder = models[0].parent
    diffusions = _pair_diffusions(files)
    taken = [*models, *(diffusion.model for diffusion in diffusions)]
    clusters = _clusters(files, taken, folder)
    return Choice(name, models[0], configs[0] if configs else None, None, diffusions, clusters)


def _pair_diffusions(files: list[Path]) -> tuple[Diffusion, ...]:
    configs = [path for path in files if path.suffix in (".yaml", ".yml")]
    if len(configs) != 1:
        return ()
    models = [path for path in files if path.suffix in DIFFUSION_SUFFIXES and "model" in path.stem]
    return tuple(Diffusion(path.name, path, configs[0]) for path in models)


def _diffusions(folder: Path, root: Path) -> tuple[Diffusion, ...]:
    files = _files(folder, root) if folder.is_dir() else []
    return tuple(reversed(_pair_diffusions(files)))


def _clusters(files: list[Path], taken: list[Path], folder: Path) -> tuple[Cluster, ...]:
    found = [
        Cluster(path.name, path, path.suffix == ".pkl")
        for path in files
        if path.suffix in CLUSTER_SUFFIXES and path not in taken and (path.suffix == ".pkl" or "kmeans" in path.stem)
    ]
    indexes = [index for index in _folders(folder) if (index / INDEX_FILE).is_file()]
    names = {cluster.path.stem for cluster in found}
    return (*found, *(Cluster(index.name, index, True) for index in indexes if index.name not in names))


def _folders(root: Path) -> list[Path]:
    """Plain folders in a folder; links that lead out of it are left out."""
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.is_dir() and _is_inside(path, root))


def _files(folder: Path, root: Path) -> list[Path]:
    """Plain files in a folder; hidden ones and links that lead out of ``root`` are left out."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_file() and _is_inside(path, root))


def _is_inside(path: Path, root: Path) -> bool:
    return not path.name.startswith(".") and path.resolve().is_relative_to(root.resolve())


def _carries_config(path: Path) -> bool:
    from modules.checkpoint import safetensors_metadata

    try:
        return "config" in safetensors_metadata(path)
    except UserError:
        return False
