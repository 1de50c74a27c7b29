"""The home folder: made private, and served by one process at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from everloop.errors import EverloopError, InvalidRequest

LOCK_FILE = "home.lock"


class HomeInUse(EverloopError):
    """Another server runs on this home."""


def prepare(home: Path) -> Path:
    """Makes the folder (mode 0700) if it isn't there. Raises InvalidRequest naming `home`."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequest(
            f"The home {home} can't be made: {error.strerror}. "
            "Choose another folder with EVERLOOP_HOME or --home.",
            param="home",
        ) from None
    if not os.access(home, os.W_OK | os.X_OK):
        raise InvalidRequest(
            f"The home {home} isn't writable for this user. "
            "Repair its owner, or choose another folder with EVERLOOP_HOME or --home.",
            param="home",
        )
    return home


@contextmanager
def server_lock(home: Path) -> Iterator[None]:
    """Holds the home for one server; raises HomeInUse naming the process that has it.

    The kernel drops the lock when the process ends, however it ends, so a stale file never blocks.
    """
    descriptor = os.open(prepare(home) / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
            raise HomeInUse(
                f"The home {home} is in use by a server with pid {pid}. "
                "Stop it, or choose another folder with EVERLOOP_HOME or --home."
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def serving_pid(home: Path) -> int | None:
    """The pid of the server that holds this home, or None."""
    try:
        descriptor = os.open(home / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or 0) or None
    finally:
        os.close(descriptor)
    return None
