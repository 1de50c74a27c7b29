"""Two reports side by side: equal to the paired bootstrap on the rows themselves, or refused."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from everloop.engine.interface import Score, ScoreRequest
from everloop.errors import InvalidRequest, NotFound
from everloop.evaluate.compare import compare, read_report, require_same_rows
from everloop.evaluate.estimate import difference, packed, unpacked
from everloop.evaluate.evaluate import Subject, evaluate
from everloop.evaluate.suites import load
from tests.tasks.small_engine import SmallEngine

ROWS = Path(__file__).parent / "rows"


class Other(SmallEngine):
    """Prefers what the small engine doesn't."""

    async def score(self, request: ScoreRequest) -> list[Score]:
        scores = await super().score(request)
        return [Score(tokens=s.tokens, logprobs=tuple(-x - 9 for x in s.logprobs)) for s in scores]


def measured(engine: SmallEngine, name: str, out: Path, wanted: list[str], **more: Any) -> dict:
    suites, missing = load(wanted, ROWS, [], more.pop("limit", 0))
    return asyncio.run(
        evaluate(
            engine,
            Subject(name=name),
            suites,
            missing=missing,
            limit=0,
            out=out / name,
            cache=out / "cache",
            **more,
        )
    )


def test_differences_are_those_of_the_rows(tmp_path: Path) -> None:
    wanted = ["sentiment.own", "topic.own"]
    theirs = measured(Other(), "other", tmp_path, wanted)
    ours = measured(SmallEngine(), "ours", tmp_path, [*wanted, "title.own"], others=[theirs])
    (found,) = ours["compared"]
    assert found == compare(ours, theirs)
    assert (found["only_here"], found["only_there"]) == (["title.own"], [])
    suite = load(["topic.own"], ROWS, [], 0)[0][0].suite
    tables = []
    for name in ("ours", "other"):
        kept = (tmp_path / name / "predictions" / "topic.own.jsonl").read_text().splitlines()
        said = {line["row"]: line["prediction"] for line in map(json.loads, kept)}
        tables.append(suite.statistics(suite.rows, list(said.values())))
    compared = {result["name"]: result["metrics"] for result in found["results"]}
    for name in ("accuracy", "macro-F1"):
        above = compared["topic.own"][name]["above"]
        expected = difference(*tables, suite.metrics[name].of)
        assert above["value"] == pytest.approx(expected.value)
        assert (above["low"], above["high"]) == pytest.approx(
            (expected.low, expected.high), abs=1e-6
        )
    mirrored = compare(theirs, ours)["results"][1]["metrics"]["accuracy"]["above"]
    assert mirrored["value"] == -compared["topic.own"]["accuracy"]["above"]["value"]


def test_draws_survive_a_report() -> None:
    drawn = np.random.default_rng(0).random(1000)
    assert np.abs(unpacked(packed(drawn)) - drawn).max() < 1e-7


def test_other_rows_are_refused_before_anything_is_asked(tmp_path: Path) -> None:
    theirs = measured(SmallEngine(), "other", tmp_path, ["topic.own", "title.own"], limit=2)
    engine = SmallEngine()
    with pytest.raises(InvalidRequest, match=r"other rows: topic\.own\. Numbers") as caught:
        measured(engine, "ours", tmp_path, ["topic.own"], others=[theirs])
    assert caught.value.param == "compare"
    assert (engine.started, engine.scored) == ([], [])
    with pytest.raises(InvalidRequest, match=r"none of these suites: edit\.own"):
        require_same_rows({"edit.own": "x"}, theirs)


def test_what_is_no_report_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="can't be read"):
        read_report(tmp_path / "nowhere.json")
    path = tmp_path / "report.json"
    for text in ("{", "[]", '{"a": 1}'):
        path.write_text(text)
        with pytest.raises(InvalidRequest, match="is no report"):
            read_report(path)
    path.write_text('{"format": 1}')
    with pytest.raises(InvalidRequest, match="Make it again"):
        read_report(path)
    made = measured(SmallEngine(), "ours", tmp_path, ["title.own"])
    assert read_report(tmp_path / "ours") == made


def test_the_same_model_is_neither_better_nor_worse(tmp_path: Path) -> None:
    report = measured(SmallEngine(), "ours", tmp_path, ["topic.own", "dialogue"])
    for result in compare(report, report)["results"]:
        for found in result["metrics"].values():
            assert found["above"] == {"value": 0, "low": 0, "high": 0}
            assert found["better"] is None
