"""Rows: every pair once, documents apart, the order a function of data and seed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everloop.errors import InvalidRequest
from everloop.train import loader as module
from everloop.train.loader import IGNORE, Batch, Loader, best_fit, sequential


class Documents:
    """Documents in memory; token ids tell the document and the place in it."""

    def __init__(
        self, lengths: list[int], sources: list[int] | None = None, masked: bool = False
    ) -> None:
        self.lengths = np.array(lengths, dtype=np.int64)
        self.source_of = np.array(sources or [0] * len(lengths), dtype=np.uint16)
        self.masked = masked

    def document(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        ids = np.arange(self.lengths[index], dtype=np.uint32) + 1000 * (index + 1)
        mask = (ids % 3 == 0).astype(np.uint8) if self.masked else None
        return ids, mask


def pairs(batch: Batch) -> Counter[tuple[int, int]]:
    """(token, next token) where there is a loss."""
    there = batch.targets != IGNORE
    return Counter(zip(batch.ids[there].tolist(), batch.targets[there].tolist(), strict=True))


def one_pass(loader: Loader) -> list[Batch]:
    """Batches of one row until the pass is over."""
    epoch = loader.cursor.epoch
    batches = []
    while loader.cursor.epoch == epoch:
        batches.append(loader.next())
    return batches


lengths = st.lists(st.integers(0, 40), min_size=1, max_size=30).filter(
    lambda values: max(values) > 1
)


@given(lengths, st.integers(1, 16), st.integers(0, 5), st.booleans())
@settings(max_examples=60, deadline=None)
def test_each_pair_once_a_pass(sizes: list[int], length: int, seed: int, masked: bool) -> None:
    data = Documents(sizes, masked=masked)
    loader = Loader(data, sequence_length=length, rows=1, seed=seed)
    wanted = Counter(
        (1000 * (d + 1) + i, 1000 * (d + 1) + i + 1)
        for d, size in enumerate(sizes)
        for i in range(size - 1)
        if not masked or (1000 * (d + 1) + i + 1) % 3 == 0
    )
    for _ in range(2):
        assert sum((pairs(batch) for batch in one_pass(loader)), Counter()) == wanted
    assert loader.pairs_per_epoch() == sum(max(0, size - 1) for size in sizes)
    rows = sequential(data, sequence_length=length, rows=3)
    assert sum((pairs(batch) for batch in rows), Counter()) == wanted


@given(lengths, st.integers(1, 16), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_documents_never_mix_and_positions_restart(
    sizes: list[int], length: int, seed: int
) -> None:
    loader = Loader(Documents(sizes), sequence_length=length, rows=2, seed=seed)
    for _ in range(5):
        batch = loader.next()
        for r in range(2):
            numbers = batch.documents[r]
            assert (np.diff(numbers[numbers >= 0]) >= 0).all()
            for number in set(numbers.tolist()) - {-1}:
                here = numbers == number
                assert len(set((batch.ids[r][here] // 1000).tolist())) == 1
                assert batch.positions[r][here].tolist() == list(range(here.sum()))
                assert (np.diff(batch.ids[r][here]) == 1).all()
            assert (batch.targets[r][numbers == -1] == IGNORE).all()
            assert (batch.targets[r][numbers >= 0] == batch.ids[r][numbers >= 0] + 1).all()


@given(st.lists(st.integers(1, 50), max_size=80), st.integers(50, 70))
def test_best_fit_never_overfills_and_loses_nothing(sizes: list[int], capacity: int) -> None:
    pieces = [(i, 0, size) for i, size in enumerate(sizes)]
    rows = best_fit(pieces, capacity)
    assert sorted(piece for row in rows for piece in row) == pieces
    filled = [sum(piece[2] for piece in row) for row in rows]
    assert all(total <= capacity for total in filled)
    # No two rows could have been one.
    assert all(a + b > capacity for a, b in zip(sorted(filled), sorted(filled)[1:], strict=False))


@pytest.mark.parametrize("window", [7, 8192])
def test_weights_give_the_counts_they_say(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WINDOW", window)
    data = Documents([5] * 60, [0] * 20 + [1] * 20 + [2] * 20)
    loader = Loader(data, sequence_length=8, rows=1, seed=1, weights=[0.3, 2.5, 1.0])
    drawn = []
    for _ in range(8):
        seen = sum((pairs(batch) for batch in one_pass(loader)), Counter())
        counts = [seen[(1000 * (d + 1), 1000 * (d + 1) + 1)] for d in range(60)]
        assert sum(counts[:20]) == 6
        assert set(counts[:20]) == {0, 1}
        assert (sum(counts[20:40]), set(counts[20:40])) == (50, {2, 3})
        assert counts[40:] == [1] * 20
        drawn.append(tuple(counts[:20]))
    assert len(set(drawn)) > 4  # drawn anew in each pass
    assert loader.pairs_per_epoch() == 4 * (6 + 50 + 20)


def test_weight_zero_leaves_a_source_out_and_all_zero_is_refused() -> None:
    data = Documents([5] * 6, [0] * 3 + [1] * 3)
    loader = Loader(data, sequence_length=8, rows=1, seed=0, weights=[0.0, 1.0])
    seen = sum((pairs(batch) for batch in one_pass(loader)), Counter())
    assert {token // 1000 for token, _ in seen} == {4, 5, 6}
    with pytest.raises(InvalidRequest, match="weight 0"):
        Loader(data, sequence_length=8, rows=1, seed=0, weights=[0.0, 0.0])


def same(a: Batch, b: Batch) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for name in ("ids", "targets", "positions", "documents")
    )


@given(lengths, st.integers(0, 4), st.integers(0, 25))
@settings(max_examples=30, deadline=None)
def test_order_is_a_function_of_data_and_seed_and_a_cursor_resumes_it(
    sizes: list[int], seed: int, at: int
) -> None:
    def fresh() -> Loader:
        return Loader(Documents(sizes), sequence_length=9, rows=2, seed=seed)

    first, second = fresh(), fresh()
    for _ in range(at):
        assert same(first.next(), second.next())
    resumed = fresh()
    resumed.cursor = replace(first.cursor)
    for _ in range(4):
        assert same(first.next(), resumed.next())


def test_another_seed_is_another_order() -> None:
    one, other = (
        Loader(Documents([9] * 50), sequence_length=8, rows=50, seed=seed).next() for seed in (0, 1)
    )
    assert not same(one, other)
    assert pairs(one) == pairs(other)


def test_too_long_examples_are_left_out_whole() -> None:
    loader = Loader(Documents([5, 9, 10, 40]), sequence_length=8, rows=1, seed=0, cut=False)
    assert loader.left_out == 2
    seen = sum((pairs(batch) for batch in one_pass(loader)), Counter())
    assert {token // 1000 for token, _ in seen} == {1, 2}


@pytest.mark.parametrize("sizes", [[], [0, 1], [40]])
def test_no_document_fits(sizes: list[int]) -> None:
    with pytest.raises(InvalidRequest, match="No document fits") as error:
        Loader(Documents(sizes), sequence_length=8, rows=1, seed=0, cut=False)
    assert error.value.param == "sequence_length"
