"""A small packed data set, a tokenizer, a model and a plan, made once."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from everloop.data.pack import PackOptions, pack
from everloop.data.sources import load
from everloop.model import checkpoint
from everloop.model.train_tokenizer import train_tokenizer
from everloop.model.transformer import Transformer

from .small import CONTEXT, VOCABULARY, small_config

ZH = [
    "今天",
    "天气",
    "很好",
    "我们",
    "去",
    "公园",
    "散步",
    "明天",
    "下雨",
    "记得",
    "带伞",
    "早点",
    "回家",
]
EN = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "two", "birds", "near", "old", "house"]


def sentences(count: int, seed: int) -> list[str]:
    """Half Chinese, half English, with some order in them."""
    generator = random.Random(seed)
    rows = []
    for i in range(count):
        words, gap, end = (ZH, "", "。") if i % 2 else (EN, " ", ".")
        start = generator.randrange(len(words))
        size = generator.randrange(3, 30)
        rows.append(gap.join(words[(start + k) % len(words)] for k in range(size)) + end)
    return rows


def write_rows(path: Path, count: int, seed: int = 3) -> Path:
    """A file of question and answer."""
    with path.open("w", encoding="utf-8") as file:
        pairs = zip(sentences(count, seed), sentences(count, seed + 1), strict=True)
        for question, answer in pairs:
            messages = [
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ]
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    return path


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of 320 tokens."""
    directory = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(
        iter(sentences(400, 1)), directory, vocab_size=VOCABULARY, context_length=CONTEXT
    )
    return directory


@pytest.fixture(scope="session")
def text_data(tmp_path_factory: pytest.TempPathFactory, tokenizer_dir: Path) -> Path:
    """Packed plain text in two sources, one per language."""
    root = tmp_path_factory.mktemp("text")
    rows = sentences(240, 2)
    spec = ""
    for lang, part in (("en", rows[::2]), ("zh", rows[1::2])):
        (root / f"{lang}.txt").write_text("\n".join(part) + "\n", encoding="utf-8")
        spec += (
            f'[[source]]\nname = "{lang}"\nfiles = ["{lang}.txt"]\nkind = "text"\n'
            f'unit = "line"\nlang = "{lang}"\ndedup = "none"\n\n'
        )
    (root / "spec.toml").write_text(spec, encoding="utf-8")
    options = PackOptions(val_fraction=0.1)
    pack(load(root / "spec.toml"), tokenizer_dir, root / "packed", options=options)
    return root / "packed"


@pytest.fixture(scope="session")
def example_data(tmp_path_factory: pytest.TempPathFactory, tokenizer_dir: Path) -> Path:
    """Packed conversations with a loss mask."""
    root = tmp_path_factory.mktemp("examples")
    write_rows(root / "rows.jsonl", 120)
    (root / "spec.toml").write_text(
        '[[source]]\nname = "rows"\nfiles = ["rows.jsonl"]\nkind = "examples"\ndedup = "none"\n',
        encoding="utf-8",
    )
    options = PackOptions(val_fraction=0.1)
    pack(load(root / "spec.toml"), tokenizer_dir, root / "packed", options=options)
    return root / "packed"


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory, tokenizer_dir: Path) -> Path:
    """A fresh model of some thousand parameters, to go on from with --base."""
    directory = tmp_path_factory.mktemp("model") / "small"
    model = Transformer(small_config())
    model.initialize(0)
    checkpoint.save(directory, model, model.config, tokenizer_dir=tokenizer_dir)
    return directory
