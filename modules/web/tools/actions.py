"""What the tools do, apart from how they look: files in, scripts run, files out."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from modules import checkpoint
from modules.errors import UserError
from modules.files import write_text
from modules.onnx.options import ExportOptions
from modules.options import check, flags
from modules.training.options import ReleaseOptions
from modules.web.catalog import ModelEntry, config_of
from modules.web.scripts import Words, command_text, run_script
from modules.web.state import Session

NAME = re.compile(r"[\w][\w .-]{0,59}")
RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")  # names that Windows keeps to itself


@dataclass(frozen=True)
class Written:
    """What a tool made: files, and the command that makes the same."""

    files: tuple[Path, ...]
    command: str


Step = str | Written  # lines of the script, and at last what was written


def check_name(name: str) -> str:
    """A plain name for a file or folder. Raises UserError."""
    name = name.strip()
    if not NAME.fullmatch(name) or name.endswith(".") or RESERVED.fullmatch(name):
        raise UserError(f"not a name for a model: {name!r}", "", "use letters, digits, spaces, dots, - and _")
    return name


def mix(session: Session, names: Sequence[str], percents: Sequence[float], mode: str, name: str) -> Iterator[Step]:
    """trained/<name>/ with the mix of the models and the config of the first. Raises UserError."""
    if len(names) < 2 or len(names) != len(percents):
        raise UserError(f"{len(names)} model(s) are chosen", "", "choose two or more")
    entries = [session.conversion.catalog().find(one) for one in names]
    folder = _new(session.folders.of_user("trained") / check_name(name))
    target = folder / f"{folder.name}.pth"
    pairs = [f"{_model(entry)}={percent:g}" for entry, percent in zip(entries, percents, strict=True)]
    arguments: Words = ["-m", "modules.mixing", *pairs, "--mode", mode, "-o", target]
    try:
        yield from run_script(session, arguments)
        write_text(folder / "config.json", _config_text(entries[0]))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    yield Written((target,), command_text(arguments, session.folders.work_dir))


def release(session: Session, model: str, kind: str, half: bool, name: str) -> Iterator[Step]:
    """trained/<name>.safetensors, or trained/<name>/ with .pth and config. Raises UserError."""
    entry = session.conversion.catalog().find(model)
    trained, name = session.folders.of_user("trained"), check_name(name)
    target = trained / f"{name}.safetensors" if kind == "safetensors" else trained / name / f"{name}.pth"
    _new(target)
    if kind != "safetensors":
        _new(target.parent)
    config = entry.config
    if config is None:
        config = session.folder / "config.json"
        write_text(config, _config_text(entry))
    options = ReleaseOptions(config, _model(entry), target, half=half)
    arguments: Words = ["compress_model.py", *flags(options)]
    yield from run_script(session, arguments)
    if kind != "safetensors":
        write_text(target.parent / "config.json", _config_text(entry))
    yield Written((target,), command_text(arguments, session.folders.work_dir))


def export_onnx(session: Session, model: str, parts: Sequence[str], half: bool, name: str) -> Iterator[Step]:
    """checkpoints/<name>/ with the graphs. Raises UserError."""
    entry = session.conversion.catalog().find(model)
    root, name = session.folders.of_user("checkpoints"), check_name(name)
    folder = _new(root / name)
    try:
        folder.mkdir(parents=True)
        source = _model(entry)
        if source.suffix == ".pth":
            shutil.copyfile(source, folder / "model.pth")
        else:
            state = checkpoint.generator_state(source)
            checkpoint.save(
                {"model": state, "iteration": 0, "optimizer": None, "learning_rate": 0.0}, folder / "model.pth"
            )
        write_text(folder / "config.json", _config_text(entry))
        options = ExportOptions(name, parts=tuple(parts), half=half)
        check(options)  # what comes from a browser may be no part at all
        arguments = ["onnx_export.py", *flags(options)]
        yield from run_script(session, arguments, ["--root", root, "--pretrain", session.folders.pretrain])
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    yield Written(tuple(sorted(folder.glob("*.onnx"))), command_text(arguments, session.folders.work_dir))


def to_safetensors(session: Session, files: Sequence[Path]) -> Iterator[Step]:
    """Each .pth or .pt file as .safetensors, in the page's own folder. Raises UserError."""
    sources = [path for path in files if path.suffix in (".pth", ".pt", ".ckpt")]
    configs = [path for path in files if path.suffix == ".json"]
    if not sources:
        raise UserError("there is no .pth or .pt file among them", "", "choose the files to convert")
    if len(configs) > 1:
        raise UserError(f"there are {len(configs)} configs", "", "add the one that belongs to the model")
    folder = session.folder / f"safetensors-{len(list(session.folder.glob('safetensors-*')))}"
    folder.mkdir()
    copies = []
    for source in sources:
        copies.append(folder / source.name)
        copies[-1].hardlink_to(source)
    if configs:
        (folder / "config.json").hardlink_to(configs[0])
    arguments: Words = ["-m", "pretrain", "convert", *copies]
    yield from run_script(session, arguments)
    made = tuple(path.with_suffix(".safetensors") for path in copies)
    typed: Words = ["-m", "pretrain", "convert", *(path.name for path in sources)]
    yield Written(made, command_text(typed, session.folders.work_dir))


def _new(path: Path) -> Path:
    if path.exists():
        raise UserError(f"{path.name} is there already", path, "choose another name")
    return path


def _model(entry: ModelEntry) -> Path:
    if entry.model is None:
        raise UserError("this choice is a folder of ONNX graphs", entry.name, "choose the model it was made from")
    return entry.model


def _config_text(entry: ModelEntry) -> str:
    config = config_of(entry)
    if config is None:
        raise UserError("the model has no config", entry.name, "put its config.json beside it")
    return config.to_json()
