"""The comparison of robust training: its arms cost what they say, and it runs, and goes on."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.train.small import small_config

from everloop.data.instructions import instruction
from everloop.model import checkpoint
from everloop.model.train_tokenizer import train_tokenizer
from everloop.model.transformer import Transformer
from everloop.train.robust import parse

PATH = Path(__file__).parents[2] / "recipes" / "robustness" / "compare.py"


@pytest.fixture(scope="module")
def compare() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compare_robustness", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def test_arms_are_equal_in_steps_or_in_operations(compare: ModuleType) -> None:
    arms = compare.arms()
    assert arms[0] == compare.Arm(name="plain")
    assert len({arm.name for arm in arms}) == len(arms)
    for arm in arms:
        cost = parse(arm.robust).cost
        if arm.equal == "operations":
            assert arm.steps(600) * cost == pytest.approx(600)
        else:
            assert arm.steps(600) == 600
    assert {a.robust for a in arms if parse(a.robust).cost > 1} == {
        a.robust for a in arms if a.equal == "operations"
    }


TEXTS = [f"a {word} film number {i}" for i in range(20) for word in ("good", "bad")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("model")
    train_tokenizer(iter(TEXTS * 3), root / "tokenizer", vocab_size=272, context_length=256)
    transformer = Transformer(small_config(max_position_embeddings=256))
    transformer.initialize(0)
    checkpoint.save(
        root / "small", transformer, transformer.config, tokenizer_dir=root / "tokenizer"
    )
    return root / "small"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    examples: list[dict[str, Any]] = []
    asked: list[dict[str, Any]] = []
    for text in TEXTS:
        label = "positive" if "good" in text else "negative"
        turns = [
            {"role": "user", "content": instruction("sentiment", "en", text=text)},
            {"role": "assistant", "content": label},
        ]
        examples.append({"messages": turns, "task": "sentiment", "lang": "en"})
        asked.append(
            {"task": "sentiment", "lang": "en", "text": text, "label": label,
             "labels": ["positive", "negative"]}
        )  # fmt: skip
    for folder, lines in (("sft", examples), ("validation", asked)):
        (tmp_path / folder).mkdir()
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / folder / "sentiment.sst2.jsonl").write_text(text, encoding="utf-8")
    return tmp_path


def test_it_runs_and_goes_on(
    compare: ModuleType, model: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = rows / "out"
    command = [
        "compare.py", str(model), "--rows", str(rows), "--out", str(out), "--set", "sentiment.sst2",
        "--arm", "noise", "--arm", "rdrop", "--seeds", "1", "--steps", "2", "--batch-tokens", "512",
        "--measured", "2",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr(compare, "say", lambda text: said.append(text))
    said: list[str] = []
    compare.main()
    found = json.loads((out / "results.json").read_text("utf-8"))
    assert [each["arm"] for each in found] == ["noise", "rdrop"]
    assert found[1]["flops"] == 2 * found[0]["flops"]
    assert set(compare.SHOWN) <= found[0]["metrics"].keys()
    table = (out / "results.md").read_text("utf-8")
    assert "| rdrop | 1 | 2 |" in table
    assert len(said) == 2
    compare.main()
    assert len(said) == 2  # nothing was done twice
    assert json.loads((out / "results.json").read_text("utf-8")) == found
