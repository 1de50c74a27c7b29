"""Copies: the key set against a plain set, MinHash against its theory, batches against one."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.data.dedup import Deduplicator, KeySet
from everloop.data.minhash import BANDS, ROWS, band_keys
from everloop.data.split import document_hash

_KEYS = st.integers(1, 2**64 - 1) | st.integers(1, 300)


@given(st.lists(st.lists(_KEYS, max_size=80), max_size=8))
def test_the_key_set_is_a_set(batches: list[list[int]]) -> None:
    ours, plain = KeySet(), set()
    for batch in batches:
        expected = []
        before = set(plain)
        for key in batch:
            expected.append(key in plain)
            plain.add(key)
        seen, new = ours.add(np.array(batch, np.uint64))
        assert seen.tolist() == expected
        assert set(new.tolist()) == plain - before
    assert len(ours) == len(plain)


def test_the_key_set_grows_and_finds_every_key_again() -> None:
    keys = np.random.default_rng(0).integers(1, 2**64, 200_000, dtype=np.uint64)
    # Neighbours collide in an open-addressing table: the hard case.
    keys = np.unique(np.concatenate([keys, np.arange(1, 50_000, dtype=np.uint64)]))
    ours = KeySet()
    for part in np.array_split(keys, 7):
        assert not ours.add(part)[0].any()
    seen, new = ours.add(keys)
    assert seen.all()
    assert len(new) == 0
    assert len(ours) == len(keys)


def pair(similarity: float, units: list[str], joiner: str, rng: random.Random) -> tuple[str, str]:
    """Two texts of 400 units whose 5-shingle Jaccard similarity is about `similarity`."""
    one = rng.choices(units, k=400)
    two = list(one)
    lost = 396 - 2 * 396 * similarity / (1 + similarity)
    for place in rng.sample(range(0, 400, 6), round(lost / 5)):
        two[place] = rng.choice(units)
    return joiner.join(one), joiner.join(two)


@pytest.mark.parametrize("script", ["english", "chinese"])
@pytest.mark.parametrize("similarity", [0.5, 0.7, 0.8, 0.95])
def test_the_share_of_pairs_found_is_what_theory_says(script: str, similarity: float) -> None:
    rng = random.Random(int(similarity * 100))
    english = [f"word{i}" for i in range(3000)]
    chinese = [chr(0x4E00 + i) for i in range(3000)]
    units, joiner = (english, " ") if script == "english" else (chinese, "")
    texts = [text for _ in range(200) for text in pair(similarity, units, joiner, rng)]
    keys, enough = band_keys(texts)
    assert enough.all()
    found = (keys[0::2] == keys[1::2]).any(axis=1).mean()
    theory = 1 - (1 - similarity**ROWS) ** BANDS
    assert found == pytest.approx(theory, abs=0.13)
    assert not (keys[0:-2:2] == keys[2::2]).any()  # unrelated texts share nothing


def test_case_width_spaces_and_punctuation_do_not_count() -> None:
    one = "The Weather is fine today, so we are going for a walk in the park, all of us."
    two = "the weather is fine today so we are going ... for a walk in ＴＨＥ park all of us!"
    keys, enough = band_keys([one, two])
    assert enough.all()
    assert (keys[0] == keys[1]).all()


def test_short_texts_are_only_compared_exactly() -> None:
    _, enough = band_keys(["好", "", "one two three", "\0", "一二三四五六七八九十一二"])
    assert enough.tolist() == [False, False, False, False, True]


def texts_with_copies(rng: random.Random) -> list[str]:
    texts = []
    for _ in range(60):
        one, two = pair(0.95, [f"w{i}" for i in range(500)], " ", rng)
        texts += [one, two, one] if rng.random() < 0.5 else [one]
    rng.shuffle(texts)
    return texts


@given(st.randoms(use_true_random=False), st.integers(1, 40))
def test_verdicts_do_not_depend_on_batches_or_interruptions(rng, size: int) -> None:
    texts = texts_with_copies(random.Random(1))
    values = [document_hash(text) for text in texts]
    whole = Deduplicator().check(values, texts, near=True)
    assert {"", "exact", "near"} == set(whole)
    parts: list[str] = []
    seen, journal = Deduplicator(), b""
    for start in range(0, len(texts), size):
        parts += seen.check(values[start : start + size], texts[start : start + size], near=True)
        if rng.random() < 0.3:  # killed and restored from the journal
            journal += seen.drain()
            seen = Deduplicator()
            seen.restore(journal)
    assert parts == whole


def test_near_copies_stay_where_only_exact_ones_go() -> None:
    texts = texts_with_copies(random.Random(2))
    values = [document_hash(text) for text in texts]
    verdicts = Deduplicator().check(values, texts, near=False)
    assert [v == "exact" for v in verdicts] == [t in texts[:i] for i, t in enumerate(texts)]
