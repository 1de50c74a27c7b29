"""What is proposed: repeated text, and a predicted text that the output departs from and returns
to."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.engine.native.proposals import (
    ENDLESS,
    FIRST_LOOK,
    LARGEST_VOCABULARY,
    LONGEST_PAUSE,
    Drafter,
    Experience,
    Matches,
    Odds,
    Prediction,
    Record,
    decode,
    encode,
)

ids = st.lists(st.integers(0, 6), max_size=60)


@given(st.lists(st.integers(0, LARGEST_VOCABULARY - 1)))
def test_any_token_can_be_a_character(tokens: list[int]) -> None:
    assert decode(encode(tokens)) == tokens


def matches(tokens: Sequence[int], most: int = 15) -> list[int]:
    found = Matches(Experience())
    found.follow(tokens)
    return decode(found.propose(most, most)[0])


def test_the_latest_place_with_the_longest_match_is_continued() -> None:
    assert matches([1, 2, 3, 4, 5, 6, 7, 1, 2, 3]) == [4, 5, 6, 7, 1, 2, 3] * 2 + [4]
    assert matches([1, 2, 3, 4, 9, 1, 2, 3, 5, 9, 1, 2, 3], 2) == [5, 9]
    # Five tokens that agree count for more than being the latest.
    assert matches([8, 9, 1, 2, 3, 4, 5, 1, 2, 3, 6, 7, 8, 9, 1, 2, 3], 2) == [4, 5]
    assert matches([1, 2, 3, 1, 2]) == []
    assert matches([]) == []
    assert matches([5, 5, 5]) == []
    assert matches([5, 5, 5, 5]) == [5] * 15


@given(ids, st.lists(st.integers(1, 9), max_size=30))
def test_matches_are_where_they_seem_to_be(tokens: list[int], cuts: list[int]) -> None:
    found, at = Matches(Experience()), 0
    for cut in [*cuts, 60]:
        at += cut
        text = tokens[:at]
        found.follow(text)
        draft, chances = found.propose(4, 4)
        assert len(draft) == len(chances) in (0, 4)
        assert all(0 <= b <= a <= 1 for a, b in itertools.pairwise(chances))
        ends = [i for i in range(3, len(text)) if text[i - 3 : i] == text[-3:]]
        assert bool(draft) == bool(ends)
        if draft:
            continued = [(text[i:] * 4)[:4] for i in ends]
            assert decode(draft) in continued


def follow(prediction: Sequence[int], output: Sequence[int]) -> Prediction:
    found = Prediction(prediction, Experience())
    found.follow(encode(output))
    return found


TEXT = list(range(100, 160))


@pytest.mark.parametrize(
    ("output", "after"),
    [
        ([], 0),
        (TEXT[:20], 20),
        ([*TEXT[:20], 1], 21),  # one token instead of another
        ([*TEXT[:20], 1, TEXT[21]], 22),
        ([*TEXT[:20], 1, TEXT[20]], 21),  # one more
        ([*TEXT[:20], 1, 2, 3, 4, 5, *TEXT[20:22]], 22),  # some more
        ([*TEXT[:20], TEXT[23]], 24),  # some less
        ([*TEXT[:20], *TEXT[26:28]], 28),
        ([*TEXT[:4], *TEXT[40:44]], 44),  # many less
        ([*TEXT[:20], 1, 2, 3, 4, *TEXT[25:28]], 28),  # some instead of others
        ([*TEXT[:20], 1, *TEXT[21:40], 2, *TEXT[41:50]], 50),
        ([1, 2, *TEXT[:5]], 5),
    ],
)
def test_the_output_is_found_again(output: list[int], after: int) -> None:
    draft, chances = follow(TEXT, output).propose(5, 5)
    assert decode(draft) == TEXT[after : after + 5]
    assert len(chances) == 5


def test_a_repetitive_text_is_followed_at_the_right_place() -> None:
    rng = random.Random(0)
    for _ in range(50):
        text = [rng.randrange(4) for _ in range(200)]
        output = list(text[:150])
        output[60] = 9
        draft, _ = follow(text, output).propose(20, 20)
        assert decode(draft) == text[150:170]


def test_usage_counts_each_predicted_token_once() -> None:
    assert follow(TEXT, TEXT).usage == (60, 0)
    assert follow(TEXT, TEXT * 2).usage == (60, 0)
    assert follow(TEXT, TEXT[:10]).usage == (10, 50)
    assert follow(TEXT, [1, 2, 3]).usage == (0, 60)
    assert follow(TEXT, [*TEXT[:20], 1, *TEXT[21:]]).usage == (59, 1)
    assert follow(TEXT, [*TEXT[:20], *TEXT[30:]]).usage == (50, 10)
    assert follow(TEXT, [*TEXT[:20], *range(9), *TEXT[20:]]).usage == (60, 0)


@given(ids, ids, st.lists(st.integers(1, 9), max_size=30))
def test_a_prediction_does_not_depend_on_how_the_output_comes(
    prediction: list[int], output: list[int], cuts: list[int]
) -> None:
    whole, parts = follow(prediction, output), Prediction(prediction, Experience())
    at = 0
    for cut in [*cuts, 60]:
        parts.follow(encode(output[at : at + cut]))
        at += cut
        draft, chances = parts.propose(15, 15)
        assert len(draft) == len(chances)
    assert parts.propose(15, 15) == whole.propose(15, 15)
    assert parts.usage == whole.usage
    assert sum(parts.usage) == len(prediction)
    assert parts.usage[0] >= 0


def test_odds_go_from_what_is_expected_to_what_is_seen() -> None:
    odds = Odds([0.5, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9])
    record = Record(odds)
    assert record.chances(0, 3) == pytest.approx([0.5, 0.45, 0.405])
    assert record.chances(300, 2) == pytest.approx([0.9, 0.81])
    for _ in range(1000):
        record.learn(0, 2, wrong=True)
    assert odds.of(0) > 0.95
    assert odds.of(1) > 0.95
    assert odds.of(2) < 0.05
    assert odds.of(3) == pytest.approx(0.9)  # another class
    assert Record(odds).chances(0, 1)[0] > 0.95  # another request begins with that


def test_one_requests_record_counts_for_it_alone_and_soon() -> None:
    odds = Odds([0.9] * 7)
    good, bad = Record(odds), Record(odds)
    good.learn(5, 60, wrong=False)
    assert good.chances(5, 1)[0] > 0.96
    for _ in range(5):
        bad.learn(5, 0, wrong=True)
    assert bad.chances(5, 1)[0] < 0.6
    assert bad.chances(0, 2)[1] < 0.5  # whatever agreed before
    assert Record(odds).chances(5, 1)[0] > 0.7
    bad.learn(5, 300, wrong=False)
    assert bad.chances(5, 1)[0] > 0.75


def test_a_drafter_takes_the_more_promising_proposal_and_asks_less_often_in_vain() -> None:
    part = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    drafter = Drafter(10, [50, 51, 52, 53], Experience())
    assert drafter.due == 10
    assert decode(drafter.propose(part, 3, 3)[0]) == [50, 51, 52]
    text = [*part, 1, 2, 3, 4, 5]
    assert decode(drafter.propose(text, 3, 3)[0]) == [6, 7, 8]
    assert drafter.usage(text) == (0, 4)
    drafter.rest(100)
    assert drafter.due == 102
    assert drafter.patience(100) == FIRST_LOOK
    drafter.used(100)
    assert drafter.due == 100
    pauses = []
    for _ in range(8):
        drafter.rest(100)
        pauses.append((drafter.due - 100, drafter.patience(100)))
    assert pauses[:3] == [(2, 2), (4, 4), (8, 8)]
    assert pauses[-1] == (LONGEST_PAUSE, LONGEST_PAUSE)
    drafter.stop()
    assert drafter.due == drafter.patience(0) == ENDLESS
    without = Drafter(7, (), Experience())
    assert without.due == 7 + FIRST_LOOK
    assert without.patience(7) == ENDLESS
    assert without.usage([1] * 9) == ()


def test_a_lost_place_is_found_again_by_three_tokens() -> None:
    other = list(range(1, 30))
    assert follow(TEXT, [*TEXT[:20], *other]).propose(5, 5) == ("", [])
    assert follow(TEXT, [*TEXT[:20], *other, *TEXT[40:42]]).propose(5, 5) == ("", [])
    again = follow(TEXT, [*TEXT[:20], *other, *TEXT[40:43]])
    assert decode(again.propose(5, 5)[0]) == TEXT[43:48]
    assert again.usage == (23, 37)


def test_the_last_token_counts_although_the_text_ends_before_it() -> None:
    drafter = Drafter(2, [5, 6, 7, 8], Experience())
    drafter.end([1, 1, 5, 6], 7)
    assert drafter.usage([1, 1, 5, 6]) == (3, 1)
