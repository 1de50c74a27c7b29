"""generation_config.json says how a model wants to be sampled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from everloop.engine.interface import Sampling
from everloop.engine.native.prompts import Prompts
from everloop.model.train_tokenizer import train_tokenizer
from everloop.train.plan import size_config


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Sampling(temperature=0.6, top_p=0.9, repetition_penalty=1.1)),  # our own models'
        ('{"temperature": 0.3, "top_k": 20}', Sampling(temperature=0.3, top_k=20)),
        ('{"do_sample": false, "temperature": 0.3}', Sampling()),
        ('{"temperature": "hot"}', Sampling()),
        ("[1]", Sampling()),
        ("{", Sampling()),
    ],
)
def test_what_the_file_advises(tmp_path: Path, text: str, expected: Sampling) -> None:
    train_tokenizer(iter(["a b c"]), tmp_path, vocab_size=262)
    config = size_config("d2", vocab_size=262, context_length=64)
    (tmp_path / "config.json").write_text(json.dumps(config.to_json()))
    if text:
        (tmp_path / "generation_config.json").write_text(text)
    assert Prompts(tmp_path).sampling == expected
