"""One row of a file, and what happens to a row that can't be used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everloop.errors import DataError

Refuse = Callable[[DataError], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row: columns by name, or plain text. `line` is where it begins, from 1 (in parquet:
    the number of the row)."""

    value: dict[str, Any] | str
    path: str
    line: int


def refuse(error: DataError, on_refusal: Refuse | None) -> None:
    """Hand a bad row to the caller, or raise it."""
    if on_refusal is None:
        raise error
    on_refusal(error)


def checked(value: Any, path: Path, line: int) -> dict[str, Any] | str:
    """A JSON value as a row: an object or a string."""
    if isinstance(value, dict | str):
        return value
    kind = {list: "a list", int: "a number", float: "a number", bool: "true or false"}
    raise DataError(
        f"is {kind.get(type(value), 'null')}, not an object.",
        path=str(path),
        line=line,
        repair='Write one object a line, such as {"text": "…"}.',
    )
