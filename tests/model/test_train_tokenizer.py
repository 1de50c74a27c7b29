"""A tokenizer of our own: any text comes back, digits stand alone, equal texts give equal bytes."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everloop.errors import InvalidRequest
from everloop.model.template import ChatTemplate
from everloop.model.tokenizer import Tokenizer
from everloop.model.train_tokenizer import MINIMUM_VOCABULARY, SPECIAL_TOKENS, train_tokenizer

VOCABULARY = 310


def texts() -> Iterator[str]:
    generator = random.Random(0)
    words = [
        "the weather is fine today",
        "今天天气",
        "很好",
        "我们去",
        "公园",
        "in 2023 and 1984",
        "it's",
    ]
    for _ in range(300):
        generator.shuffle(words)
        yield " ".join(words) + ".\n"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained")
    train_tokenizer(texts(), path, vocab_size=VOCABULARY, context_length=512)
    return path


@pytest.fixture(scope="module")
def tokenizer(directory: Path) -> Tokenizer:
    return Tokenizer.load(directory)


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_round_trips(tokenizer: Tokenizer, text: str) -> None:
    try:
        data = text.encode()
    except UnicodeEncodeError:  # a lone surrogate is no text
        return
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert b"".join(tokenizer.token_bytes(i) for i in ids) == data
    assert not set(ids) & tokenizer.special_ids


def test_every_byte_has_a_token(tokenizer: Tokenizer) -> None:
    single = {tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)}
    assert {bytes([b]) for b in range(256)} <= single


@given(st.integers(0, 10**12))
def test_digits_stand_alone(tokenizer: Tokenizer, number: int) -> None:
    pieces = [tokenizer.token_bytes(i).decode() for i in tokenizer.encode(f"in {number}")]
    assert pieces[-len(str(number)) :] == list(str(number))


def test_it_learnt_both_languages(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == VOCABULARY
    assert len(tokenizer.encode("今天天气")) == 1
    assert len(tokenizer.encode(" weather")) == 1


def test_special_tokens_are_first_and_only_meant_where_asked_for(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_to_id(t) for t in SPECIAL_TOKENS] == list(range(len(SPECIAL_TOKENS)))
    for special in SPECIAL_TOKENS:
        assert tokenizer.encode_special(special) == [tokenizer.token_to_id(special)]
        plain = tokenizer.encode(f"a{special}b")
        assert not set(plain) & tokenizer.special_ids
        assert tokenizer.decode(plain) == f"a{special}b"


def test_it_comes_with_its_template(directory: Path, tokenizer: Tokenizer) -> None:
    template = ChatTemplate.load(directory)
    ids = template.encode([{"role": "user", "content": "今天天气"}])
    assert tokenizer.token_to_id("<|im_start|>") in ids
    written = json.loads((directory / "tokenizer_config.json").read_text("utf-8"))
    assert written["model_max_length"] == 512


def test_equal_texts_give_equal_bytes(directory: Path, tmp_path: Path) -> None:
    train_tokenizer(texts(), tmp_path, vocab_size=VOCABULARY, context_length=512)
    names = sorted(p.name for p in directory.iterdir())
    assert names == sorted(p.name for p in tmp_path.iterdir())
    for name in names:
        assert (directory / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_no_token_is_longer_than_its_limit(tokenizer: Tokenizer, tmp_path: Path) -> None:
    repeated = itertools.repeat("只要重复得够多整句话就会变成一个词元。" * 3 + "\n", 300)
    train_tokenizer(repeated, tmp_path, vocab_size=MINIMUM_VOCABULARY + 20)
    found = Tokenizer.load(tmp_path)
    longest = max(len(found.token_bytes(i)) for i in range(len(SPECIAL_TOKENS), found.vocab_size))
    assert longest <= 24


@pytest.mark.parametrize("size", [0, MINIMUM_VOCABULARY - 1])
def test_too_small_a_vocabulary_is_refused(size: int, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"too small: .* need 262") as error:
        train_tokenizer(texts(), tmp_path / "out", vocab_size=size)
    assert error.value.param == "vocab_size"
    assert not (tmp_path / "out").exists()


def test_too_large_a_vocabulary_says_what_the_text_gives(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"only yields (\d+) tokens") as error:
        train_tokenizer(iter(["abc abc abd"]), tmp_path / "out", vocab_size=5000)
    assert error.value.param == "vocab_size"
    assert not (tmp_path / "out").exists()
    size = int(error.value.message.split("--vocab-size ")[1].split()[0])
    train_tokenizer(iter(["abc abc abd"]), tmp_path / "out", vocab_size=size)
    assert Tokenizer.load(tmp_path / "out").vocab_size == size


def test_the_smallest_is_bytes_alone(tmp_path: Path) -> None:
    train_tokenizer(iter([""]), tmp_path, vocab_size=MINIMUM_VOCABULARY)
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.decode(tokenizer.encode("今天 12\r\n\x00\U0001f600")) == (
        "今天 12\r\n\x00\U0001f600"
    )
