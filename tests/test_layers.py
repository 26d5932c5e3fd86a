"""Imports run down only, as docs/architecture.md says."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from importlinter import api
from importlinter.cli import lint_imports

from tests.conftest import ROOT

CONFIGURATION = api.read_configuration(str(ROOT / "pyproject.toml"))
PACKAGES = CONFIGURATION["session_options"]["root_packages"]
NOT_LAYERED = {"tests", "scripts", "benchmarks"}


def layered_names() -> set[str]:
    """Every module that the layers name."""
    layers = CONFIGURATION["contracts_options"][0]["layers"]
    return {name.strip(" ()") for layer in layers for name in layer.replace("|", ":").split(":")}


def imported_names(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def test_imports_keep_to_the_layers() -> None:
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), cache_dir=None) == 0


def test_every_package_has_its_place_in_the_layers() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - NOT_LAYERED
    assert packages <= set(PACKAGES)
    parts = {f"modules.{path.stem}" for path in (ROOT / "modules").glob("*.py") if path.stem != "__init__"}
    parts |= {f"modules.{path.parent.name}" for path in (ROOT / "modules").glob("*/__init__.py")}
    assert parts | (packages - {"modules"}) <= layered_names()


def test_no_module_imports_a_script() -> None:
    scripts = {path.stem for path in ROOT.glob("*.py")} - {"models"} | {"scripts"}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            found = {name.split(".")[0] for name in imported_names(path)} & scripts
            assert not found, f"{path.relative_to(ROOT)} imports {', '.join(found)}"


def test_the_generator_imports_only_what_lies_below_it() -> None:
    """models.py is a module, which import-linter cannot take as a root; its row is the second one."""
    above = ("modules.inference", "modules.training", "modules.mixing", "diffusion", "cluster")
    found = [name for name in imported_names(ROOT / "models.py") if name.startswith(above)]
    assert not found
