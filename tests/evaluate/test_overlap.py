"""Text metrics against values worked out by hand, and what must always hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.evaluate.overlap import (
    distinct,
    exact,
    f1,
    longest_common_subsequence,
    repeated,
    rouge_l,
    units,
)

texts = st.text(alphabet="ab cd你好世界，。!", max_size=25)


def test_units_are_characters_and_words() -> None:
    assert units("Nexon开发2020年，iPhone15") == ["nexon", "开", "发", "2020", "年", "iphone15"]
    assert units("Ｈello, 世界！") == ["hello", "世", "界"]
    assert units("𠮷野家") == ["𠮷", "野", "家"]
    assert units("…！") == []


def test_exact_match_ignores_punctuation_and_width() -> None:
    assert exact("１９９８年。", ["1998年"])
    assert exact("The Cat", ["dog", "the cat."])
    assert not exact("1998", ["1998年"])


def test_f1_takes_the_best_reference() -> None:
    assert f1("北京大学", ["北京"]) == pytest.approx(2 * 2 / 6)
    assert f1("北京", ["上海", "北京"]) == 1
    assert f1("", ["北京"]) == 0


def test_rouge_l_of_known_pairs() -> None:
    # Lin's example: LCS "police the gunman" is 3 of 4 and 4 words.
    assert rouge_l("police kill the gunman", "police killed the gunman") == pytest.approx(0.75)
    assert rouge_l("the gunman kill police", "police killed the gunman") == pytest.approx(0.5)
    assert rouge_l("今天天气好", "今天的天气很好") == pytest.approx(2 * 5 / 12)


@given(texts, texts)
def test_scores_are_shares_symmetric_and_whole_for_copies(a: str, b: str) -> None:
    for score in (rouge_l(a, b), f1(a, [b])):
        assert 0 <= score <= 1
    assert rouge_l(a, b) == pytest.approx(rouge_l(b, a))
    assert f1(a, [b]) == pytest.approx(f1(b, [a]))
    assert rouge_l(a, a) == f1(a, [a]) == 1
    assert rouge_l(a, b) <= f1(a, [b]) + 1e-12  # a subsequence is a common bag


@given(st.lists(st.sampled_from("abc"), max_size=7), st.lists(st.sampled_from("abc"), max_size=7))
def test_longest_common_subsequence_by_trying_all(a: list[str], b: list[str]) -> None:
    def subsequences(items: list[str]) -> set[tuple[str, ...]]:
        found: set[tuple[str, ...]] = {()}
        for item in items:
            found |= {(*each, item) for each in found}
        return found

    longest = max(map(len, subsequences(a) & subsequences(b)))
    assert longest_common_subsequence(a, b) == longest


def test_repetition_and_distinctness() -> None:
    assert repeated("好的好的好的好的", 4) == (3, 5)
    assert repeated("one two three four five", 4) == (0, 2)
    assert repeated("短", 4) == (0, 0)
    assert distinct(["a b a b"], 2) == pytest.approx(2 / 3)
    assert distinct([], 2) == 0
