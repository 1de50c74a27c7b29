"""Tables as people save them: Excel's encodings, separators, quotes, every compression."""

from __future__ import annotations

import datetime
import gzip
import io
import lzma
import sys
from pathlib import Path

import openpyxl
import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everloop.data.read import read
from everloop.errors import DataError, EverloopError

ROWS = [
    {"text": "很好，很满意", "label": "正面"},
    {"text": 'a "quoted" cell;\nwith a newline', "label": "negative"},
]


def values(path: Path) -> list[object]:
    return [row.value for row in read(path)]


def quoted(separator: str) -> str:
    cells = [list(ROWS[0]), *(list(row.values()) for row in ROWS)]
    return "\r\n".join(
        separator.join('"' + cell.replace('"', '""') + '"' for cell in row) for row in cells
    )


def sheet_bytes() -> bytes:
    book = openpyxl.Workbook()
    book.active.append(list(ROWS[0]))
    for row in ROWS:
        book.active.append(list(row.values()))
    book.active["Z1"].number_format = "0.00"  # a formatted empty cell widens the sheet
    stream = io.BytesIO()
    book.save(stream)
    return stream.getvalue()


def parquet_bytes() -> bytes:
    stream = io.BytesIO()
    parquet.write_table(arrow.Table.from_pylist(ROWS), stream)
    return stream.getvalue()


CONTENT = {
    "csv": quoted(",").encode(),
    "tsv": quoted("\t").encode(),
    "xlsx": sheet_bytes(),
    "parquet": parquet_bytes(),
}
COMPRESS = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
}


@pytest.mark.parametrize("kind", CONTENT)
@pytest.mark.parametrize("ending", COMPRESS)
def test_every_format_in_every_compression(write, kind: str, ending: str) -> None:
    assert values(write(f"a.{kind}{ending}", COMPRESS[ending](CONTENT[kind]))) == ROWS


@pytest.mark.parametrize("encoding", ["utf-8-sig", "gb18030", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_csv_as_chinese_excel_saves_it(write, encoding: str, separator: str) -> None:
    assert values(write("a.csv", quoted(separator).encode(encoding))) == ROWS


def test_lines_count_from_the_file_also_after_quoted_newlines(write) -> None:
    path = write("a.csv", 'text,label\n"two\nlines",a\n\nlast,b\n')
    assert [row.line for row in read(path)] == [2, 5]


def test_quotes_in_a_tsv_are_characters(write) -> None:
    path = write("a.tsv", 'text\tlabel\n"unclosed\t1\nsays "hi"\t0\n')
    assert values(path) == [
        {"text": '"unclosed', "label": "1"},
        {"text": 'says "hi"', "label": "0"},
    ]


def test_one_column_is_a_table_too(write) -> None:
    assert values(write("a.csv", "text\none\ntwo\n")) == [{"text": "one"}, {"text": "two"}]


def test_a_row_with_too_many_cells_is_named(write) -> None:
    path = write("a.csv", "text,label\ngood,1\na, b,0\n")
    with pytest.raises(DataError, match=r"a\.csv:3: has 3 cells.*2 \(text, label\).*quotes"):
        values(path)
    refused: list[DataError] = []
    assert len(list(read(path, on_refusal=refused.append))) == 1
    assert [error.line for error in refused] == [3]


def test_an_unclosed_quote_says_where_it_opened(write) -> None:
    path = write("a.csv", 'text,label\ngood,1\n"never closed,0\nmore,1\n')
    with pytest.raises(DataError, match=r"a\.csv:3: can't be read as csv.*quote"):
        values(path)


@pytest.mark.parametrize("header", ["text,text", "text,,label", ",a"])
def test_a_first_line_that_is_no_header(write, header: str) -> None:
    with pytest.raises(DataError, match=r"a\.csv:1: is no header.*first line"):
        values(write("a.csv", f"{header}\n1,2\n"))


def test_spreadsheet_numbers_and_dates(write) -> None:
    book = openpyxl.Workbook()
    book.active.append(["n", "f", "d", "empty"])
    book.active.append([3, 2.5, datetime.date(2026, 11, 23), None])
    book.create_sheet("notes").append(["not read"])
    stream = io.BytesIO()
    book.save(stream)
    notes: list[str] = []
    rows = list(read(write("a.xlsx", stream.getvalue()), on_note=notes.append))
    assert [row.value for row in rows] == [
        {"n": 3, "f": 2.5, "d": "2026-11-23T00:00:00", "empty": None}
    ]
    assert "notes" in notes[0]


@pytest.mark.parametrize("kind", ["xlsx", "parquet"])
@pytest.mark.parametrize("damage", [lambda b: b"no such thing", lambda b: b[: len(b) // 2]])
def test_a_damaged_binary_table_is_one_clear_error(write, kind: str, damage) -> None:
    path = write(f"a.{kind}", damage(CONTENT[kind]))
    with pytest.raises(DataError, match=rf"a\.{kind}: is not a readable {kind} file"):
        values(path)


@pytest.mark.parametrize(("kind", "package"), [("xlsx", "openpyxl"), ("parquet", "pyarrow")])
def test_a_missing_extra_names_the_install_line(write, monkeypatch, kind, package) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(EverloopError, match=rf"needs {package}.*pip install 'everloop\[tables\]'"):
        values(write(f"a.{kind}", CONTENT[kind]))


_CELL = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(str.strip)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(_CELL, _CELL), min_size=1))
def test_any_cells_come_back_from_a_quoted_csv(write, cells: list[tuple[str, str]]) -> None:
    lines = [",".join('"' + c.replace('"', '""') + '"' for c in row) for row in cells]
    path = write("a.csv", "text,label\n" + "\n".join(lines))
    assert [tuple(value.values()) for value in values(path)] == cells
