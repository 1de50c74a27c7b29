"""Intervals against known values and their defining properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from everloop.evaluate.estimate import bootstrap, difference, wilson


@given(st.integers(1, 5000), st.data())
def test_wilson_equals_scipy(count: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, count))
    ours = wilson(successes, count)
    theirs = stats.binomtest(successes, count).proportion_ci(0.95, method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert 0 <= ours.low <= ours.value <= ours.high <= 1


def test_wilson_without_rows_says_nothing() -> None:
    nothing = wilson(0, 0)
    assert (nothing.low, nothing.high) == (0, 1)


def mean(total: np.ndarray) -> float:
    return float(total[0] / total[1])


def test_bootstrap_of_a_mean_is_as_wide_as_the_normal_interval() -> None:
    values = np.random.default_rng(3).normal(5, 2, 400)
    found = bootstrap(np.stack([values, np.ones(400)], axis=1), mean)
    half = 1.96 * values.std() / math.sqrt(400)
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * half, rel=0.15)
    assert found.low < values.mean() < found.high


def test_bootstrap_is_the_same_every_time() -> None:
    table = np.random.default_rng(0).random((50, 2)) + 0.1
    assert bootstrap(table, mean) == bootstrap(table, mean)
    assert bootstrap(table, mean) != bootstrap(table, mean, seed=1)


def test_a_paired_difference_is_surer_than_two_intervals() -> None:
    rng = np.random.default_rng(1)
    hard = rng.random(300) < 0.5  # rows on which both fail
    ours = np.stack([~hard, np.ones(300)], axis=1).astype(float)
    theirs = ours.copy()
    theirs[np.flatnonzero(~hard)[:12], 0] = 0
    found = difference(ours, theirs, mean)
    assert found.value == pytest.approx(12 / 300)
    assert 0 < found.low < found.value < found.high
    assert found.high - found.low < 0.06  # two separate intervals would overlap
    assert difference(ours, ours, mean).high == 0
