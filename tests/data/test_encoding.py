"""Encodings: found, said aloud, never guessed past an error."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everloop.data.encoding import decode, read_lines
from everloop.errors import DataError

TEXT = "今天天气怎么样？\n我们去公园散步，晴朗。\nhello\n"
FIXTURE_REUSED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def lines_of(path: Path, notes: list[str] | None = None) -> list[str]:
    found = read_lines(path, on_note=None if notes is None else notes.append)
    return [decode(line, encoding, path, number) for number, line, encoding in found]


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
        (b"", "gb18030"),
        (b"", "gbk"),
    ],
)
def test_every_encoding_gives_the_same_text(write, mark: bytes, encoding: str) -> None:
    notes: list[str] = []
    path = write("a.txt", mark + TEXT.encode(encoding))
    assert lines_of(path, notes) == TEXT.split("\n")[:-1]
    assert len(notes) == (0 if encoding == "utf-8" else 1)
    if encoding == "gb18030":
        assert "GB18030" in notes[0]
        assert "今天天气怎么样？" in notes[0]  # the first line is shown back


def test_ascii_before_the_first_chinese_line_does_not_decide(write) -> None:
    content = b"plain ascii\n" * 200_000 + "今天天气很好。\n".encode("gb18030")
    assert lines_of(write("a.txt", content))[-1] == "今天天气很好。"


def test_a_short_gbk_line_that_is_valid_utf8_by_chance(write) -> None:
    assert "一些".encode("gbk").decode("utf-8") == "һЩ"
    content = "一些\n今天天气很好\n我们去公园\n散步聊天喝茶\n".encode("gbk")
    assert lines_of(write("a.txt", content))[0] == "一些"


def test_mixed_encodings_are_refused_with_file_and_line(write) -> None:
    path = write("mixed.txt", "第一行\n第二行\n".encode() + "第三行\n".encode("gb18030"))
    with pytest.raises(DataError, match=r"mixed\.txt:3: .*not UTF-8.*iconv"):
        lines_of(path)
    path = write("mixed2.txt", "第一行\n第二行\n".encode("gb18030") + "第三行。\n".encode())
    with pytest.raises(DataError, match=r"mixed2\.txt:3: .*not GB18030"):
        lines_of(path)


def test_one_broken_byte_does_not_make_a_utf8_file_gb18030(write) -> None:
    path = write("a.txt", "好的\n不错\n".encode() + b"\xed\xa0\x80 lone surrogate\n")
    with pytest.raises(DataError, match=r"a\.txt:3: "):
        lines_of(path)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("café crème déjà vu\n", "latin-1"),
        ("這是一個繁體中文的檔案，請轉換編碼。\n", "big5"),
        ("これは日本語のテキストです。\n", "shift-jis"),
    ],
)
def test_other_encodings_are_refused_not_misread(write, text: str, encoding: str) -> None:
    with pytest.raises(DataError, match=r"a\.txt:1: is neither UTF-8 nor GB18030.*iconv"):
        lines_of(write("a.txt", text.encode(encoding)))


def test_a_mark_that_lies(write) -> None:
    with pytest.raises(DataError, match="byte-order mark"):
        lines_of(write("a.txt", codecs.BOM_UTF16_LE + b"abc"))


def test_a_line_ends_with_newline_only(write) -> None:
    text = "a\u2028b\u0085c\x0bd\x0ce\r\nf"
    assert lines_of(write("a.txt", text)) == ["a\u2028b\u0085c\x0bd\x0ce\r", "f"]


def test_a_line_of_a_million_characters_and_one_without_end(write) -> None:
    text = "好" * 1_000_000
    assert lines_of(write("a.txt", text)) == [text]
    assert lines_of(write("b.txt", f"{text}\n{text}\n")) == [text, text]


def test_the_longest_line_has_a_limit(write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everloop.data.encoding.MAX_LINE_BYTES", 3 << 20)
    path = write("a.txt", b"short\n" + b"x" * (5 << 20))
    with pytest.raises(DataError, match=r"a\.txt:2: the line is longer than 3 MiB"):
        lines_of(path)


@FIXTURE_REUSED
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\ufeff"))))
def test_any_utf8_lines_come_back(write, lines: list[str]) -> None:
    path = write("a.txt", "".join(line + "\n" for line in lines))
    assert lines_of(path) == lines


@FIXTURE_REUSED
@given(st.lists(st.text("今天气很好我们一起去公园，。a1 ", min_size=4), min_size=1))
def test_any_common_chinese_in_gb18030_comes_back(write, lines: list[str]) -> None:
    lines = ["今天天气很好。", "我们一起去公园。", *lines]
    path = write("a.txt", "".join(line + "\n" for line in lines).encode("gb18030"))
    assert lines_of(path) == lines
