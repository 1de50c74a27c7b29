"""Cleaning removes what no reader would miss and nothing else."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.data.clean import STEPS, clean, steps_of
from everloop.errors import InvalidRequest

KEPT = (
    "今天天气很好，我们去公园散步。（真的！）",
    "ＡＢＣ１２３ full-width letters stay",
    "Crème brûlée, naïve façade: £5 – “quotes” … ©2020 in the middle",
    "第一段。\n\n第二段。",
    "def f(x):\n    return x  # indented",
    "👨‍👩‍👧 a family joined by zero-width joiners",
    "Âge d'or, Ãnd one Ñandú",
    "点击这里可以看到更多，上海的天气很好，返回的时候下雨了。",
    "We read more books. Share the love. Sign in the window.",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "12,345.67 + 89 = ?",
)


@pytest.mark.parametrize("text", KEPT)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert clean(text) == text


@pytest.mark.parametrize(
    ("dirty", "expected"),
    [
        ("a\x00b\x07c\x7fd\x9be", "abcde"),
        ("zero\u200bwidth\ufeff so\xadft\u202e", "zerowidth soft"),
        ("one\r\ntwo\rthree\u2028four\x0bfive\x85six", "one\ntwo\nthree\nfour\nfive\nsix"),
        ("para\u2029graph", "para\n\ngraph"),
        ("trailing  \t\nspace　\n\n\n\nend \n\n", "trailing\nspace\n\nend"),
        ("half \ud83d pair", "half \ufffd pair"),
    ],
)
def test_control(dirty: str, expected: str) -> None:
    assert clean(dirty, ("control",)) == expected


@pytest.mark.parametrize(
    "text", ["café déjà vu – “schön”", "今天天气很好，我们去公园。", "naïve", "l’été"]
)
@pytest.mark.parametrize("wrong", ["latin-1", "windows-1252"])
def test_utf8_read_as_latin_is_repaired(text: str, wrong: str) -> None:
    try:
        garbled = text.encode().decode(wrong)
    except UnicodeDecodeError:
        garbled = text.encode().decode("latin-1")
    assert clean(f"fine line\n{garbled}", ("mojibake",)) == f"fine line\n{text}"


def test_lines_beyond_repair_are_dropped() -> None:
    assert clean("好的\n锟斤拷锟斤拷\n不错", ("mojibake",)) == "好的\n不错"


@pytest.mark.parametrize(
    "line",
    [
        "Copyright © 2020 Example Inc. All rights reserved.",
        "Click here to subscribe",
        "This site uses cookies.",
        "点击查看更多",
        "扫码关注公众号",
        "版权所有 违者必究",
        "京ICP备12345678号",
    ],
)
def test_boilerplate_lines_go(line: str) -> None:
    assert clean(f"Text above.\n{line}\n正文继续。", ("boilerplate",)) == "Text above.\n正文继续。"


@pytest.mark.parametrize("line", ["=" * 40, "- " * 20, "* * * * * * * * * * * *", "—" * 30])
def test_lines_without_words_go(line: str) -> None:
    assert clean(f"above\n{line}\nbelow", ("noise",)) == "above\nbelow"


def test_base64_goes() -> None:
    assert clean("before " + "iVBORw0KGgo" * 40 + "== after", ("noise",)) == "before  after"


def test_steps_are_chosen_and_checked() -> None:
    assert steps_of(True) == STEPS
    assert steps_of(False) == ()
    assert steps_of(["noise", "control"]) == ("control", "noise")
    with pytest.raises(InvalidRequest, match=r"no step named polish.*control"):
        steps_of(["polish"])


def test_counts_say_how_many_texts_a_step_changed() -> None:
    counts: Counter[str] = Counter()
    for text in ("fine", "trailing blank \n", "a\x00b", "x\n点击查看\ny"):
        clean(text, STEPS, counts)
    assert counts == {"control": 1, "boilerplate": 1}


@given(st.text(st.characters() | st.sampled_from("\ud800\udfff\x00\x85\u2028\ufeff \n\tÃ©â€™京")))
def test_cleaning_twice_changes_nothing_more_and_gives_text(text: str) -> None:
    once = clean(text)
    once.encode()
    assert clean(once) == once
    assert not set(once) & set("\r\x00\x0b\x0c\x85\u2028\u2029\ufeff")


@given(st.text("今天天气很好，我们去公园散步。Hello, world! 123\n"))
def test_words_are_never_lost(text: str) -> None:
    def words(value: str) -> list[str]:
        return [c for c in value if c.isalnum()]

    assert words(clean(text)) == words(text)
