"""The recipe as a whole, on a data folder of a few rows of our own in every file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from convert.common import normal

from everloop.data.instructions import INSTRUCTIONS, instruction

sys.path.insert(0, str(Path(__file__).parent))
import tiny_data

RECIPE = Path(__file__).parents[2] / "recipes" / "everloop-small"


def build(data: Path, out: Path, **environment: str) -> str:
    run = subprocess.run(
        [sys.executable, str(RECIPE / "build.py"), "--data", str(data), "--out", str(out)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data.make(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def built(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built")
    build(data, out, PYTHONHASHSEED="1")
    return out


def rows(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
            yield path.stem, json.loads(line)


def test_equal_input_gives_equal_bytes(data: Path, built: Path, tmp_path: Path) -> None:
    build(data, tmp_path, PYTHONHASHSEED="2")
    names = sorted(p.relative_to(built) for p in built.rglob("*.jsonl"))
    assert names == sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*.jsonl"))
    assert len(names) > 60
    for name in names:
        assert (built / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_the_specs_name_what_is_built(built: Path) -> None:
    """Every built example is in sft.toml, and every built file that a spec names exists."""
    specs = [
        tomllib.loads((RECIPE / f"{name}.toml").read_text(encoding="utf-8"))["source"]
        for name in ("pretrain", "sft")
    ]
    named = {
        file.removeprefix("built/")
        for spec in specs
        for source in spec
        for file in source["files"]
        if file.startswith("built/")
    }
    found = {str(p.relative_to(built)) for p in built.rglob("*.jsonl")}
    assert named <= found
    assert {name for name in found if name.startswith(("sft/", "text/"))} <= named


def test_every_example_is_complete(built: Path) -> None:
    for name, row in rows(built / "sft"):
        if name == "completion":
            assert set(row) == {"prompt", "completion", "task", "lang"}
            assert row["completion"].startswith("\n\n")
            continue
        assert set(row) == {"messages", "task", "lang", "source"}, name
        assert name == f"{row['task']}.{row['source']}"
        assert row["lang"] in ("zh", "en")
        roles = [message["role"] for message in row["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert all(message["content"].strip() for message in row["messages"]), row


def test_nothing_held_back_is_trained_on(built: Path) -> None:
    held: dict[str, set[str]] = {}
    count = 0
    for name, row in rows(built / "validation"):
        key = row.get("text") or row.get("tgt") or row.get("question")
        if key is not None and row["task"] not in ("title", "summarize"):
            held.setdefault(name, set()).add(normal(key))
            count += 1
    assert count > 60
    for name, row in rows(built / "train"):
        key = row.get("text") or row.get("tgt")
        if key is not None:
            assert normal(key) not in held.get(name, set())
    for name, row in rows(built / "sft"):
        if name.split(".")[0] in ("correct", "translate"):
            assert normal(row["messages"][1]["content"]) not in held.get(name, set())


def test_validation_rows_have_what_an_evaluation_needs(built: Path) -> None:
    wanted = {
        "sentiment": {"text", "label", "labels"},
        "spam": {"text", "label", "labels"},
        "topic": {"text", "label", "labels"},
        "classify": {"text", "label", "labels"},
        "intent": {"text", "label", "labels"},
        "translate": {"src", "tgt", "target"},
        "correct": {"src", "tgt"},
        "title": {"src", "tgt"},
        "summarize": {"src", "tgt"},
        "edit": {"instruction", "src", "tgt"},
        "answer": {"passage", "question", "answers"},
        "chat": {"messages", "reference"},
        "pairs": {"first", "second", "label", "labels"},
        "minimal-pairs": {"good", "bad", "phenomenon"},
        "service": {"messages", "reference"},
        "instruct": {"messages", "reference"},
    }
    for _, row in rows(built / "validation"):
        several = {"references"} if row["source"] == "jfleg" else set()
        assert set(row) == {"task", "lang", "source"} | several | wanted[row["task"]]
        if "labels" in row:
            assert row["label"] in row["labels"]
        if row["task"] == "chat":
            assert row["messages"][-1]["role"] == "user"


def test_most_rows_use_the_canonical_phrasing(built: Path) -> None:
    canonical = total = 0
    for name, row in rows(built / "sft"):
        if name.startswith("sentiment."):
            asked = row["messages"][0]["content"]
            total += 1
            canonical += asked.startswith(instruction("sentiment", row["lang"], text=""))
            phrasings = INSTRUCTIONS["sentiment"][row["lang"]]
            assert any(part in asked for p in phrasings for part in p.split("{text}") if part)
    assert total > 100
    assert 0.4 < canonical / total < 0.7


def test_without_data_it_says_what_to_do() -> None:
    run = subprocess.run(
        [sys.executable, str(RECIPE / "build.py")], capture_output=True, text=True, check=False
    )
    assert run.returncode == 2
    assert "EVERLOOP_DATA" in run.stderr
