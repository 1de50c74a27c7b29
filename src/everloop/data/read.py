"""Rows of a file, one at a time, whatever its format and compression.

txt, jsonl (a row ends with "\\n" only) and json are read here; csv, tsv, parquet and xlsx in
`tables`. A row that can't be used raises DataError with file and line, or goes to `on_refusal`
and is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import orjson

from everloop.data.encoding import Note, decode, read_lines
from everloop.data.files import COMPRESSED
from everloop.data.json_document import documents
from everloop.data.row import Refuse, Row, checked, refuse
from everloop.errors import DataError, InvalidRequest

__all__ = ["FORMATS", "Refuse", "Row", "Unit", "format_of", "read", "refuse"]

Unit = Literal["file", "line", "paragraph"]
FORMATS = ("txt", "jsonl", "json", "csv", "tsv", "parquet", "xlsx")
_ENDINGS = {
    ".txt": "txt", ".text": "txt", ".md": "txt", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".xlsx": "xlsx",
}  # fmt: skip
# A text file larger than this is handed on in blocks, so that memory stays constant.
BLOCK_CHARS = 1 << 20
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


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
    first = True
    for number, raw, encoding in lines:
        if not raw or raw.isspace():
            continue
        if first and _is_document(raw):
            rest = ((n, decode(r, e, path, n)) for n, r, e in lines)
            text = [(number, decode(raw, encoding, path, number)), *rest]
            yield from documents(text, path, on_refusal)
            return
        first = False
        try:
            value = _loads(raw, encoding, path, number)
        except DataError as error:
            refuse(error, on_refusal)
            continue
        yield Row(value=value, path=str(path), line=number)


def _is_document(line: bytes) -> bool:
    """Whether a first line begins one JSON value over the whole file, not a row."""
    start = line.strip()
    return start[:1] == b"[" or start == b"{"


def _loads(raw: bytes, encoding: str, path: Path, number: int) -> dict[str, Any] | str:
    line = raw if encoding == "utf-8" else decode(raw, encoding, path, number)
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        decode(raw, encoding, path, number)  # says so if the bytes are at fault
        value = _with_surrogates(line)
        if value is None:
            raise DataError(
                f"is not valid JSON: {str(error).rstrip('.')}.",
                path=str(path),
                line=number,
                repair='Each line must be one JSON object, such as {"text": "…"}.',
            ) from None
    return checked(value, path, number)


def _with_surrogates(line: bytes | str) -> Any:
    """Half a surrogate pair in an escape is legal JSON; orjson refuses it, cleaning mends it."""
    text = line.decode() if isinstance(line, bytes) else line
    if not _SURROGATE_ESCAPE.search(text):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
