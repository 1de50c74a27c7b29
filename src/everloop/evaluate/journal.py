"""Predictions on disk, so that an evaluation that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from everloop.data.files import disk_errors


class Journal:
    """One JSON line a prediction, appended at once. A line that a kill cut off is dropped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.known: dict[str, Mapping[str, Any]] = {}
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            whole = self._load()
            self._file = open(path, "r+b" if path.exists() else "w+b")  # noqa: SIM115
            self._file.truncate(whole)
            self._file.seek(whole)

    def add(self, key: str, prediction: Mapping[str, Any]) -> None:
        """Keeps a prediction."""
        self.known[key] = prediction
        line = json.dumps({"row": key, "prediction": prediction}, ensure_ascii=False)
        with disk_errors(self._path):
            self._file.write(line.encode("utf-8", "backslashreplace") + b"\n")
            self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _load(self) -> int:
        """Reads what is there; returns the length of its whole lines."""
        length = 0
        if self._path.exists():
            for line in self._path.read_bytes().splitlines(keepends=True):
                try:
                    entry = json.loads(line)
                    self.known[entry["row"]] = entry["prediction"]
                except (ValueError, KeyError, TypeError):
                    break
                if not line.endswith(b"\n"):
                    break
                length += len(line)
        return length


def digest(value: object) -> str:
    """A short name for any JSON value."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
