"""The split is a pure function of the text, for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.data.divide import divide
from everloop.data.split import document_hash, mix, share, split_of
from everloop.errors import DataError, InvalidRequest


def test_hashes_are_pinned() -> None:
    """Another value here would move documents between training and validation in every project."""
    assert document_hash("今天天气很好") == 15489124765898911423
    assert document_hash("今天天气很好", 1) != document_hash("今天天气很好", 0)
    assert mix(0, 0) == 0xE220A8397B1DCDAF  # splitmix64's first output for seed 0


def test_the_share_held_out_is_what_was_asked_for() -> None:
    values = [document_hash(f"document {i}") for i in range(20_000)]
    held = sum(split_of(value, 0.1) for value in values) / len(values)
    assert held == pytest.approx(0.1, abs=0.01)
    # A larger share holds out a superset.
    assert all(split_of(v, 0.2) >= split_of(v, 0.1) for v in values)


@given(st.integers(0, 2**64 - 1), st.integers(0, 1000))
def test_shares_are_in_the_unit_interval(value: int, salt: int) -> None:
    assert 0 <= share(mix(value, salt)) < 1


def rows(path) -> list[bytes]:
    return path.read_bytes().splitlines()


def test_divide_keeps_every_row_once_and_is_stable_when_the_file_grows(write, tmp_path) -> None:
    few = [{"text": f"row {i}", "n": i} for i in range(300)]
    first = divide(write("a.jsonl", few), tmp_path / "one", val_fraction=0.2)
    assert sum(first.values()) == 300
    assert 30 < first["validation"] < 90
    more = [{"n": i, "text": f"row {i}"} for i in range(600)]  # other column order, more rows
    divide(write("b.jsonl", more), tmp_path / "two", val_fraction=0.2)
    import orjson

    def texts(folder: str, split: str) -> set[str]:
        return {orjson.loads(r)["text"] for r in rows(tmp_path / folder / f"{split}.jsonl")}

    assert texts("one", "validation") <= texts("two", "validation")
    assert texts("one", "train") <= texts("two", "train")
    assert not texts("two", "train") & texts("two", "validation")


def test_divide_leaves_nothing_when_a_row_is_bad(write, tmp_path) -> None:
    path = write("a.jsonl", '{"text": "good"}\n{bad\n')
    with pytest.raises(DataError, match=r"a\.jsonl:2"):
        divide(path, tmp_path / "out", val_fraction=0.5)
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(InvalidRequest, match="val_fraction"):
        divide(path, tmp_path / "out", val_fraction=1.0)
