"""What is odd about rows is counted and said."""

from __future__ import annotations

from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from everloop.data.findings import Examiner, Kind

DONE = dict.fromkeys(get_args(Kind), "Done.")


def said(examiner: Examiner) -> dict[str, str]:
    return {finding.kind: finding.said for finding in examiner.findings(DONE)}


def test_good_rows_say_nothing() -> None:
    examiner = Examiner()
    for i in range(20):
        examiner.see(f"Row number {i} is about something.", "a", label="ab"[i % 2], side=i % 3 == 0)
    assert said(examiner) == {}


def test_each_oddity_is_named() -> None:
    examiner = Examiner()
    examiner.see(" \u3000\n", "a", where="train row 1")
    examiner.see("x" * 1_000_000, "a", label="a")
    examiner.see("好的，今天的天气真是很好，我们一起去公园走走吧。", "a", label="a")
    examiner.see("The weather is fine today, and we go for a walk.", "b", label="b")
    examiner.see("ＴＨＥ  weather is fine today, and we go for a walk.", "b", label="a", side=1)
    examiner.see("the weather is fine today, and we go for a walk.", "a", label="a")
    examiner.see("The weather is fine today, and we go for a walk. ", "b", label="a")
    found = said(examiner)
    assert found.keys() == set(get_args(Kind)) - {"constant"}
    assert found["empty"] == "1 row has no text (train row 1)."
    assert found["long"] == "1 row has more than 100,000 characters, up to 1,000,000."
    assert found["once"] == "Seen only once: label b."
    assert found["across"].startswith("1 row has")
    assert found["contradiction"].startswith("1 row has")
    assert found["copies"].startswith("1 row has")
    assert "zh" in found["mixed"]
    assert "en" in found["mixed"]


def test_one_label_for_all_is_said_and_many_rare_ones_are_cut() -> None:
    same, rare = Examiner(), Examiner()
    for i in range(9):
        same.see(f"text {i}", "yes", label="yes")
        rare.see(f"text {i}", str(i), label=str(i))
    assert said(same) == {"constant": "All 9 rows have the label yes."}
    assert said(rare) == {"once": "Seen only once: label 0, 1, 2, 3, 4 and 4 more."}


def test_only_what_has_an_answer_is_told() -> None:
    examiner = Examiner()
    examiner.see("")
    assert examiner.findings({}) == []
    (finding,) = examiner.findings({"empty": "They are left out."})
    assert str(finding) == "1 row has no text. They are left out."


@given(st.lists(st.tuples(st.text(max_size=4), st.text(max_size=1), st.integers(0, 1))))
def test_any_rows_can_be_seen(rows: list[tuple[str, str, int]]) -> None:
    examiner = Examiner()
    for text, answer, side in rows:
        examiner.see(text, answer, label=answer, side=side)
    assert examiner.rows == len(rows)
    assert examiner.copies + examiner.contradictions <= len(rows)
    said(examiner)
