"""The parent's end of a side: a child process that measures when it is asked to."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any


class Skipped(Exception):
    """A side says that it can't do this; the message says why."""


class SideError(Exception):
    """A side failed; the message names its log."""


class Side:
    """One side of the comparison. It starts with the first question and ends with `close`."""

    def __init__(self, name: str, command: list[str], variables: dict[str, str], log: Path) -> None:
        self.name, self._command, self._variables, self._log = name, command, variables, log
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
            status, self._child = child.wait(), None
            raise SideError(f"{self.name} ended with status {status} in {op}; see {self._log}")
        answer: dict[str, Any] = json.loads(line)
        if "skip" in answer:
            raise Skipped(answer["skip"])
        if "error" in answer:
            raise SideError(f"{self.name}, {op}: {answer['error']} (log: {self._log})")
        return answer

    def close(self) -> None:
        """Ends the child and waits for it."""
        child, self._child = self._child, None
        if child is not None:
            assert child.stdin is not None
            child.stdin.close()
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _start(self) -> subprocess.Popen[str]:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
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
