"""Folders of model files: digests, durable copies."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

SUMS_FILE = "SHA256SUMS"


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_sums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below `folder`, by its relative name; hidden files left out."""
    return {name: file_sha256(folder / name) for name in _names(folder)}


def folder_sha256(sums: dict[str, str]) -> str:
    """One digest for a folder: that of its sorted `sha256  name` lines."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def recorded_sums(folder: Path) -> dict[str, str] | None:
    """What SHA256SUMS (as `sha256sum` writes it) in `folder` says, or None without it."""
    try:
        lines = (folder / SUMS_FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    return {name.lstrip("*"): digest for digest, name in (line.split(maxsplit=1) for line in lines)}


def copy_folder(source: Path, target: Path) -> None:
    """Copies the files below `source` to a new folder and syncs them; symlinks become files."""
    for name in _names(source):
        destination = target / name
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, destination)
        _sync(destination)
    sync_folder(target)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _names(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and path.name != SUMS_FILE and not _hidden(relative):
            yield relative.as_posix()


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in relative.parts)
