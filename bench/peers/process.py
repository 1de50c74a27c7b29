"""The parent's end of a side: a child process that measures when it is asked to."""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path
from typing import Any


class Skipped(Exception):
    """A side says that it can't do this; the message says why."""


class SideError(Exception):
    """A side failed; its log says more."""


class Side:
    """One side of the comparison. It starts with the first question and ends with `close`."""

    def __init__(self, name: str, command: list[str], variables: dict[str, str], log: Path) -> None:
        self.name, self._command, self._variables, self.log = name, command, variables, log
        self._child: subprocess.Popen[str] | None = None

    def ask(self, op: str, **arguments: Any) -> dict[str, Any]:
        """What the side measured. Raises Skipped or SideError."""
        child = self._child or self._start()
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(json.dumps({"op": op, **arguments}) + "\n")
            child.stdin.flush()
            line = child.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.close()
            raise SideError(f"{self.name} ended with status {child.returncode} in {op}")
        answer: dict[str, Any] = json.loads(line)
        if "skip" in answer:
            raise Skipped(answer["skip"])
        if "error" in answer:
            raise SideError(f"{op}: {answer['error']}")
        return answer

    def close(self) -> None:
        """Ends the child and waits for it."""
        child, self._child = self._child, None
        if child is None:
            return
        assert child.stdin is not None
        assert child.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        child.stdout.close()

    def _start(self) -> subprocess.Popen[str]:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._variables,
                text=True,
                encoding="utf-8",
            )
        return self._child
