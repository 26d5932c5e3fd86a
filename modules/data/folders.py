"""The layout that data sets share: one folder a speaker. Importing this module is cheap."""

from __future__ import annotations

from pathlib import Path


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, sorted, hidden files and folders left out; nothing where there is no such folder."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []


def dataset_folders(root: Path) -> list[Path]:
    """The speakers' folders of a data set, by name, hidden ones left out; none where there is no such folder."""
    return [path for path in visible(root) if path.is_dir()]
