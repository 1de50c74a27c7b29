"""One source of training data: which files, how they are read, and what a row of them says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from dataclasses import field as with_default
from pathlib import Path
from typing import Any, Literal

from everloop.data.encoding import Note
from everloop.data.read import Refuse, Row, Unit, read
from everloop.data.split import mix, share
from everloop.errors import DataError

Kind = Literal["text", "examples"]
Dedup = Literal["none", "exact", "near"]
_SUBSET_SALT = 1
# Aim a little above the budget: the hash picks a share of the texts, the budget ends the reading.
SUBSET_MARGIN = 1.03


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One `[[source]]` of a spec; `files` are resolved paths in a fixed order."""

    name: str
    files: tuple[Path, ...]
    kind: Kind = "text"
    """text: documents to continue; examples: rows of a task, with the answer as target."""
    format: str | None = None
    """txt, jsonl, csv …; None: by the file name."""
    field: tuple[str, ...] = ("text",)
    """Column with the text; several are joined by an empty line (text only)."""
    unit: Unit = "file"
    """What one document of a txt file is: the file, a line, or a paragraph."""
    layout: str | None = None
    """Layout of example rows (`formats`); None: detected."""
    columns: Mapping[str, str] = with_default(default_factory=dict)
    """Which column plays which part, for example rows with other names."""
    labels: Mapping[str, str] = with_default(default_factory=dict)
    """What the values of a label column are called, in the order in which they are offered."""
    task: str = ""
    lang: str = ""
    weight: float = 1.0
    """Epochs, relative to the other sources."""
    max_bytes: int = 0
    """Take a fixed pseudo-random subset of about this many bytes of text; 0: all."""
    clean: tuple[str, ...] = ()
    """Cleaning steps; true (the default for text) is all of them."""
    dedup: Dedup = "exact"
    min_chars: int = 1
    """Shorter texts are left out."""
    fim_rate: float = 0.0
    """Share of training pieces rewritten to fill in the middle."""
    noise: float = 0.0
    """Share of training examples whose user makes mistakes (`noise.examples`)."""


def rows(
    source: Source, path: Path, *, on_note: Note | None = None, on_refusal: Refuse | None = None
) -> Iterator[Row]:
    """Rows of one file of the source."""
    return read(
        path,
        format=source.format,
        unit=source.unit,
        on_note=on_note,
        on_refusal=on_refusal,
    )


def text_of(source: Source, row: Row) -> str:
    """The row's text (not cleaned); a missing or non-text column raises DataError."""
    if isinstance(row.value, str):
        return row.value
    parts = []
    for name in source.field:
        value = row.value.get(name)
        if value is None and len(source.field) > 1 and name in row.value:
            continue  # an empty title
        if not isinstance(value, str):
            state = "is missing" if name not in row.value else f"is {value!r:.40}, not text"
            raise DataError(
                f"column {name!r} {state}; columns: {', '.join(map(str, row.value))}.",
                path=row.path,
                line=row.line,
                repair=f'Set field = "…" for source {source.name!r} to the column with the text.',
            )
        parts.append(value)
    return "\n\n".join(part for part in parts if part)


def size_of(source: Source) -> int:
    """Bytes of text in the source before cleaning."""
    total = 0
    for path in source.files:
        for row in rows(source, path, on_refusal=ignore):
            if isinstance(row.value, str) or source.kind == "text":
                try:
                    total += length(text_of(source, row))
                except DataError:
                    continue  # reported where the row is used
            else:
                total += sum(length(v) for v in strings(row.value))
    return total


def ignore(error: DataError) -> None:
    """Sizes are estimates; the row is reported where it is used."""


def length(text: str) -> int:
    """Bytes of the text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def strings(value: Any) -> Iterator[str]:
    """All texts inside a row's value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


def chosen(value: int, part: float, seed: int) -> bool:
    """Whether the document with this hash is in the subset of about `part` of all."""
    return part >= 1.0 or share(mix(value, _SUBSET_SALT + seed)) < part


def subset_part(source: Source, size: int) -> float:
    """The share of documents to choose so that about `source.max_bytes` are kept of `size`."""
    if not source.max_bytes or not size:
        return 1.0
    return min(1.0, SUBSET_MARGIN * source.max_bytes / size)
