"""Long documents are cut where a reader would pause, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everloop.data.cut import Cutter
from everloop.model.tokenizer import Tokenizer

from .conftest import documents


@pytest.fixture(scope="module")
def tokenizer(tokenizer_dir: Path) -> Tokenizer:
    return Tokenizer.load(tokenizer_dir)


@settings(max_examples=60)
@given(text=st.text(st.sampled_from("今天天气很好龘😀。.\n ab1"), max_size=600))
def test_pieces_join_to_the_whole_and_never_split_a_character(tokenizer, text: str) -> None:
    ids = np.array(tokenizer.encode(text), dtype=np.int64)
    pieces = Cutter(tokenizer).cut(ids, 24)
    assert np.concatenate(pieces).tolist() == ids.tolist()
    assert all(0 < len(piece) <= 24 for piece in pieces) or len(ids) == 0
    decoded = [tokenizer.decode(piece.tolist()) for piece in pieces]
    assert "".join(decoded) == text


def test_a_short_document_is_one_piece(tokenizer) -> None:
    ids = np.arange(20)
    assert Cutter(tokenizer).cut(ids, 20) == [ids]


def test_cuts_fall_on_paragraph_borders(tokenizer) -> None:
    text = documents(2, sentences=60)[1]
    ids = np.array(tokenizer.encode(text))
    pieces = [tokenizer.decode(p.tolist()) for p in Cutter(tokenizer).cut(ids, 200)]
    assert len(pieces) > 3
    assert all(piece.endswith("\n\n") for piece in pieces[:-1])


def test_a_paragraph_too_long_is_cut_after_a_sentence(tokenizer) -> None:
    text = "我们一起去公园散步。" * 60
    ids = np.array(tokenizer.encode(text))
    pieces = [tokenizer.decode(p.tolist()) for p in Cutter(tokenizer).cut(ids, 100)]
    assert all(piece.endswith("。") for piece in pieces)
