"""A directory that appears whole or not at all, even when the process is killed meanwhile."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from everloop.errors import InvalidRequest


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """Yields an empty directory beside `target` to write into; it becomes `target` when the block
    ends well, with everything synced to the disk, and is removed when it raises.

    Raises InvalidRequest if `target` exists with something in it: models are never overwritten.
    """
    target = target.absolute()
    check_vacant(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    try:
        yield work
        for path in work.rglob("*"):
            sync(path)
        work.chmod(0o755)  # mkdtemp makes it private
        sync(work)
        check_vacant(target)
        work.rename(target)
        sync(target.parent)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def check_vacant(target: Path) -> None:
    """Raises InvalidRequest unless a new directory can be made at `target`."""
    if target.is_dir() and not any(target.iterdir()):
        return
    if target.exists():
        raise InvalidRequest(f"{target} already exists. Choose a new directory, or remove it.")


def sync(path: Path) -> None:
    """Waits until a file, or a directory's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
