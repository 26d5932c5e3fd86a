"""What the documents tell people to type exists: scripts, flags, files and links of both READMEs and the notebook."""

from __future__ import annotations

import functools
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import nbformat
import pytest

from tests.conftest import ROOT
from vencoder import ENCODERS

ENGLISH, CHINESE, NOTEBOOK = "README.md", "README_zh_CN.md", "notebooks/colab.ipynb"
READMES = (ENGLISH, CHINESE)
NO_SCRIPTS = {"spkmix.py"}  # a file that users edit
FLAG = re.compile(r"(?<![\w-])--?[A-Za-z][\w-]*")


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def notebook_cells() -> list[str]:
    notebook = nbformat.read(ROOT / NOTEBOOK, as_version=4)
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def typed_lines(name: str) -> Iterator[str]:
    """The lines that a reader types: indented ones and `quoted` ones of a README, the ! lines of the notebook."""
    if name == NOTEBOOK:
        for cell in notebook_cells():
            whole = cell.replace("\\\n", " ")
            yield from (line[1:] for line in whole.splitlines() if line.startswith("!"))
        return
    text = text_of(name)
    yield from (line.strip() for line in text.splitlines() if line.startswith("    "))
    yield from re.findall(r"`([^`\n]+)`", text)


def commands(name: str) -> list[list[str]]:
    """[script, argument, ...] of every Python command; ``-m pretrain`` is the script of that package."""
    found = []
    for line in typed_lines(name):
        words = shlex.split(line.partition("  #")[0])
        if words[:3] == ["python", "-m", "pretrain"]:
            found.append(["-m pretrain", *words[3:]])
        elif words[:1] == ["python"] and len(words) > 1 and words[1].endswith(".py"):
            found.append(words[1:])
        elif words[:1] == ["torchrun"]:
            script = next(index for index, word in enumerate(words) if word.endswith(".py"))
            found.append(words[script:])
    return found


@functools.cache
def flags_of(script: str) -> frozenset[str]:
    """The flags that a script's --help names."""
    result = subprocess.run(
        [sys.executable, *script.split(), "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return frozenset(FLAG.findall(result.stdout))


def used_flags(words: list[str]) -> set[str]:
    return {word.partition("=")[0] for word in words if FLAG.fullmatch(word.partition("=")[0])}


@pytest.mark.parametrize("name", [*READMES, NOTEBOOK])
def test_every_command_names_a_script_and_flags_that_there_are(name: str) -> None:
    found = commands(name)
    scripts = {words[0] for words in found}
    numbered = {"resample.py", "preprocess_flist_config.py", "preprocess_hubert_f0.py", "train.py", "inference_main.py"}
    assert numbered | {"-m pretrain"} <= scripts and len(found) >= 12
    for script, *arguments in found:
        if script == "-m pretrain":
            help_of = [sys.executable, "-m", "pretrain", *arguments[:1], "--help"]
            subprocess.run(help_of, cwd=ROOT, check=True, capture_output=True)
            continue
        unknown = used_flags(arguments) - flags_of(script)
        assert not unknown, f"{name}: {script} has no {', '.join(unknown)}"


@pytest.mark.parametrize("name", READMES)
def test_the_table_of_scripts_is_right(name: str) -> None:
    rows = re.findall(r"^\| `([\w/]+\.py)` \|[^|]*\|([^|]*)\|$", text_of(name), re.MULTILINE)
    listed = {script for script, _ in rows}
    public = {path.name for path in ROOT.glob("*.py")} - {"models.py"}
    assert public - listed <= {"onnx_export.py"}  # which has a section of its own
    for script, flags in rows:
        assert (ROOT / script).is_file()
        words = [word for quoted in re.findall(r"`([^`]+)`", flags) for word in quoted.split()]
        if script not in NO_SCRIPTS:
            assert used_flags(words) <= flags_of(script), script
            assert words, script


@pytest.mark.parametrize("name", READMES)
def test_flags_in_the_text_are_flags_of_some_script(name: str) -> None:
    scripts = {words[0] for words in commands(name)} | set(re.findall(r"`([\w/]+\.py)`", text_of(name))) - NO_SCRIPTS
    known = frozenset().union(*(flags_of(script) for script in scripts)) | {"--nproc_per_node", "-py", "-r"}
    quoted = [word for text in re.findall(r"`([^`\n]+)`", text_of(name)) for word in text.split()]
    encoders = {f"-{encoder.rpartition('-')[2]}" for encoder in ENCODERS}  # `-base` and the like, short for a name
    unknown = used_flags(quoted) - known - encoders - {"--debug", "-0"}
    assert not unknown


@pytest.mark.parametrize("name", READMES)
def test_links_and_pictures_lead_to_files(name: str) -> None:
    text = text_of(name)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    for link in links:
        path, _, anchor = link.partition("#")
        assert (ROOT / path if path else ROOT / name).exists(), link
        if anchor and not path:
            headings = {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in headings_of(text)}
            assert anchor in headings
    pictures = [ROOT / link for link in links if link.endswith(".png")]
    assert pictures and all(path.stat().st_size < 300_000 for path in pictures)


def headings_of(text: str) -> list[str]:
    return re.findall(r"^#+ (.+)$", text, re.MULTILINE)


def blocks_of(text: str) -> list[str]:
    """The lines to type, without what follows a #."""
    return [line.partition("  #")[0].strip() for line in text.splitlines() if line.startswith("    ")]


def test_both_readmes_tell_the_same() -> None:
    english, chinese = text_of(ENGLISH), text_of(CHINESE)
    assert [line.count("#") for line in re.findall(r"^#+ ", english, re.MULTILINE)] == [
        line.count("#") for line in re.findall(r"^#+ ", chinese, re.MULTILINE)
    ]
    assert blocks_of(english) == blocks_of(chinese)
    for kind in (r"^\|", r"^- \*\*", r"^\d\. \*", r"^\*\*"):
        assert len(re.findall(kind, english, re.MULTILINE)) == len(re.findall(kind, chinese, re.MULTILINE)), kind

    def flags(text: str) -> set[str]:
        return {word for quoted in re.findall(r"`([^`\n]+)`", text) for word in FLAG.findall(quoted)}

    assert flags(english) == flags(chinese)


def test_the_notebook_is_valid_and_its_cells_are_python() -> None:
    notebook = nbformat.read(ROOT / NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.get("outputs") for cell in notebook.cells)
    for cell in notebook_cells():
        lines = cell.replace("\\\n", " ").splitlines()
        python = "\n".join("pass" if line.startswith(("!", "%")) else line for line in lines)
        compile(python, "cell", "exec")


def test_the_notebook_runs_the_commands_of_the_readme() -> None:
    readme = [" ".join(words) for words in commands(ENGLISH)]
    for words in commands(NOTEBOOK):
        if words[0] in ("resample.py", "preprocess_flist_config.py"):
            assert " ".join(words) in readme
