"""What can be chosen: the models in trained/ and logs/ and what belongs to them. Nothing outside is ever named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.config import Config, load_config, load_diffusion_config, parse_config
from modules.errors import UserError
from modules.text_formats import read_as
from modules.web.folders import Folders
from pretrain import BASE_DIR, BASE_GENERATOR

MODEL_SUFFIXES = (".pth", ".safetensors")
CLUSTER_SUFFIXES = (".pt", ".pkl", ".safetensors")
DIFFUSION_SUFFIXES = (".pt", ".safetensors")
INDEX_FILE = "index.json"  # of a folder that train_index.py writes
PARTS_FILE = "parts.json"  # of a folder that onnx_export.py writes
NOT_CONFIGS = {INDEX_FILE, PARTS_FILE}
BASE_NAME = "base"  # as inference_main.py -m base


@dataclass(frozen=True)
class DiffusionEntry:
    """A diffusion model and its config."""

    name: str
    model: Path
    config: Path


@dataclass(frozen=True)
class UnitIndex:
    """K-means centres, or a retrieval index."""

    name: str
    path: Path
    retrieval: bool


@dataclass(frozen=True)
class ModelEntry:
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
    diffusions: tuple[DiffusionEntry, ...] = ()
    clusters: tuple[UnitIndex, ...] = ()


@dataclass(frozen=True)
class Catalog:
    """Everything that can be chosen now, and what cannot with the reason."""

    entries: dict[str, ModelEntry]
    problems: tuple[str, ...] = ()

    def find(self, name: str | None) -> ModelEntry:
        """The model of a name. Raises UserError: there is none."""
        if not name or name not in self.entries:
            raise UserError(
                "no model is chosen" if not name else f"there is no model {name!r}",
                "trained/",
                "put a folder with one model and one config into trained/, or upload them, and choose it",
            )
        return self.entries[name]


def list_models(folders: Folders, uploaded: Iterable[ModelEntry] = ()) -> Catalog:
    """Look through trained/, logs/ and checkpoints/; uploaded ones come first, the one of the project last."""
    entries, problems = {entry.name: entry for entry in uploaded}, []
    found = (
        *_in_trained(folders.of_user("trained")),
        *_in_logs(folders.of_user("logs")),
        *_in_checkpoints(folders.of_user("checkpoints")),
    )
    for one in found:
        if isinstance(one, str):
            problems.append(one)
        elif problem := _problem(one):
            problems.append(problem)
        else:
            entries[one.name] = one
    if (BASE_DIR / BASE_GENERATOR).is_file():
        entries[BASE_NAME] = ModelEntry(BASE_NAME, BASE_DIR / BASE_GENERATOR)
    return Catalog(entries, tuple(problems))


def entry_of_files(name: str, files: Iterable[Path]) -> ModelEntry:
    """A model out of uploaded files: one model, its config, perhaps diffusion and clusters.

    Raises:
        UserError: no model, no config, or too many of them.
    """
    return _entry(name, sorted(files), name)


def keep_together(paths: list[Path], folder: Path) -> list[Path]:
    """Uploads lie in a folder each; files that refer to each other are put side by side into one of the session's.

    Raises:
        UserError: two of the files have the same name.
    """
    target = folder / f"model-{len(list(folder.glob('model-*')))}"
    target.mkdir()
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        raise UserError(f"two of the files have the same name: {', '.join(names)}", "", "rename one of them")
    for path in paths:
        (target / path.name).hardlink_to(path)
    return [target / name for name in names]


def config_of(entry: ModelEntry) -> Config | None:
    """The config of a model; None where it has none. Raises UserError where it cannot be read."""
    if entry.config is not None:
        return load_config(entry.config)
    if entry.model is not None:
        from modules.checkpoint import safetensors_metadata

        text = safetensors_metadata(entry.model).get("config")
        return parse_config(text, entry.model) if text is not None else None
    return None


def speakers_of(entry: ModelEntry) -> dict[str, int]:
    """Name -> id of the speakers of a model that need not be loaded. Raises UserError."""
    if entry.onnx is not None:
        from modules.onnx.manifest import Manifest

        return dict(Manifest.load(entry.onnx).speakers)
    config = config_of(entry)
    if config is not None:
        return dict(config.spk)
    return dict(load_diffusion_config(entry.diffusions[0].config).spk) if entry.diffusions else {}


def embedding_rows(entry: ModelEntry) -> int:
    """Rows of the speaker embedding of a model that need not be loaded. Raises UserError."""
    if entry.onnx is not None:
        from modules.onnx.manifest import Manifest

        return Manifest.load(entry.onnx).n_speakers
    config = config_of(entry)
    return config.model.n_speakers if config is not None else max(speakers_of(entry).values(), default=0) + 1


def _in_trained(root: Path) -> Iterator[ModelEntry | str]:
    for folder in _folders(root):
        name = f"trained/{folder.name}"
        try:
            yield _entry(name, _files(folder, root), folder)
        except UserError as error:
            yield f"{name}: {error.what}"
    for path in _files(root, root):
        if path.suffix == ".safetensors" and _carries_config(path):
            yield ModelEntry(f"trained/{path.name}", path)


def _in_logs(root: Path) -> Iterator[ModelEntry]:
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
            yield ModelEntry(f"logs/{folder.name}/{model.name}", model, config, None, diffusions, clusters)


def _in_checkpoints(root: Path) -> Iterator[ModelEntry]:
    for folder in _folders(root):
        if (folder / PARTS_FILE).is_file():
            yield ModelEntry(f"checkpoints/{folder.name} (ONNX)", None, onnx=folder)


def _problem(entry: ModelEntry) -> str | None:
    """What is wrong with what says who sings in a model; None where it can be read."""
    try:
        speakers_of(entry)
    except UserError as error:
        return f"{entry.name}: {error.what}"
    return None


def _newest_first(path: Path) -> tuple[int, int]:
    step = path.stem.removeprefix("G_")
    return (0, 0) if step == "best" else (1, -int(step)) if step.isdigit() else (2, 0)


def _entry(name: str, files: list[Path], where: object) -> ModelEntry:
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
    return ModelEntry(name, models[0], configs[0] if configs else None, None, diffusions, clusters)


def _pair_diffusions(files: list[Path]) -> tuple[DiffusionEntry, ...]:
    configs = [path for path in files if path.suffix in (".yaml", ".yml")]
    if len(configs) != 1:
        return ()
    models = [path for path in files if path.suffix in DIFFUSION_SUFFIXES and "model" in path.stem]
    return tuple(DiffusionEntry(path.name, path, configs[0]) for path in models)


def _diffusions(folder: Path, root: Path) -> tuple[DiffusionEntry, ...]:
    files = _files(folder, root) if folder.is_dir() else []
    return tuple(reversed(_pair_diffusions(files)))


def _clusters(files: list[Path], taken: list[Path], folder: Path) -> tuple[UnitIndex, ...]:
    found = [
        UnitIndex(path.name, path, path.suffix == ".pkl")
        for path in files
        if path.suffix in CLUSTER_SUFFIXES and path not in taken and (path.suffix == ".pkl" or "kmeans" in path.stem)
    ]
    indexes = [index for index in _folders(folder) if _is_index(index)]
    names = {cluster.path.stem for cluster in found}
    return (*found, *(UnitIndex(index.name, index, True) for index in indexes if index.name not in names))


def _is_index(folder: Path) -> bool:
    """Whether train_index.py wrote a folder. A file of that name alone says nothing: jobs/ has one of its own."""
    content = read_as(dict[str, Any], folder / INDEX_FILE)
    return content is not None and isinstance(content.get("speakers"), dict)


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
