"""A program on a terminal: what a person types and sees."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Terminal:
    def __init__(self, parent: int, process: subprocess.Popen[bytes]) -> None:
        self._parent, self._process = parent, process
        self._seen = b""
        self._asked = 0

    @property
    def seen(self) -> str:
        return self._seen.decode(errors="replace")

    def wait_for(self, text: str, seconds: float = 60) -> str:
        """What was shown since the last call, up to and with `text`."""
        wanted, deadline = text.encode(), time.monotonic() + seconds
        while (at := self._seen.find(wanted, self._asked)) < 0:
            assert self._read(deadline - time.monotonic()), f"{text!r} never came:\n{self.seen}"
        start, self._asked = self._asked, at + len(wanted)
        return self._seen[start : self._asked].decode(errors="replace")

    def type(self, text: str) -> None:
        os.write(self._parent, text.encode())

    def interrupt(self) -> None:
        """Ctrl-C: the terminal signals the whole foreground group."""
        os.killpg(self._process.pid, signal.SIGINT)

    def interrupt_until(self, text: str) -> str:
        """Ctrl-C as a person presses it: again when nothing happens. readline loses one that comes
        after its prompt is shown and before it waits for a key."""
        for _ in range(30):
            self.interrupt()
            deadline = time.monotonic() + 2
            while text.encode() not in self._seen[self._asked :]:
                if not self._read(deadline - time.monotonic()):
                    break
            else:
                break
        return self.wait_for(text)

    def end(self) -> int:
        """The exit code, once it has left by itself."""
        while self._read(30):
            pass
        return self._process.wait(30)

    def _read(self, seconds: float) -> bool:
        if not select.select([self._parent], [], [], max(0.0, seconds))[0]:
            return False
        try:
            piece = os.read(self._parent, 4096)
        except OSError:  # Linux's way to say that the other side has closed
            return False
        self._seen += piece
        return bool(piece)


@contextlib.contextmanager
def terminal(*command: str, **environment: str) -> Iterator[Terminal]:
    """Runs a command on a terminal of 100 columns; ends it afterwards."""
    parent, child = pty.openpty()
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = {"TERM": "xterm-256color", "COLUMNS": "100", "PYTHONPATH": path, **environment}
    process = subprocess.Popen(
        [sys.executable, *command],
        stdin=child,
        stdout=child,
        stderr=child,
        env={**os.environ, **env},
        start_new_session=True,
    )
    os.close(child)
    try:
        yield Terminal(parent, process)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(parent)


def shown(*command: str, **environment: str) -> str:
    """All that a command shows on a terminal."""
    with terminal(*command, **environment) as screen:
        screen.end()
        return screen.seen
