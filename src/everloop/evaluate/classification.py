"""Choosing a label: accuracy, macro-F1 and calibration, beside TF-IDF with logistic regression."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from everloop.engine.interface import Engine
from everloop.evaluate.estimate import Statistics
from everloop.evaluate.extras import load
from everloop.evaluate.suite import Metric, Prediction, Row, Suite, share
from everloop.tasks import classify

BINS = 10  # of the calibration error
CONFUSIONS = 8  # named in the report


class Classification(Suite):
    """Columns: right, 1; then right, predicted and actual of each label; then rows, confidence and
    right of each bin of confidence."""

    needs: ClassVar[tuple[str, ...]] = ("text", "label", "labels")
    ask_as: ClassVar[str] = ""
    """The task whose instruction is used, where it isn't the row's own."""

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels, as the rows list them."""
        return tuple(self.rows[0]["labels"])

    @property
    def metrics(self) -> Mapping[str, Metric]:
        return {
            "accuracy": share(0, 1),
            "macro-F1": Metric(of=self._macro_f1),
            "calibration error": Metric(of=self._calibration_error, higher_is_better=False),
        }

    async def predict(self, engine: Engine, row: Row) -> Prediction:
        chosen = await classify(
            engine,
            self.text_of(row),
            row["labels"],
            task=self.ask_as or row["task"],
            lang=row["lang"],
        )
        return {
            "label": chosen.label,
            "probability": chosen.probability if chosen.scored else None,
        }

    def statistics(self, rows: Sequence[Row], predictions: Sequence[Prediction]) -> Statistics:
        index = {label: i for i, label in enumerate(self.labels)}
        bins = 2 + 3 * len(index)
        table = np.zeros((len(rows), bins + 3 * BINS))
        table[:, 1] = 1
        for i, (row, prediction) in enumerate(zip(rows, predictions, strict=True)):
            label, actual = prediction.get("label"), row["label"]
            right = label == actual
            table[i, 0] = right
            if actual in index:
                table[i, 2 + 3 * index[actual]] = right
                table[i, 4 + 3 * index[actual]] = 1
            if label in index:
                table[i, 3 + 3 * index[label]] = 1
            sure = prediction.get("probability")
            if sure is not None:
                b = bins + 3 * min(int(sure * BINS), BINS - 1)
                table[i, b : b + 3] = 1, sure, right
        return table

    def _macro_f1(self, total: Statistics) -> float:
        """Mean F1 of the labels that occur or are predicted."""
        right, predicted, actual = total[2 : 2 + 3 * len(self.labels)].reshape(-1, 3).T
        seen = predicted + actual > 0
        return float(np.mean(2 * right[seen] / (predicted + actual)[seen])) if seen.any() else 0.0

    def _calibration_error(self, total: Statistics) -> float:
        """Expected calibration error (Naeini et al. 2015) in BINS equal bins."""
        count, sure, right = total[2 + 3 * len(self.labels) :].reshape(-1, 3).T
        return float(np.abs(sure - right).sum() / count.sum()) if count.any() else 0.0

    def baselines(self, rows: Sequence[Row]) -> Mapping[str, Sequence[Prediction]]:
        if not self.train:
            return {}
        counts = Counter(row["label"] for row in self.train)
        common, times = min(counts.items(), key=lambda item: (-item[1], item[0]))
        constant = {"label": common, "probability": times / counts.total()}
        found: dict[str, Sequence[Prediction]] = {}
        if len(counts) > 1:
            found["TF-IDF + logistic regression"] = self._regression(rows)
        return {**found, "most frequent label": [constant] * len(rows)}

    def _regression(self, rows: Sequence[Row]) -> list[Prediction]:
        vectorizer, model = self._learnt()
        odds = model.predict_proba(self._features(vectorizer, rows))
        return [
            {"label": str(model.classes_[best]), "probability": float(each[best])}
            for each, best in zip(odds, odds.argmax(1), strict=True)
        ]

    def _learnt(self) -> tuple[Any, Any]:
        """Vectorizer and regression. Word 1- and 2-grams, for Chinese those of characters; C = 10,
        the better of 1 and 10 on most sets."""
        vectorizer = load("sklearn.feature_extraction.text").TfidfVectorizer(
            analyzer="char" if self.lang == "zh" else "word",
            ngram_range=(1, 2),
            min_df=2 if len(self.train) > 1000 else 1,
            sublinear_tf=True,
        )
        model = load("sklearn.linear_model").LogisticRegression(C=10, max_iter=300)
        self._fit(vectorizer)
        model.fit(self._features(vectorizer, self.train), [row["label"] for row in self.train])
        return vectorizer, model

    def _fit(self, vectorizer: Any) -> None:
        vectorizer.fit([row["text"] for row in self.train])

    def _features(self, vectorizer: Any, rows: Sequence[Row]) -> Any:
        return vectorizer.transform([row["text"] for row in rows])

    def details(self, rows: Sequence[Row], predictions: Sequence[Prediction]) -> dict[str, Any]:
        """`reliability`: rows, confidence and right of each bin; `labels`: right, predicted and
        actual of each; `confusions`: the commonest (actual, predicted, rows)."""
        total = self.statistics(rows, predictions).sum(0)
        bins = 2 + 3 * len(self.labels)
        mistaken = Counter(
            (row["label"], prediction.get("label", ""))
            for row, prediction in zip(rows, predictions, strict=True)
            if row["label"] != prediction.get("label")
        )
        return {
            "reliability": total[bins:].reshape(-1, 3).tolist(),
            "labels": dict(zip(self.labels, total[2:bins].reshape(-1, 3).tolist(), strict=True)),
            "confusions": [[*pair, n] for pair, n in mistaken.most_common(CONFUSIONS)],
        }

    def show(self, row: Row, prediction: Prediction) -> tuple[str, str, str]:
        return self.text_of(row), row["label"], str(prediction.get("label", ""))
