"""Robustness: the attacker keeps its limits, and the numbers count what was said."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from everloop.data.noise import TOUCHED, families_for, noisy
from everloop.evaluate.attack import attack
from everloop.evaluate.robustness import MIDDLE, SEED, SEVERITIES, Robustness
from everloop.evaluate.suites import load
from tests.tasks.small_engine import SmallEngine

TEXT = "the food was wonderful and the service was quick, we will surely come back again"
GOOD, BAD = "positive", "negative"


def row(text: str, label: str = GOOD) -> dict[str, Any]:
    return {
        "task": "sentiment", "lang": "en", "text": text, "label": label, "labels": [GOOD, BAD],
    }  # fmt: skip


class Judge:
    """Positive while enough letters of the text are where they were."""

    def __init__(self, text: str, stubborn: float = 0.0) -> None:
        self.words, self.stubborn, self.asked = text.split(), stubborn, list[str]()

    async def __call__(self, text: str) -> Mapping[str, float]:
        self.asked.append(text)
        whole = sum(word in text.split() for word in self.words) / len(self.words)
        sure = max(whole, self.stubborn)
        odds = {GOOD: sure, BAD: 1 - sure}
        return dict(sorted(odds.items(), key=lambda item: -item[1]))


def attacked(judge: Judge, text: str = TEXT, queries: int = 200) -> Any:
    families = families_for("en")
    return asyncio.run(attack(judge, text, GOOD, families=families, queries=queries))


def test_the_attacker_succeeds_where_it_can() -> None:
    long = f"{TEXT}, {TEXT[::-1]}"
    judge = Judge(long)
    found = attacked(judge, long)
    assert found.label == BAD
    assert found.queries == len(judge.asked) < 200
    assert found.text == judge.asked[-1]
    changed = 1 - sum(w in found.text.split() for w in long.split()) / len(long.split())
    assert changed > 0.5


def test_each_step_goes_on_from_the_best_so_far() -> None:
    judge = Judge(TEXT)
    attacked(judge)
    whole = [sum(w in text.split() for w in TEXT.split()) for text in judge.asked]
    best = len(TEXT.split())
    for now in whole:
        assert best - 2 <= now <= best  # one more change breaks two words at most
        best = min(best, now)
    assert best == whole[-1]


def test_the_attacker_has_limits() -> None:
    judge = Judge(TEXT, stubborn=0.9)
    assert attacked(judge, queries=7).queries == len(judge.asked) == 7
    judge = Judge(TEXT, stubborn=0.9)
    found = attacked(judge, queries=100_000)
    assert found.label == GOOD
    room = TOUCHED[5] * len(TEXT.replace(" ", "")) + 1
    for text in judge.asked:
        assert abs(len(text) - len(TEXT)) <= room


def test_the_attacker_is_the_same_again_and_gives_up_on_nothing() -> None:
    one, other = Judge(TEXT), Judge(TEXT)
    assert attacked(one) == attacked(other)
    nothing = attacked(Judge("……"), "……")
    assert (nothing.text, nothing.label, nothing.queries) == ("……", GOOD, 0)


def said(suite: Robustness, right: Mapping[str, bool], clean: bool = True) -> dict[str, Any]:
    """A prediction that is right on these families, at every severity."""
    label = {True: GOOD, False: BAD}
    return {
        "clean": [label[clean], 0.8],
        "noise": {
            f"{name} {severity}": [label[right[name]], 0.6]
            for name in suite.families
            for severity in SEVERITIES
        },
        "attacked": None if not clean else BAD,
    }


def values(suite: Robustness, predictions: list[dict]) -> dict[str, float]:
    statistics = suite.statistics(suite.rows, predictions)
    found = {name: metric.estimate(statistics) for name, metric in suite.metrics.items()}
    assert all(e.low <= e.value <= e.high for e in found.values())
    return {name: estimate.value for name, estimate in found.items()}


def test_numbers_of_a_known_case() -> None:
    suite = Robustness([row(TEXT), row(f"{TEXT}!")], "en")
    none = dict.fromkeys(suite.families, False)
    some = none | {"drop": True, "homoglyph": True}
    found = values(suite, [said(suite, some), said(suite, none, clean=False)])
    assert next(iter(found)) == f"accuracy, severity {MIDDLE}"
    assert found["clean accuracy"] == 0.5
    assert found[f"accuracy, severity {MIDDLE}"] == pytest.approx(2 / 16)
    assert found["held-out noise, severity 3"] == 0.5
    assert found["drop, severity 3"] == 0.5
    assert found["case, severity 3"] == 0.0
    assert found["lost at severity 3"] == pytest.approx(0.5 - 2 / 16)
    assert found["consistency"] == pytest.approx((2 + 8) / 16)
    assert found["attack success"] == 1.0  # of the one row that was right
    assert found["calibration error"] == pytest.approx(abs(0.8 - 0.5))
    assert found["calibration error, severity 3"] == pytest.approx(abs(0.6 - 2 / 16))


def test_a_refused_row_counts_as_wrong() -> None:
    suite = Robustness([row(TEXT)], "en")
    found = values(suite, [{"refused": "too long"}])
    assert set(found.values()) == {0.0}


def test_versions_are_noise_of_every_family() -> None:
    suite = Robustness([row(TEXT)], "en")
    versions = suite.versions(suite.rows[0])
    assert len(versions) == len(families_for("en")) * len(SEVERITIES)
    assert versions["keyboard 3"] == noisy(TEXT, "keyboard", 3, SEED)
    assert all(text.strip() for text in suite.versions(row("a")).values())
    assert "zh-sound 3" in Robustness([row("好")], "zh").versions(row("好"))


def test_an_engine_is_asked_and_the_baseline_stands_the_same_test() -> None:
    train = [row(f"wonderful quick good {i}") for i in range(20)]
    train += [row(f"terrible slow bad {i}", BAD) for i in range(20)]
    suite = Robustness(
        [row("a wonderful and quick meal"), row("slow bad", BAD)], "en", lambda: train
    )

    async def ask() -> list[Any]:
        engine = SmallEngine()
        return [await suite.predict(engine, r) for r in suite.rows]

    predictions = asyncio.run(ask())
    assert [p.keys() for p in predictions] == [{"clean", "noise", "attacked"}] * 2
    for p, r in zip(predictions, suite.rows, strict=True):
        assert (p["attacked"] is not None) == (p["clean"][0] == r["label"])
    values(suite, predictions)
    (name, simple), *_ = suite.baselines(suite.rows).items()
    assert name.startswith("TF-IDF")
    found = values(suite, list(simple))
    assert found["clean accuracy"] == 1.0
    assert found["accuracy, severity 5"] <= found["accuracy, severity 1"]
    details = suite.details(suite.rows, simple)
    assert details["severity"]["drop"]["0"] == 1.0
    assert details["held_out"] == ["homoglyph"]
    asked, expected, answered = suite.show(suite.rows[0], simple[0])
    assert asked != suite.rows[0]["text"]
    assert (expected, answered) in ((GOOD, GOOD), (GOOD, BAD))
    assert Robustness([row("a")], "en").baselines([row("a")]) == {}


def test_it_is_a_suite_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "validation"
    folder.mkdir()
    rows = [row(f"{TEXT} {i}") for i in range(130)]
    lines = "".join(json.dumps(r) + "\n" for r in rows)
    (folder / "sentiment.sst2.jsonl").write_text(lines, encoding="utf-8")
    found, missing = load(["robustness"], tmp_path, [], 120)
    assert [(m.name, m.task, len(m.suite.rows)) for m in found] == [
        ("robustness.sst2", "robustness", 100)
    ]
    assert isinstance(found[0].suite, Robustness)
    assert set(missing) == {f"robustness.{s}" for s in ("agnews", "chnsenticorp", "toutiao")}
    both, _ = load(["sst2"], tmp_path, [], 0)
    assert [m.name for m in both] == ["sentiment.sst2", "robustness.sst2"]
