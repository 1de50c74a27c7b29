"""Our Tokenizer against transformers' AutoTokenizer on tokenizers of three families, built here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from everloop.errors import InvalidRequest
from everloop.model.tokenizer import Tokenizer
from tests.model.speaking import TEXTS, make_tokenizer

TEXT = [
    "",
    " ",
    "Hello, world!  Two  spaces\n\n\ttab 12345 3.14",
    "今天天气怎么样？，。！《》「你好」",
    "emoji 👩‍👩‍👧‍👦 🇨🇳 é é ﬁ Ａ",
    "\ufeff\u2028\u0085\x00\x7f",
    "<|im_start|>user<|im_end|><|endoftext|><s></s>",
    "don't we'll I'M 'tis",
]


def byte_level_with_bos(directory: Path) -> Path:
    """Llama 3's kind: byte-level BPE, BOS put before every text."""
    backend = Backend(models.BPE(ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}{1,3}| ?\p{L}+|\s+|[^\s\p{L}\p{N}]+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    specials = ["<|begin_of_text|>", "<|eot_id|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)]
    )
    return _save(backend, directory, bos_token=specials[0], eos_token=specials[1])


def pieces_with_byte_fallback(directory: Path) -> Path:
    """Llama 2's and Mistral's kind: ▁ for spaces, unknown characters as <0xNN> bytes."""
    alphabet = sorted({"▁", *"".join(TEXTS).replace(" ", "▁")})
    names = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *alphabet]
    vocabulary = {name: i for i, name in enumerate(names)}
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("天", "气")]
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    backend = Backend(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    backend.add_special_tokens([AddedToken(t, special=True) for t in ("<unk>", "<s>", "</s>")])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return _save(backend, directory, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _save(backend: Backend, directory: Path, **tokens: str) -> Path:
    PreTrainedTokenizerFast(tokenizer_object=backend, **tokens).save_pretrained(directory)
    return directory


FAMILIES = {
    "ours": make_tokenizer,
    "byte-level": byte_level_with_bos,
    "pieces": pieces_with_byte_fallback,
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp(request.param)
    return FAMILIES[request.param](directory)


@pytest.fixture(scope="module")
def pair(family: Path) -> tuple[Tokenizer, Any]:
    return Tokenizer.load(family), AutoTokenizer.from_pretrained(family)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(make_tokenizer(tmp_path_factory.mktemp("ours")))


@pytest.mark.parametrize("text", TEXT)
def test_same_ids_as_transformers(pair: tuple[Tokenizer, Any], text: str) -> None:
    tokenizer, theirs = pair
    assert tokenizer.encode_special(text) == theirs.encode(text, add_special_tokens=False)
    plain = theirs.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert tokenizer.encode(text) == plain
    assert tokenizer.encode_batch([text, text]) == [plain, plain]
    with_bos = theirs.encode(text, add_special_tokens=True, split_special_tokens=True)
    assert tokenizer.encode(text, add_special_tokens=True) == with_bos
    ids = tokenizer.encode_special(text)
    for skip in (False, True):
        decoded = theirs.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
        assert tokenizer.decode(ids, skip_special_tokens=skip) == decoded


def test_marks_are_found(family: Path, pair: tuple[Tokenizer, Any]) -> None:
    tokenizer, theirs = pair
    assert theirs.eos_token_id in tokenizer.eos_ids
    assert tokenizer.bos_id == theirs.bos_token_id
    assert tokenizer.vocab_size == len(theirs)
    assert tokenizer.special_ids == set(theirs.all_special_ids) | (
        tokenizer.special_ids if family.name.startswith("ours") else set()
    )


@given(text=st.text())
@example(text="\ud7ff\ue000\U0010ffff")
@example(text="<|im_end|>")
def test_any_text_round_trips(ours: Tokenizer, text: str) -> None:
    ids = ours.encode(text)
    assert ours.decode(ids) == text
    assert b"".join(ours.token_bytes(i) for i in ids) == text.encode()
    assert not ours.special_ids & set(ids)


@given(data=st.binary(max_size=40))
def test_any_bytes_have_tokens(ours: Tokenizer, data: bytes) -> None:
    """A token for each byte: what a model may produce always has a text, whole or U+FFFD."""
    byte_ids = {ours.token_bytes(i): i for i in range(ours.vocab_size)}
    ids = [byte_ids[bytes([b])] for b in data]
    assert ours.decode(ids) == data.decode("utf-8", errors="replace")


def test_token_bytes_of_pieces(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(pieces_with_byte_fallback(tmp_path))
    for text in TEXT[2:5]:
        joined = b"".join(tokenizer.token_bytes(i) for i in tokenizer.encode(text))
        assert joined.decode().removeprefix(" ") == text
    assert tokenizer.token_bytes(10**6) == b""
    assert tokenizer.token_bytes(-1) == b""


def test_fill_in_middle_marks(ours: Tokenizer, tmp_path: Path) -> None:
    marks = ours.fill_in_middle
    assert marks is not None
    spelled = [ours.decode([i]) for i in (marks.prefix, marks.suffix, marks.middle)]
    assert spelled == ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]
    assert Tokenizer.load(byte_level_with_bos(tmp_path)).fill_in_middle is None


@pytest.mark.parametrize("text", ["\ud800", "ab\udfff"])
def test_lone_surrogates_are_refused(ours: Tokenizer, text: str) -> None:
    for encode in (ours.encode, ours.encode_special):
        with pytest.raises(InvalidRequest, match="lone surrogate at character"):
            encode(text)


def test_broken_files(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"tokenizer\.json is missing"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": {}}')
    with pytest.raises(InvalidRequest, match="can't be read as a tokenizer"):
        Tokenizer.load(tmp_path)
    make_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[1]")
    with pytest.raises(InvalidRequest, match=r"tokenizer_config\.json"):
        Tokenizer.load(tmp_path)


def test_no_torch_is_imported() -> None:
    """The HTTP process counts and checks prompts with these; it must stay small."""
    code = (
        "import sys, everloop.model.tokenizer, everloop.model.template, everloop.model.safetensors"
        "; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
