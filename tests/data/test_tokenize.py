"""Fast tokenization is the tokenizer's own, id by id."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from everloop.data import tokenize
from everloop.data.tokenize import BatchEncoder, can_cut
from everloop.model.tokenizer import Tokenizer
from everloop.model.train_tokenizer import train_tokenizer

from .conftest import CHINESE, ENGLISH, documents

# Few characters that occur next to each other in many orders: many tokens across characters,
# halves of characters included.
DENSE = [
    "的一是了我不在人们有来他这上",
    "公园散步，天气很好。“你好！”（真的）",
    "don't I'm we'll It's A1 b2",
]


@pytest.fixture(scope="module", params=["sentences", "dense", "bytes"])
def tokenizer(request, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer")
    rng = np.random.default_rng(0)
    texts = {
        "sentences": documents(300),
        "dense": ["".join(rng.choice(list("".join(DENSE)), 40)) for _ in range(2000)],
        # Characters that share their first bytes: tokens that end or begin inside a character.
        "bytes": ["".join(chr(0x4E00 + i) for i in rng.integers(0, 300, 30)) for _ in range(2000)],
    }[request.param]
    size = 400 if request.param == "sentences" else 700
    train_tokenizer(iter([*texts, *texts]), path, vocab_size=size)
    return Tokenizer.load(path)


ALPHABET = st.sampled_from(
    "".join(DENSE)
    + "".join(CHINESE[:2])
    + ENGLISH[0]
    + "  \n\n\r\t\u3000\xa0\x0b\x1c\x85\u2028'’\"-_.,!?0123456789"
    + "²Ⅳ٣éßñ\u0301한국語かなжд😀𠀀龘㐀\u9fa6"
)
WORDS = st.sampled_from(
    [
        "天气",
        "公园",
        "年",
        "，",
        "。",
        "，他",
        "，a",
        "a他",
        "1天",
        "'s",
        "'LL",
        "\n\n",
        "  ",
        " 1990",
    ]
)
ANY = st.characters(exclude_categories=["Cs"])
TEXT = st.lists(ALPHABET | WORDS | ANY, max_size=40).map("".join)


@settings(max_examples=300)
@given(texts=st.lists(TEXT, max_size=6))
def test_equal_to_the_tokenizer(tokenizer: Tokenizer, texts: list[str]) -> None:
    encode = _encoder(tokenizer)
    for _ in range(2):  # the second time from memory
        assert [ids.tolist() for ids in encode(texts)] == [tokenizer.encode(t) for t in texts]


_ENCODERS: dict[int, BatchEncoder] = {}


def _encoder(tokenizer: Tokenizer) -> BatchEncoder:
    if id(tokenizer) not in _ENCODERS:
        _ENCODERS[id(tokenizer)] = BatchEncoder(tokenizer)
    return _ENCODERS[id(tokenizer)]


@settings(max_examples=100)
@given(codes=st.lists(st.integers(0x4E00, 0x4E00 + 320), max_size=60))
def test_tokens_that_hold_parts_of_characters(tokenizer: Tokenizer, codes: list[int]) -> None:
    text = "".join(map(chr, codes))
    assert _encoder(tokenizer)([text])[0].tolist() == tokenizer.encode(text)


def test_the_fixture_has_the_hard_tokens(tokenizer: Tokenizer, request) -> None:
    """Without tokens across and inside characters the tests above would show little."""
    across = inside = 0
    for i in set(range(tokenizer.vocab_size)) - tokenizer.special_ids:
        try:
            across += len(tokenizer.token_bytes(i).decode()) > 1
        except UnicodeDecodeError:
            inside += len(tokenizer.token_bytes(i)) > 1
    if "bytes" in request.node.name:
        assert inside > 10
    else:
        assert across > 50


def test_memory_is_bounded(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenize, "MAX_PIECES", 50)
    encode = BatchEncoder(tokenizer)
    for text in documents(40):
        assert encode([text])[0].tolist() == tokenizer.encode(text)
        assert len(encode._known) <= 100


def test_texts_are_really_cut(tokenizer: Tokenizer) -> None:
    assert can_cut(tokenizer)
    encode = BatchEncoder(tokenizer)
    encode(documents(200))
    pieces = sum(map(len, documents(200))) / max(1, len(encode._known))
    assert pieces > 20  # far fewer different pieces than text


def changed(directory: Path, change) -> Tokenizer:
    backend = Backend.from_file(str(directory / "tokenizer.json"))
    change(backend)
    return Tokenizer(backend)


@pytest.mark.parametrize(
    "change",
    [
        lambda b: setattr(b, "normalizer", normalizers.NFC()),
        lambda b: setattr(b, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=False)),
        lambda b: b.add_tokens([AddedToken("天气", normalized=False)]),
        lambda b: setattr(b.model, "dropout", 0.1),
        lambda b: setattr(
            b,
            "pre_tokenizer",
            pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Split(Regex(r"\s+"), behavior="isolated"),
                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
                ]
            ),
        ),
    ],
)
def test_other_tokenizers_use_their_own_code(tokenizer_dir: Path, change) -> None:
    tokenizer = changed(tokenizer_dir, change)
    assert not can_cut(tokenizer)
    if tokenizer.backend.model.dropout is None:
        texts = documents(6)
        found = BatchEncoder(tokenizer)(texts)
        assert [ids.tolist() for ids in found] == [tokenizer.encode(t) for t in texts]
