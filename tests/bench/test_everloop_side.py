"""Everloop's side with a real engine: every operation answers, and what it answers is right."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from bench.peers import texts, weights
from bench.peers.process import Side, Skipped

from everloop.model import checkpoint

TINY = dataclasses.replace(
    weights.BARE, vocab_size=1200, num_hidden_layers=2, max_position_embeddings=4096
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny"
    weights.write_random(path, TINY)
    return path


@pytest.fixture(scope="module")
def side(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Side]:
    where = tmp_path_factory.mktemp("side")
    variables = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    variables["EVERLOOP_BENCH_PACKED"] = str(where)
    script = ROOT / "bench" / "peers" / "everloop_side.py"
    side = Side("everloop", [sys.executable, str(script)], variables, where / "log")
    yield side
    side.close()


def ask(side: Side, op: str, folder: Path, **arguments: Any) -> dict[str, Any]:
    return side.ask(op, model=str(folder), weights="8bit", threads=1, **arguments)


def prompt(length: int, seed: object) -> list[int]:
    return texts.prompt(TINY.vocab_size, length, str(seed))


def test_reading_and_writing_take_time(side: Side, folder: Path) -> None:
    assert ask(side, "read", folder, prompt=prompt(40, 0))["seconds"] > 0
    for streams in (1, 5):
        prompts = [prompt(8, i) for i in range(streams)]
        found = ask(side, "write", folder, prompts=prompts, tokens=20)
        assert found["seconds"] > 0
        assert found["tokens"] > 0.7 * 20 * streams


def test_the_perplexity_is_the_model_s(side: Side, folder: Path) -> None:
    window = prompt(60, "window")
    found = side.ask(
        "perplexity", model=str(folder), weights="full", threads=1, windows=[window, window]
    )
    _, model = checkpoint.load(folder)
    ids = torch.tensor([window])
    with torch.inference_mode():
        logprobs = model(ids).log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])
    assert found["tokens"] == 2 * 59
    assert math.isclose(found["nats"], -2 * float(logprobs.sum()), rel_tol=1e-4)


def test_eight_questions_are_answered(side: Side, folder: Path) -> None:
    asked = [prompt(5, i) for i in range(8)]
    found = ask(side, "questions", folder, text=prompt(50, "text"), questions=asked, tokens=6)
    assert found["seconds"] > 0


def test_corrections_keep_their_tokens(side: Side, folder: Path) -> None:
    try:
        found = ask(side, "correct", folder, prompt=prompt(9, 1), tokens=60, changes=3, seed=1)
    except Skipped as reason:
        pytest.skip(str(reason))
    assert found["same"]
    assert found["accepted"] > 30
    assert 0 < found["rejected"] < 60


def test_text_that_is_not_drafted_is_the_same(side: Side, folder: Path) -> None:
    try:
        found = ask(side, "undraftable", folder, prompt=prompt(9, 2), tokens=40, seed=2)
    except Skipped as reason:
        pytest.skip(str(reason))
    assert found["same"]


def test_gaps_before_and_while_a_prompt_is_read(side: Side, folder: Path) -> None:
    prompts = [prompt(8, i) for i in range(4)]
    found = ask(side, "gap", folder, prompts=prompts, pieces=10, prompt=prompt(600, "long"))
    assert 0 < found["before"] <= found["p99"]
    assert found["median"] <= found["p99"] <= found["prompt"] + 1


def test_loading_and_memory(side: Side, folder: Path) -> None:
    assert ask(side, "load", folder)["seconds"] > 0
    found = ask(side, "memory", folder, bare=str(folder))
    assert found["process"] > found["file"] > 0 or found["file"] is None


def test_an_unknown_operation_is_an_error(side: Side) -> None:
    from bench.peers.process import SideError

    with pytest.raises(SideError, match="KeyError"):
        side.ask("dance")
