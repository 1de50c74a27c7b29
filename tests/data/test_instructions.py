"""Instructions: every phrasing of a task asks for the same fields and keeps them as they are."""

from __future__ import annotations

from string import Formatter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.data.instructions import (
    INSTRUCTIONS,
    LABELS,
    LANGUAGE_NAMES,
    NOT_IN_PASSAGE,
    instruction,
)
from everloop.errors import InvalidRequest

PHRASINGS = [
    (task, lang, phrasing)
    for task, languages in INSTRUCTIONS.items()
    for lang, phrasings in languages.items()
    for phrasing in phrasings
]


def fields_of(phrasing: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(phrasing) if name}


@pytest.mark.parametrize(("task", "lang", "phrasing"), PHRASINGS)
def test_phrasings_of_a_task_agree(task: str, lang: str, phrasing: str) -> None:
    assert fields_of(phrasing) == fields_of(INSTRUCTIONS[task]["en"][0])
    assert INSTRUCTIONS[task][lang].count(phrasing) == 1
    words = phrasing.format(**dict.fromkeys(fields_of(phrasing), ""))
    assert any("\u4e00" <= c <= "\u9fff" for c in words) == (lang == "zh" and task != "edit")


def test_every_task_speaks_both_languages() -> None:
    for table in (*INSTRUCTIONS.values(), *LABELS.values(), LANGUAGE_NAMES, NOT_IN_PASSAGE):
        assert set(table) == {"zh", "en"}


@given(text=st.text(), variant=st.integers(0, 99), lang=st.sampled_from(["zh", "en"]))
def test_text_stays_as_it_is(text: str, variant: int, lang: str) -> None:
    asked = instruction("translate", lang, variant, text=text, target="en")
    assert text in asked
    assert LANGUAGE_NAMES[lang]["en"] in asked


def test_canonical_bytes() -> None:
    assert instruction("sentiment", "en", text="fun {x}") == (
        "Is the sentiment of this text positive or negative?\n\nfun {x}"
    )
    assert instruction("topic", "zh", text="球赛", labels=["体育", "财经"]) == (
        "从下列类别中选出这段文字的主题：体育、财经。\n\n球赛"
    )
    assert instruction("topic", "en", text="a game", labels=("sports", "business")) == (
        "Choose the topic of this text from: sports, business.\n\na game"
    )
    assert instruction("translate", "zh", text="Hi.", target="zh") == "翻译成中文：\n\nHi."
    assert instruction("edit", "en", instruction="Make it short.", input="x y") == (
        "Make it short.\n\nx y"
    )


def test_mistakes_name_the_parameter() -> None:
    for param, call in {
        "task": lambda: instruction("sing", "en", text=""),
        "lang": lambda: instruction("spam", "fr", text=""),
        "fields": lambda: instruction("answer", "en", text=""),
        "target": lambda: instruction("translate", "en", text="", target="French"),
    }.items():
        with pytest.raises(InvalidRequest) as caught:
            call()
        assert caught.value.param == param
