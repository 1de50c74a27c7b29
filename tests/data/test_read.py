"""Rows of text and JSON files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everloop.data.read import Row, format_of, read
from everloop.errors import DataError, InvalidRequest

POEM = "床前明月光，\n疑是地上霜。\n\n举头望明月，\n低头思故乡。\n"


def values(path: Path, **options: object) -> list[object]:
    return [row.value for row in read(path, **options)]


def test_units_of_a_text_file(write) -> None:
    path = write("poem.txt", POEM)
    assert values(path) == [POEM.rstrip("\n")]
    assert values(path, unit="line") == [line for line in POEM.split("\n") if line]
    assert values(path, unit="paragraph") == [p.strip() for p in POEM.split("\n\n")]
    assert [row.line for row in read(path, unit="paragraph")] == [1, 4]


def test_a_large_text_file_comes_in_blocks_cut_between_paragraphs(write, monkeypatch) -> None:
    monkeypatch.setattr("everloop.data.read.BLOCK_CHARS", 100)
    paragraphs = [f"{i} " + "字" * 40 for i in range(20)]
    blocks = values(write("a.txt", "\n\n".join(paragraphs)))
    assert len(blocks) > 3
    assert "\n\n".join(blocks) == "\n\n".join(paragraphs)
    assert all(block[0].isdigit() for block in blocks)


def test_jsonl_rows_may_hold_any_line_separator_but_newline(write) -> None:
    rows = [{"text": "a\u2028b\u0085c\r"}, {"text": "d"}]
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    assert values(write("a.jsonl", content)) == rows


def test_windows_line_ends_and_blank_lines(write) -> None:
    path = write("a.jsonl", '{"text": "a"}\r\n\r\n  \n{"text": "b"}\r\n')
    assert [(row.value, row.line) for row in read(path)] == [({"text": "a"}, 1), ({"text": "b"}, 4)]
    assert values(write("a.txt", "one\r\ntwo\r\n"), unit="line") == ["one", "two"]


def test_compressed_names_are_seen_through() -> None:
    assert format_of(Path("x/A.JSONL.zst")) == "jsonl"
    assert format_of(Path("a.csv.gz")) == "csv"
    with pytest.raises(InvalidRequest, match="set `format`"):
        format_of(Path("a.doc"))


@pytest.mark.parametrize(
    "line", ["{not json}", "[1, 2]", "3", "null", "[" * 200_000, '{"a":' * 200_000, '{"text": "a}']
)
def test_a_bad_row_is_named_or_handed_over(write, line: str) -> None:
    path = write("a.jsonl", f'{{"text": "good"}}\n{line}\n{{"text": "also good"}}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:2: is .*one (JSON )?object"):
        values(path)
    refused: list[DataError] = []
    assert len(values(path, on_refusal=refused.append)) == 2
    assert [error.line for error in refused] == [2]


def test_half_a_surrogate_pair_in_an_escape_is_read(write) -> None:
    assert values(write("a.jsonl", '{"text": "a\\ud83d b"}\n')) == [{"text": "a\ud83d b"}]


def test_bytes_that_are_no_text_are_named_as_such(write) -> None:
    path = write("a.jsonl", '{"text": "好"}\n'.encode() + b'{"text": "\xff"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:2: .*0xff.*not UTF-8"):
        values(path)


@pytest.mark.parametrize("content", [b"", b"\n\n", gzip.compress(b"", mtime=0), b"\xef\xbb\xbf"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.csv", "a.tsv"])
def test_an_empty_file_is_an_error_that_names_it(write, name: str, content: bytes) -> None:
    with pytest.raises(DataError, match=rf"{name}: has no rows"):
        values(write(name, content))


ROWS = [{"a": "1"}, {"a": "[2]"}, "three"]


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        "[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n",
        json.dumps({"version": 1, "data": ROWS}, indent=2),
        json.dumps({"data": ROWS, "note": 'the word "data": [1]'}, indent=1),
    ],
)
def test_a_file_that_is_one_json_value(write, content: str) -> None:
    assert values(write("a.json", content)) == ROWS


def test_rows_of_an_array_know_their_line(write) -> None:
    path = write("a.json", '[\n  {"a": 1},\n\n  {"a":\n 2}, {"a": 3}\n]')
    assert [row.line for row in read(path)] == [2, 4, 5]


@pytest.mark.parametrize(
    ("content", "line"),
    [('[\n{"a": 1}\n{"a": 2}]', 3), ('[\n{"a": 1},\n{"a": }]', 3), ('[{"a": 1}', 1), ("[\n1]", 2)],
)
def test_a_broken_array_says_where(write, content: str, line: int) -> None:
    with pytest.raises(DataError) as caught:
        values(write("a.json", content))
    assert caught.value.line == line


def test_an_object_without_clear_rows(write) -> None:
    content = json.dumps({"a": [{"x": 1}], "b": [{"x": 2}]}, indent=1)
    with pytest.raises(DataError, match="rows are not clear"):
        values(write("a.json", content))


_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(_TEXT, _TEXT | st.integers(-9, 9)), min_size=1))
def test_any_rows_come_back_from_jsonl_and_json(write, rows: list[dict[str, object]]) -> None:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    assert values(write("a.jsonl", lines)) == rows
    whole = json.dumps(rows, ensure_ascii=False, indent=1)
    assert values(write("a.json", whole)) == rows


def test_a_row_knows_its_file(write) -> None:
    path = write("a.txt", "text")
    assert list(read(path)) == [Row(value="text", path=str(path), line=1)]
