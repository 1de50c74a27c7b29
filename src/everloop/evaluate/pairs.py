"""Two sentences: what holds between them, and which of two is the grammatical one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from everloop.engine.interface import Engine, ScoreRequest
from everloop.evaluate.classification import Classification
from everloop.evaluate.estimate import Statistics
from everloop.evaluate.extras import load
from everloop.evaluate.suite import Metric, Prediction, Row, Suite, share

_JOINED = {"zh": "句子一：{}\n句子二：{}", "en": "Sentence 1: {}\nSentence 2: {}"}


class SentencePairs(Classification):
    """Same meaning, entailment and the like: a label for two sentences, asked as `classify`."""

    needs = ("first", "second", "label", "labels")
    ask_as = "classify"

    def text_of(self, row: Row) -> str:
        return _JOINED[row["lang"]].format(row["first"], row["second"])

    def _features(self, vectorizer: Any, rows: Sequence[Row]) -> Any:
        """TF-IDF of both sentences, their difference, and how alike they are."""
        first = vectorizer.transform([row["first"] for row in rows])
        second = vectorizer.transform([row["second"] for row in rows])
        alike = np.asarray(first.multiply(second).sum(axis=1))
        return load("scipy.sparse").hstack([first, second, abs(first - second), alike]).tocsr()

    def _fit(self, vectorizer: Any) -> None:
        vectorizer.fit([row[part] for row in self.train for part in ("first", "second")])


class MinimalPairs(Suite):
    """Of two sentences that differ in one point, the grammatical one should be likelier (Warstadt
    et al. 2020, "simple LM method"). Columns: right, 1.

    A row's `phenomenon` names the point; sentences are scored from the beginning of a text.
    """

    needs = ("good", "bad")

    def text_of(self, row: Row) -> str:
        return f"{row['good']}\n{row['bad']}"

    @property
    def metrics(self) -> Mapping[str, Metric]:
        return {"accuracy": share(0, 1)}

    async def predict(self, engine: Engine, row: Row) -> Prediction:
        request = ScoreRequest(prompt="", continuations=(row["good"], row["bad"]))
        good, bad = await engine.score(request)
        return {"good": good.total, "bad": bad.total}

    def statistics(self, rows: Sequence[Row], predictions: Sequence[Prediction]) -> Statistics:
        """Two that are equally likely are half right."""
        above = [p.get("good", 0.0) - p.get("bad", 1.0) for p in predictions]
        return np.array([(np.sign(above) + 1) / 2, np.ones(len(rows))], float).T

    def baselines(self, rows: Sequence[Row]) -> Mapping[str, Sequence[Prediction]]:
        """The shorter sentence, to which products of probabilities lean anyway."""
        lengths = [(len(row["good"]), len(row["bad"])) for row in rows]
        return {"shorter sentence": [{"good": float(-g), "bad": float(-b)} for g, b in lengths]}

    def details(self, rows: Sequence[Row], predictions: Sequence[Prediction]) -> dict[str, Any]:
        """`phenomena`: right and rows of each."""
        found: dict[str, list[float]] = defaultdict(lambda: [0, 0])
        table = self.statistics(rows, predictions)
        for row, (right, _) in zip(rows, table, strict=True):
            counts = found[str(row.get("phenomenon", ""))]
            counts[0] += float(right)
            counts[1] += 1
        return {"phenomena": dict(sorted(found.items()))} if set(found) != {""} else {}

    def show(self, row: Row, prediction: Prediction) -> tuple[str, str, str]:
        chosen = prediction.get("good", 0.0) > prediction.get("bad", 0.0)
        return self.text_of(row), row["good"], row["good" if chosen else "bad"]
