"""The model card from what evaluation and training wrote down."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from everloop.errors import NotFound
from everloop.evaluate.card import About, about, card, runs, section
from everloop.evaluate.evaluate import Subject, evaluate
from everloop.evaluate.report import interval, table
from everloop.evaluate.suites import load
from tests.tasks.small_engine import SmallEngine

ROWS = Path(__file__).parent / "rows"
RUN = {
    "kind": "pretrain",
    "parameters": 5_310_000,
    "matmul_parameters": 4_260_000,
    "tokens": 34_800_000,
    "flops": 1e15,
    "seconds": 9000,
    "precision": "bf16 autocast",
    "machine": {"cpu": "A CPU", "gpu": None, "torch": "2.13.0"},
    "data": {"sources": [{"name": "wiki", "weight": 0.5, "tokens": {"train": 1234567}}]},
}


def test_a_card_has_numbers_history_and_both_languages(tmp_path: Path) -> None:
    suites, _ = load(["sentiment.own", "correct.own", "dialogue"], ROWS, [], 0)
    report = asyncio.run(
        evaluate(
            SmallEngine(),
            Subject(name="everloop-test"),
            suites,
            missing={"topic.x": "No data."},
            limit=0,
            out=tmp_path,
            cache=tmp_path / "cache",
        )
    )
    (tmp_path / "run.json").write_text(json.dumps({**RUN, "kind": "finetune", "base": RUN}))
    told = About(english="It is **small**.", chinese="它很小。", data="| set | licence |")
    text = card(report, runs(tmp_path), told)
    english, chinese = text.split("# 中文")
    assert text.startswith("---\nlicense: apache-2.0\n")
    assert "It is **small**." in english
    assert "它很小。" in chinese
    for half in (english, chinese):
        assert half.count("| 5.31 M | 4.26 M | 34.8 M | 1.00e+15 | 150 | A CPU") == 2
        assert "| wiki | 1,234,567 | 0.5 |" in half
        assert "F0.5 ↑" in half
        assert "topic.x" in half
    assert "pretraining" in english
    assert "预训练" in chinese
    assert english.count("| set | licence |") == 1
    assert "What is the weather like today?" in english
    assert "今天天气怎么样？" in chinese


def test_the_hand_written_part_comes_from_the_recipe(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"card\.en\.md"):
        about(tmp_path)
    (tmp_path / "card.en.md").write_text("Hello.\n")
    (tmp_path / "card.zh.md").write_text("你好。\n")
    (tmp_path / "README.md").write_text(
        "# R\n\n## Where the data comes from\n\n| a |\n\n## More\n\nx\n"
    )
    assert about(tmp_path) == About(english="Hello.", chinese="你好。", data="| a |")
    assert section("# no such heading", "More") == ""


def test_a_model_without_a_record_has_no_history(tmp_path: Path) -> None:
    assert runs(tmp_path) == []


def test_tables_hold_whatever_a_model_says() -> None:
    said = "a | b\n| c \\ d\r\n\u2028e"
    lines = table(["x", "y"], [[said, 1]]).split("\n")
    assert len(lines) == 3
    assert lines[2] == "| a \\| b \\| c \\\\ d e | 1 |"


def test_intervals_are_left_out_where_there_are_none() -> None:
    assert interval({"value": 0.5, "low": 0.4, "high": 0.6}, True) == "50.0 [40.0, 60.0]"
    assert interval({"value": 1.951, "low": 1.9509, "high": 1.9511}, False) == "1.95"
