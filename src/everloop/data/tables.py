"""Rows of tables, the first row naming the columns: csv, tsv, parquet and xlsx.

A csv's separator (comma, semicolon, tab or bar) is found by trying; quoted cells may hold
newlines. A tsv is taken as quoted only where its lines don't add up otherwise.
"""

from __future__ import annotations

import contextlib
import csv
import datetime
import io
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from everloop.data.encoding import Note, decode, read_lines
from everloop.data.files import chunks, open_bytes
from everloop.data.row import Refuse, Row, refuse
from everloop.errors import DataError, EverloopError

MAX_CELL_CHARS = 16 << 20
_SAMPLE_LINES = 200
_BATCH_ROWS = 1024


def read(
    path: Path, kind: str, *, on_note: Note | None, on_refusal: Refuse | None
) -> Iterator[Row]:
    """Rows as {column: value}. Empty rows are passed over."""
    if kind == "parquet":
        return _parquet(path)
    if kind == "xlsx":
        return _rows(_sheet(path, on_note), path, on_refusal)
    return _rows(_delimited(path, kind, on_note, on_refusal), path, on_refusal)


Cells = tuple[int, Sequence[Any]]


def _rows(cells: Iterator[Cells], path: Path, on_refusal: Refuse | None) -> Iterator[Row]:
    header: list[str] = []
    for line, values in cells:
        if all(v is None or v == "" for v in values):
            continue
        if not header:
            header = _header(values, path, line)
        elif len(values) != len(header):
            found = f"has {len(values)} cells where the header has {len(header)}"
            refuse(
                DataError(
                    f"{found} ({', '.join(header)}).",
                    path=str(path),
                    line=line,
                    repair="Put quotes around cells that contain the separator or a newline.",
                ),
                on_refusal,
            )
        else:
            yield Row(value=dict(zip(header, values, strict=True)), path=str(path), line=line)


def _header(values: Sequence[Any], path: Path, line: int) -> list[str]:
    names = ["" if v is None else str(v).strip() for v in values]
    while names and not names[-1]:
        names.pop()
    if "" in names or len(set(names)) < len(names):
        raise DataError(
            f"is no header: column names are {', '.join(map(repr, names))}, and each must be there "
            "once.",
            path=str(path),
            line=line,
            repair="Add a first line that names the columns, such as: text,label",
        )
    return names


def _delimited(
    path: Path, kind: str, on_note: Note | None, on_refusal: Refuse | None
) -> Iterator[Cells]:
    lines = (
        decode(raw, encoding, path, number) + "\n"
        for number, raw, encoding in read_lines(path, on_note=on_note)
    )
    sample = list(itertools.islice(lines, _SAMPLE_LINES))
    dialect = _tsv_dialect(sample) if kind == "tsv" else _csv_dialect(sample)
    csv.field_size_limit(MAX_CELL_CHARS)
    reader = csv.reader(itertools.chain(sample, lines), strict=True, **dialect)
    while True:
        start = reader.line_num + 1
        try:
            yield start, next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            refuse(
                DataError(
                    f"can't be read as {kind}: {error}.",
                    path=str(path),
                    line=start,
                    repair='Close every quote, and write a quote inside a cell twice ("").',
                ),
                on_refusal,
            )


def _csv_dialect(sample: list[str]) -> dict[str, Any]:
    """The separator that cuts most records into the same number (at least 2) of cells."""
    best, best_score = ",", (0.0, 0)
    for separator in ",;\t|":
        widths = []
        with contextlib.suppress(csv.Error):
            for record in csv.reader(iter(sample), delimiter=separator):
                if record:
                    widths.append(len(record))
        if not widths or widths[0] < 2:
            continue
        score = (sum(w == widths[0] for w in widths) / len(widths), widths[0])
        if score > best_score:
            best, best_score = separator, score
    return {"delimiter": best}


def _tsv_dialect(sample: list[str]) -> dict[str, Any]:
    plain = {line.count("\t") for line in sample if line.strip()}
    if len(plain) <= 1:  # quotes are then just characters, as in most published tsv files
        return {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    return {"delimiter": "\t"}


def _parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise _missing("pyarrow", path) from None
    with _whole(path) as stream:
        try:
            file = parquet.ParquetFile(stream)
            line = 0
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                for value in batch.to_pylist():
                    line += 1
                    yield Row(value=value, path=str(path), line=line)
        except (arrow.ArrowException, OSError) as error:
            raise _damaged(path, "parquet", error) from None


def _sheet(path: Path, on_note: Note | None) -> Iterator[Cells]:
    try:
        import openpyxl
    except ImportError:
        raise _missing("openpyxl", path) from None
    with _whole(path) as stream:
        try:
            book = openpyxl.load_workbook(stream, read_only=True, data_only=True)
            sheet, *others = book.worksheets
            if others and on_note:
                names = ", ".join(s.title for s in others)
                on_note(f"{path.name}: read sheet {sheet.title!r}; not read: {names}.")
            width = 0
            for line, values in enumerate(sheet.iter_rows(values_only=True), 1):
                cells = [_plain(v) for v in values]
                # The sheet's own idea of its width is often too large: the header decides.
                while len(cells) > width and cells[-1] is None:
                    cells.pop()
                width = width or len(cells)
                yield line, cells + [None] * (width - len(cells))
            book.close()
        except (DataError, GeneratorExit):
            raise
        except Exception as error:  # openpyxl raises whatever its XML and zip readers raise
            raise _damaged(path, "xlsx", error) from None


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    return value


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Any]:
    """A seekable stream: the file itself, or its decompressed content."""
    with open_bytes(path) as stream:
        magic = stream.read(4)
        stream.seek(0)
        if magic in (b"PAR1", b"PK\x03\x04"):
            yield stream
        else:
            yield io.BytesIO(b"".join(chunks(path)))


def _missing(package: str, path: Path) -> EverloopError:
    return EverloopError(
        f"Reading {path.name} needs {package}. Install it with: pip install 'everloop[tables]'"
    )


def _damaged(path: Path, kind: str, error: Exception) -> DataError:
    return DataError(
        f"is not a readable {kind} file ({type(error).__name__}: {error}).",
        path=str(path),
        repair="Save it again, or export it as csv.",
    )
