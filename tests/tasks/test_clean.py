"""Cleaning before a call: what is dirt goes, what is meant stays, and each step says so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.errors import InvalidRequest
from everloop.tasks.clean import STEPS, cleaned


@pytest.mark.parametrize(
    ("dirty", "clean", "steps"),
    [
        ("It isnâ€™t good", "It isn’t good", ("encoding",)),
        ("zero\u200bwidth \x07bell", "zerowidth bell", ("control",)),
        ("<p>Very <b>good</b> &amp; cheap</p>", "Very good & cheap", ("markup",)),
        ("one<br>two<script>alert(1)</script>", "one\ntwo", ("markup",)),
        ("<!-- note --><div class='x'>text</div>", "text", ("markup",)),
        ("Ｇｏｏｄ　ｄａｙ １２３，好！", "Good day 123，好！", ("width",)),
        ("很好｡ ⼈多", "很好。人多", ("width", "space")),
        ("too   many\t\tblanks \n\n\n\n here", "too many blanks\n\nhere", ("space",)),
        ("这 家店 very good 很好", "这家店 very good 很好", ("space",)),
        ("sooooooo goooood!!!!!!!", "sooo gooood!!!".replace("gooood", "goood"), ("repeats",)),
        ("哈哈哈哈哈哈，太好了！！！！！", "哈哈哈，太好了！！！", ("repeats",)),
    ],
)
def test_each_kind_of_dirt(dirty: str, clean: str, steps: tuple[str, ...]) -> None:
    found = cleaned(dirty)
    assert found.text == clean
    assert found.steps[-1] == steps[-1]
    assert set(steps) >= set(found.steps) - {"control", "space"}
    assert cleaned(clean) == type(found)(text=clean, language=found.language, steps=())


@pytest.mark.parametrize(
    "text",
    [
        "if a < b and c > d: print(x)",
        "List<String> names; <name> is a placeholder; x<y>z",
        "1000000 --- ===== ..... ____",
        "他说：“好！” （真的）",
        "AT&T, R&D; fish & chips",
        "<|im_start|>system",
        "\n  Once upon a time \n",
        "   ",
        "",
    ],
)
def test_what_is_meant_stays(text: str) -> None:
    found = cleaned(text)
    assert (found.text, found.steps) == (text, ())


@given(st.text(max_size=60), st.lists(st.sampled_from(STEPS), unique=True))
def test_it_tells_the_truth_and_has_done_with_it(text: str, steps: list[str]) -> None:
    try:
        found = cleaned(text, steps)
    except InvalidRequest:
        return
    assert set(found.steps) <= set(steps)
    assert (found.text != text) == bool(found.steps)
    if not steps:
        assert found.text == text


def test_steps_are_chosen_by_name() -> None:
    dirty = "<b>Ｇood</b>!!!!!!"
    assert cleaned(dirty, ["width"]).text == "<b>Good</b>!!!!!!"
    assert cleaned(dirty, ["repeats", "markup"]).steps == ("markup", "repeats")
    with pytest.raises(InvalidRequest, match="no step named 'polish'") as caught:
        cleaned(dirty, ["polish"])
    assert caught.value.param == "clean"


def test_languages_are_told() -> None:
    assert cleaned("The weather is fine and we go for a walk").language == "en"
    assert cleaned("今天天气很好").language == "zh"
    assert cleaned("12 + 30").language == "und"


def test_a_text_is_never_cleaned_away() -> None:
    with pytest.raises(InvalidRequest, match="Nothing is left of 'prompt'") as caught:
        cleaned("<p></p>", param="prompt")
    assert caught.value.param == "prompt"


@pytest.mark.parametrize("text", ["<" * 300_000, "<a " * 100_000, "&" * 300_000, "<!--" * 80_000,
                                  "<script>" * 40_000, " \n" * 150_000, "a" * 300_000])  # fmt: skip
def test_no_input_takes_quadratic_time(text: str) -> None:
    """It would take minutes, and the run's own limit ends it."""
    assert cleaned(f"x {text} y").text.startswith("x")
