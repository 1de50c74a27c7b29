"""Rows of a file, one at a time, whatever its format and compression.

txt, jsonl (a row ends with "\\n" only) and json are read here; csv, tsv, parquet and xlsx in
`tables`. A row that can't be used raises DataError with file and line, or goes to `on_refusal`
and is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from everloop.data.encoding import Note, decode, read_lines
from everloop.data.files import COMPRESSED
from everloop.errors import DataError, InvalidRequest

Refuse = Callable[[DataError], None]
Unit = Literal["file", "line", "paragraph"]
FORMATS = ("txt", "jsonl", "json", "csv", "tsv", "parquet", "xlsx")
_ENDINGS = {
    ".txt": "txt", ".text": "txt", ".md": "txt", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".xlsx": "xlsx",
}  # fmt: skip
# A text file larger than this is handed on in blocks, so that memory stays constant.
BLOCK_CHARS = 1 << 20
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89abAB]|\\u[dD][c-fC-F]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row: columns by name, or plain text. `line` is where it begins, from 1."""

    value: dict[str, Any] | str
    path: str
    line: int


def format_of(path: Path) -> str:
    """The format by the name's ending, looking through .gz, .xz and .zst."""
    name = path.name.lower()
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    suffix = Path(name).suffix
    if suffix not in _ENDINGS:
        raise InvalidRequest(
            f"{path}: can't tell the format from its name. Name it *.txt, *.jsonl, *.csv, *.tsv, "
            "*.parquet or *.xlsx (also .gz, .xz, .zst), or set `format`.",
            param="format",
        )
    return _ENDINGS[suffix]


def read(
    path: Path,
    *,
    format: str | None = None,
    unit: Unit = "file",
    on_note: Note | None = None,
    on_refusal: Refuse | None = None,
) -> Iterator[Row]:
    """Rows of `path`. `unit` says what one row of a txt file is: the file (in blocks of at most
    about 1M characters, cut between paragraphs), a line, or a paragraph (between blank lines).

    Raises DataError on a bad row unless `on_refusal` takes it; always on an empty or unreadable
    file.
    """
    kind = format or format_of(path)
    if kind == "txt":
        rows = _text(path, unit, on_note, on_refusal)
    elif kind in ("jsonl", "json"):
        rows = _json(path, on_note, on_refusal)
    elif kind in FORMATS:
        from everloop.data import tables

        rows = tables.read(path, kind, on_note=on_note, on_refusal=on_refusal)
    else:
        raise InvalidRequest(
            f"unknown format {kind!r}: one of {', '.join(FORMATS)}.", param="format"
        )
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty and on_refusal is None:
        raise DataError("has no rows.", path=str(path), repair="Leave the file out or fill it.")


def refuse(error: DataError, on_refusal: Refuse | None) -> None:
    """Hand a bad row to the caller, or raise it."""
    if on_refusal is None:
        raise error
    on_refusal(error)


def _text(path: Path, unit: Unit, on_note: Note | None, on_refusal: Refuse | None) -> Iterator[Row]:
    held: list[str] = []
    start = size = 0
    for number, raw, encoding in read_lines(path, on_note=on_note):
        try:
            line = decode(raw, encoding, path, number)
        except DataError as error:
            refuse(error, on_refusal)
            continue
        line = line.removesuffix("\r")
        blank = not line.strip()
        if unit == "line":
            if not blank:
                yield Row(value=line, path=str(path), line=number)
            continue
        if held and (
            (blank and (unit == "paragraph" or size > BLOCK_CHARS)) or size > 2 * BLOCK_CHARS
        ):
            yield Row(value="\n".join(held), path=str(path), line=start)
            held, size = [], 0
        if held or not blank:
            start = start if held else number
            held.append(line)
            size += len(line) + 1
    if held:
        yield Row(value="\n".join(held), path=str(path), line=start)


def _json(path: Path, on_note: Note | None, on_refusal: Refuse | None) -> Iterator[Row]:
    lines = read_lines(path, on_note=on_note)
    for number, raw, encoding in lines:
        if not raw or raw.isspace():
            continue
        try:
            line: bytes | str = raw if encoding == "utf-8" else decode(raw, encoding, path, number)
            value = _loads(line, encoding, path, number)
        except DataError as error:
            refuse(error, on_refusal)
            continue
        yield Row(value=value, path=str(path), line=number)


def _loads(line: bytes | str, encoding: str, path: Path, number: int) -> dict[str, Any] | str:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raw = line if isinstance(line, bytes) else line.encode("utf-8", "surrogatepass")
        if isinstance(line, bytes):
            decode(line, encoding, path, number)  # says so if the bytes are at fault
        value = _with_surrogates(raw)
        if value is None:
            raise DataError(
                f"is not valid JSON: {str(error).rstrip('.')}.",
                path=str(path),
                line=number,
                repair="Each line must be one JSON object, such as "
                '{"text": "…"} or {"messages": […]}.',
            ) from None
    if not isinstance(value, dict | str):
        raise DataError(
            f"is a JSON {type(value).__name__}, not an object.",
            path=str(path),
            line=number,
            repair='Write one object a line, such as {"text": "…"}.',
        )
    return value


def _with_surrogates(raw: bytes) -> Any:
    """Half a surrogate pair in an escape is legal JSON; orjson refuses it, cleaning mends it."""
    if not _SURROGATE_ESCAPE.search(raw):
        return None
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None
