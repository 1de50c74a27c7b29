"""The same weights on all sides: model folders, their tokenizer of words, and GGUF."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from bench.peers import gguf_file, texts, weights
from bench.peers.words import FIRST_WORD, write_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from everloop.model import checkpoint
from everloop.model.tokenizer import Tokenizer

VOCABULARY = 1200

TINY = dataclasses.replace(
    weights.BARE, vocab_size=VOCABULARY, num_hidden_layers=2, max_position_embeddings=512
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory = tmp_path_factory.mktemp("words")
    write_tokenizer(directory, VOCABULARY)
    return Tokenizer.load(directory)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny"
    weights.write_random(path, TINY)
    return path


def test_the_tokenizer_has_exactly_the_ids(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == VOCABULARY


@given(st.lists(st.integers(FIRST_WORD, VOCABULARY - 1), max_size=50))
def test_ids_of_words_have_one_spelling(tokenizer: Tokenizer, ids: list[int]) -> None:
    assert tokenizer.encode(tokenizer.decode(ids)) == ids


def test_every_token_shows_as_soon_as_it_is_there(tokenizer: Tokenizer) -> None:
    assert not tokenizer.special_ids
    for i in range(VOCABULARY):
        text = tokenizer.token_bytes(i).decode("ascii")
        assert text.isprintable()
        assert text[1:].isalpha() or i < FIRST_WORD


def test_random_weights_are_tied_and_the_same_again(folder: Path, tmp_path: Path) -> None:
    config, model = checkpoint.load(folder, dtype=None)
    assert config == TINY
    assert model.lm_head.weight is model.model.embed_tokens.weight
    embedding = model.model.embed_tokens.weight.detach()
    assert embedding.dtype == torch.bfloat16
    assert 0.019 < float(embedding.float().std()) < 0.021
    weights.write_random(tmp_path / "again", TINY)
    name = "model.safetensors"
    assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_a_longer_context_changes_no_weight(folder: Path, tmp_path: Path) -> None:
    weights.write_longer(tmp_path / "longer", folder, 4096)
    config, _ = checkpoint.load(tmp_path / "longer")
    assert config == dataclasses.replace(TINY, max_position_embeddings=4096)
    name = "model.safetensors"
    assert (tmp_path / "longer" / name).read_bytes() == (folder / name).read_bytes()


def test_matrices_of_the_large_shape_are_counted() -> None:
    layers, head = weights.matrix_weights(weights.QWEN3_06B)
    assert layers == 28 * (1024 * (2048 + 2 * 1024) + 2048 * 1024 + 3 * 1024 * 3072)
    assert head == 151_936 * 1024


def test_a_gguf_file_holds_the_same_numbers(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    gguf_file.write(folder, path)
    reader = gguf.GGUFReader(path)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    _, model = checkpoint.load(folder)
    assert len(tensors) == len(model.state_dict()) - 1  # the head is tied
    for ours, theirs in (
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.layers.1.self_attn.k_proj.weight", "blk.1.attn_k.weight"),
        ("model.layers.0.mlp.down_proj.weight", "blk.0.ffn_down.weight"),
        ("model.norm.weight", "output_norm.weight"),
    ):
        tensor = tensors[theirs]
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(values, model.state_dict()[ours].numpy())

    def field(name: str) -> object:
        return reader.fields[name].contents()

    assert field("general.architecture") == "qwen3"
    assert field("qwen3.block_count") == 2
    assert field("qwen3.rope.freq_base") == TINY.rope_theta
    assert field("tokenizer.ggml.model") == "gpt2"
    spelled = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    tokens = field("tokenizer.ggml.tokens")
    assert isinstance(tokens, list)
    assert [spelled[token] for token in tokens] == list(range(VOCABULARY))
    assert len(field("tokenizer.ggml.merges")) == VOCABULARY - FIRST_WORD  # type: ignore[arg-type]


def test_prompts_are_words_and_never_the_same() -> None:
    one, two = (texts.prompt(VOCABULARY, 400, seed) for seed in ("a", "b"))
    assert len(one) == 400
    assert FIRST_WORD <= min(one) <= max(one) < VOCABULARY
    assert one != two
    assert one == texts.prompt(VOCABULARY, 400, "a")


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_without_data_the_own_rows_are_the_text(lang: str) -> None:
    windows, source = texts.held_out(lang, weights.EMBEDDED, None)
    assert [len(window) for window in windows] == [texts.WINDOW] * texts.WINDOWS
    assert source == "recipes/everloop-small/rows"


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_with_data_only_documents_held_out_are_read(lang: str, tmp_path: Path) -> None:
    import zstandard

    draw = random.Random(0)
    marks = [f"{i:05d}" for i in range(6000)]
    words = [" ".join(f"w{draw.randrange(10_000)}" for _ in range(300)) for _ in range(40)]
    rows = [json.dumps({"text": f"{mark} {words[i % 40]}"}) for i, mark in enumerate(marks)]
    path = tmp_path / texts.DATA[lang]
    path.parent.mkdir()
    path.write_bytes(zstandard.compress("\n".join(rows).encode()))
    windows, source = texts.held_out(lang, weights.EMBEDDED, tmp_path)
    assert source == f"{texts.DATA[lang]}, held out"
    text = Tokenizer.load(weights.EMBEDDED).decode([i for window in windows for i in window])
    found = [mark for mark in marks if f"{mark} w" in text]
    assert 5 < len(found) < 60  # of the 18 or so that are held out, those that were needed
