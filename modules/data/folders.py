"""The layout that data sets share: one folder a speaker. Importing this module is cheap."""

from __future__ import annotations

from pathlib import Path


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, sorted, hidden files and folders left out; nothing where there is no such folder."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []


def unusable_name(name: str) -> str:
    """Why a file or folder of this name cannot stand in lists and reports; empty where it can."""
    if name.splitlines() != [name]:  # U+2028, U+0085 and form feed among them
        return "a line break in the name; rename it"
    try:
        name.encode()
    except UnicodeEncodeError:  # as of a zip archive that was packed in another encoding
        return "the name is not UTF-8; rename it"
    return ""


def dataset_folders(root: Path) -> list[Path]:
    """The speakers' folders of a data set, by name, hidden ones left out; none where there is no such folder."""
    return [path for path in visible(root) if path.is_dir()]
