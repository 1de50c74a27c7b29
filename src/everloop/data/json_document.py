"""Rows of a file that is one JSON value: an array of objects, or an object around one array.

Unlike jsonl, such a file is held in memory whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from everloop.data.row import Refuse, Row, checked, refuse
from everloop.errors import DataError

_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


def documents(lines: list[tuple[int, str]], path: Path, on_refusal: Refuse | None) -> Iterator[Row]:
    """Rows of the value that `lines` (number, text) spell, each with the line it begins on."""
    text = "\n".join(line for _, line in lines)
    first = lines[0][0]
    start = _skip(text, 0)
    if text[start] != "[":
        start = _array_inside(text, path, first)
    yield from _elements(text, start, path, first, on_refusal)


def _elements(
    text: str, start: int, path: Path, line: int, on_refusal: Refuse | None
) -> Iterator[Row]:
    at = _skip(text, start + 1)
    line += text.count("\n", 0, at)
    while text[at : at + 1] != "]":
        value, end = _value(text, at, path, line)
        try:
            yield Row(value=checked(value, path, line), path=str(path), line=line)
        except DataError as error:
            refuse(error, on_refusal)
        after = _skip(text, end)
        if text[after : after + 1] == ",":
            after = _skip(text, after + 1)
        elif text[after : after + 1] != "]":
            line += text.count("\n", at, after)
            raise _broken("a comma or ] is missing", path, line)
        line += text.count("\n", at, after)
        at = after


def _array_inside(text: str, path: Path, first: int) -> int:
    """Where the array of rows begins in an object that has exactly one array of objects."""
    value, _ = _value(text, _skip(text, 0), path, first)
    arrays = [k for k, v in value.items() if isinstance(v, list) and v and isinstance(v[0], dict)]
    if len(arrays) != 1:
        raise DataError(
            f"is one JSON object with {len(arrays)} arrays of objects (keys: "
            f"{', '.join(list(value)[:8])}), so its rows are not clear.",
            path=str(path),
            line=first,
            repair="Write the rows as jsonl, one object a line, or as one array.",
        )
    marker = re.compile(re.escape(json.dumps(arrays[0], ensure_ascii=False)) + r"\s*:\s*(?=\[)")
    for match in marker.finditer(text):
        if _DECODER.raw_decode(text, match.end())[0] == value[arrays[0]]:
            return match.end()
    raise DataError("its rows are not clear.", path=str(path), line=first, repair="Write jsonl.")


def _value(text: str, at: int, path: Path, line: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, at)
    except json.JSONDecodeError as error:
        raise _broken(error.msg, path, line + text.count("\n", at, error.pos)) from None
    except RecursionError:
        raise _broken("nested too deeply", path, line) from None


def _broken(why: str, path: Path, line: int) -> DataError:
    return DataError(
        f"is not valid JSON: {why}.",
        path=str(path),
        line=line,
        repair="Repair it there, or write one object a line (jsonl).",
    )


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()
