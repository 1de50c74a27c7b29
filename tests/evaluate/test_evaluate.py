"""A whole evaluation: rows in, report out; resumed, refused, retried."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from everloop.engine.interface import GenerateRequest, Generation, Score, ScoreRequest
from everloop.errors import (
    DataError,
    EngineUnavailable,
    EverloopError,
    InvalidRequest,
    NotFound,
    Overloaded,
)
from everloop.evaluate import rows as files
from everloop.evaluate import run as running
from everloop.evaluate.evaluate import Subject, evaluate
from everloop.evaluate.extras import load as library
from everloop.evaluate.journal import Journal
from everloop.evaluate.progress import Progress
from everloop.evaluate.suites import DIALOGUE, HELD_OUT, PUBLIC, ROBUSTNESS, load
from tests.tasks.small_engine import SmallEngine

ROWS = Path(__file__).parent / "rows"
OWN = files.available(ROWS)
SUBJECT = Subject(name="small", sha256="ab" * 32)


def go(engine: SmallEngine, out: Path, names: list[str], **fields: Any) -> dict[str, Any]:
    suites, missing = load(names, ROWS, fields.pop("texts", []), fields.get("limit", 0))
    given = {
        "missing": missing,
        "limit": 0,
        "out": out,
        "cache": out.parent / "baselines",
        **fields,
    }
    return asyncio.run(evaluate(engine, given.pop("subject", SUBJECT), suites, **given))


def test_every_task_is_measured_beside_its_baseline(tmp_path: Path) -> None:
    text = "Held-out text that goes on for quite a while, so that there is a window. " * 20
    report = go(SmallEngine(), tmp_path / "out", [*OWN, DIALOGUE, HELD_OUT], texts=[text])
    assert report == json.loads((tmp_path / "out" / "report.json").read_text())
    results = {result["name"]: result for result in report["results"]}
    assert results.keys() == {*OWN, "dialogue.en", "dialogue.zh", "bits-per-byte.en"}
    for result in results.values():
        for estimate in result["metrics"].values():
            assert estimate["low"] <= estimate["value"] <= estimate["high"]
        if result["task"] not in ("dialogue", "intent", "chat"):
            assert result["baselines"]
            assert result["above_baseline"]["low"] <= result["above_baseline"]["high"]
    sentiment = results["sentiment.own"]
    assert list(sentiment["baselines"]) == ["TF-IDF + logistic regression", "most frequent label"]
    assert sentiment["train_rows"] == 8
    assert set(sentiment["files"]) == {
        "validation/sentiment.own.jsonl",
        "train/sentiment.own.jsonl",
    }
    assert results["translate.own"]["rows"] == 3  # one sentence has two translations
    assert len(results["dialogue.en"]["samples"]) == results["dialogue.en"]["rows"]
    markdown = (tmp_path / "out" / "report.md").read_text()
    assert all(f"| {result['title']} |" in markdown for result in results.values())
    assert report["machine"]["cores"] >= 1


def test_a_second_run_asks_nothing_and_says_the_same(tmp_path: Path) -> None:
    first = go(SmallEngine(), tmp_path / "out", ["sentiment.own", "correct.own"])
    engine = SmallEngine()
    second = go(engine, tmp_path / "out", ["sentiment.own", "correct.own"])
    assert (engine.started, engine.scored) == ([], [])
    for a, b in zip(first["results"], second["results"], strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    class Dies(SmallEngine):
        asked = 0

        async def score(self, request: ScoreRequest) -> list[Score]:
            self.asked += 1
            if self.asked > 3:
                while len(self.scored) < 3:
                    await asyncio.sleep(0)
                raise KeyboardInterrupt
            return await super().score(request)

    with pytest.raises(KeyboardInterrupt):
        go(Dies(), tmp_path / "out", ["sentiment.own"])
    kept = tmp_path / "out" / "predictions" / "sentiment.own.jsonl"
    assert len(kept.read_text().splitlines()) == 3
    with kept.open("a") as file:  # and the kill cut a line in two
        file.write('{"row": "0123", "predic')
    engine = SmallEngine()
    report = go(engine, tmp_path / "out", ["sentiment.own"])
    assert len(engine.scored) == 3
    assert report["results"][0]["rows"] == 6
    assert len(kept.read_text().splitlines()) == 6


def test_another_model_needs_another_folder(tmp_path: Path) -> None:
    go(SmallEngine(), tmp_path / "out", ["title.own"])
    with pytest.raises(InvalidRequest) as caught:
        go(SmallEngine(), tmp_path / "out", ["title.own"], subject=Subject(name="other"))
    assert caught.value.param == "out"


def test_a_limit_takes_rows_of_the_larger_one() -> None:
    rows = [{"task": "x", "lang": "en", "text": str(i)} for i in range(50)]
    few, more = files.chosen(rows, 5), files.chosen(reversed(rows), 20)
    assert few == more[:5]
    assert len(files.chosen(rows + rows, 0)) == 50


def test_rows_too_long_for_the_model_count_as_wrong(tmp_path: Path) -> None:
    engine = SmallEngine()
    engine.info = type(engine.info)(id="small", context_length=10, vocab_size=256)
    report = go(engine, tmp_path / "out", ["answer.own", "title.own"])
    for result in report["results"]:
        assert result["too_long"] == result["rows"] == 2
    assert (
        "counted as wrong: 2 of answer.own, 2 of title.own"
        in (tmp_path / "out" / "report.md").read_text()
    )


def test_a_suite_that_cannot_be_asked_is_named_with_the_reason(tmp_path: Path) -> None:
    class Deaf(SmallEngine):
        async def score(self, request: ScoreRequest) -> list[Score]:
            raise InvalidRequest("This server gives no scores.", param="continuations")

    report = go(Deaf(), tmp_path / "out", ["topic.own", "title.own"])
    assert [result["name"] for result in report["results"]] == ["title.own"]
    assert report["missing"] == {"topic.own": "This server gives no scores."}
    assert (
        "- topic.own: This server gives no scores." in (tmp_path / "out" / "report.md").read_text()
    )


def test_a_full_engine_is_waited_for_and_a_dead_one_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Busy(SmallEngine):
        refused = 0

        async def generate(self, request: GenerateRequest) -> Generation:
            self.refused += 1
            if self.refused % 3:
                raise Overloaded("Full.", retry_after=0.001)
            return await super().generate(request)

    assert go(Busy(), tmp_path / "busy", ["title.own"])["results"][0]["rows"] == 2

    class Dead(SmallEngine):
        async def generate(self, request: GenerateRequest) -> Generation:
            raise EngineUnavailable("Down.", retry_after=0.001)

        def status(self):
            return type(super().status())(ready=False)

    monkeypatch.setattr(running, "CONCURRENCY", 1)
    with pytest.raises(EngineUnavailable, match="run the same command to go on"):
        go(Dead(), tmp_path / "dead", ["title.own"])


def test_suites_are_called_by_name_task_or_source() -> None:
    every, missing = load(["all"], ROWS, [], 0)
    assert [m.name for m in every] == ["dialogue.en", "dialogue.zh"]
    assert missing.keys() == {*PUBLIC, *ROBUSTNESS, HELD_OUT}
    assert "github.com/clinc/oos-eval" in missing["intent.clinc150"]
    by_source, _ = load(["own"], ROWS, [], 2)
    assert sorted(m.name for m in by_source) == OWN
    assert all(len(m.suite.rows) <= 2 for m in by_source)
    by_task, missing = load(["topic"], ROWS, [], 0)
    assert [m.name for m in by_task] == ["topic.own"]
    assert "topic.agnews" in missing
    with pytest.raises(NotFound, match=r"github\.com/"):
        load(["spam"], ROWS, [], 0)
    named, _ = load(["topic.own", "topic.own"], ROWS, [], 0)
    assert [m.name for m in named] == ["topic.own"]
    with pytest.raises(InvalidRequest) as caught:
        load(["tpoic"], ROWS, [], 0)
    assert caught.value.param == "suite"
    with pytest.raises(NotFound, match=r"github.com/clinc/oos-eval.*build.py"):
        load(["intent.clinc150"], None, [], 0)
    with pytest.raises(NotFound, match="--packed"):
        load([HELD_OUT], ROWS, [], 0)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"text": "no task"}', "has no task and lang"),
        ('{"task": "topic", "lang": "en", "text": "x", "label": "a"}', "no field 'labels'"),
        ('{"task": "poem", "lang": "en"}', "can't be measured"),
        ("not json", "x.bad.jsonl:1"),
        ("", "has no rows"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "validation").mkdir()
    (tmp_path / "validation" / "x.bad.jsonl").write_text(f"{line}\n")
    with pytest.raises((DataError, InvalidRequest), match=says):
        load(["x.bad"], tmp_path, [], 0)


def test_rows_of_two_tasks_in_one_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "validation").mkdir()
    titled = (ROWS / "validation" / "title.own.jsonl").read_text()
    edited = (ROWS / "validation" / "edit.own.jsonl").read_text()
    (tmp_path / "validation" / "x.bad.jsonl").write_text(titled + edited)
    with pytest.raises(DataError, match="rows of title and of edit"):
        load(["x.bad"], tmp_path, [], 0)


def test_the_journal_survives_lone_surrogates(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.jsonl") as journal:
        journal.add("a", {"text": "half \udc00 a pair"})
    with Journal(tmp_path / "j.jsonl") as journal:
        assert journal.known == {"a": {"text": "half \udc00 a pair"}}


def test_a_missing_library_is_named_with_its_extra() -> None:
    with pytest.raises(EverloopError, match=r'pip install "everloop\[evaluate\]"'):
        library("no_such_library.part")


def test_progress_tells_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    progress = Progress(8, clock=lambda: now)
    for i in range(4):
        now += 10
        progress.step("one", known=i < 2)
    now += 500  # something else
    progress.go_on()
    now += 10
    progress.step("one", known=False)
    progress.end("one", "accuracy 50.0")
    # Three rows asked in 30 s, three to go; those known from before took no time.
    assert capsys.readouterr().err == "one: accuracy 50.0  [5/8 rows, 30 s left]\n"
