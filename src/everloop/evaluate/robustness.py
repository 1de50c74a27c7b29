"""How a classification stands up to dirty input: accuracy by family and severity of noise, how many
predictions stay what they were, calibration, and what a greedy attacker reaches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from everloop.data.noise import HELD_OUT, families_for, noisy
from everloop.engine.interface import Engine
from everloop.evaluate.attack import attack
from everloop.evaluate.classification import BINS, Classification
from everloop.evaluate.estimate import Statistics
from everloop.evaluate.suite import Metric, Prediction, Row, mean
from everloop.tasks import classify

ROWS: Final = 100
"""Rows that are asked, each some forty times."""

SEVERITIES: Final = (1, 3, 5)
MIDDLE: Final = 3
QUERIES: Final = 20
SEED: Final = 1 << 32
"""Far from the seeds of training, which are hashes of examples."""

Said = tuple[str, float | None]
"""Label, and its probability where the engine scores labels."""


class Robustness(Classification):
    """A row is asked clean, with every family of noise at three severities, and by the attacker if
    its clean answer is right. Intervals are over rows, so that the versions of one don't count as
    independent.

    Columns: clean right, 1; attacked, that succeeded; right, unchanged and 1 of each family at
    each severity; bins of confidence, clean and at the middle severity.
    """

    @property
    def families(self) -> tuple[str, ...]:
        return families_for("zh" if self.lang == "zh" else "en")

    def prepare(self, rows: Sequence[Row]) -> Sequence[Row]:
        return rows[:ROWS]

    @property
    def metrics(self) -> Mapping[str, Metric]:
        held_out = [name for name in self.families if name in HELD_OUT]
        return {
            f"accuracy, severity {MIDDLE}": self._accuracy(self.families, MIDDLE),
            "clean accuracy": mean(0, 1),
            **{
                f"accuracy, severity {severity}": self._accuracy(self.families, severity)
                for severity in SEVERITIES
                if severity != MIDDLE
            },
            f"held-out noise, severity {MIDDLE}": self._accuracy(held_out, MIDDLE),
            f"lost at severity {MIDDLE}": Metric(
                of=lambda t: float(t[0] / t[1] - self._rate(t, self.families, MIDDLE, 0)),
                higher_is_better=False,
            ),
            "consistency": Metric(of=lambda t: self._rate(t, self.families, MIDDLE, 1)),
            "attack success": Metric(
                of=lambda t: float(t[3] / t[2]) if t[2] else 0.0, higher_is_better=False
            ),
            "calibration error": self._calibration(0),
            f"calibration error, severity {MIDDLE}": self._calibration(1),
            **{
                f"{name}, severity {MIDDLE}": self._accuracy([name], MIDDLE)
                for name in self.families
            },
        }

    def _accuracy(self, families: Sequence[str], severity: int) -> Metric:
        return Metric(of=lambda total: self._rate(total, families, severity, 0))

    def _rate(self, total: Statistics, families: Sequence[str], severity: int, what: int) -> float:
        """Of these families: the share that is right (0) or unchanged (1)."""
        at = [self._column(name, severity) for name in families]
        tries = sum(total[c + 2] for c in at)
        return float(sum(total[c + what] for c in at) / tries) if tries else 0.0

    def _column(self, family: str, severity: int) -> int:
        number = self.families.index(family) * len(SEVERITIES) + SEVERITIES.index(severity)
        return 4 + 3 * number

    @property
    def _bins(self) -> int:
        return 4 + 3 * len(self.families) * len(SEVERITIES)

    def _calibration(self, which: int) -> Metric:
        start = self._bins + 3 * BINS * which

        def error(total: Statistics) -> float:
            count, sure, right = total[start : start + 3 * BINS].reshape(-1, 3).T
            return float(np.abs(sure - right).sum() / count.sum()) if count.any() else 0.0

        return Metric(of=error, higher_is_better=False)

    async def predict(self, engine: Engine, row: Row) -> Prediction:
        async def odds(text: str) -> tuple[Said, Mapping[str, float]]:
            chosen = await classify(engine, text, row["labels"], task=row["task"], lang=row["lang"])
            sure = chosen.probability if chosen.scored else None
            return (chosen.label, sure), chosen.probabilities

        async def ask(text: str) -> Mapping[str, float]:
            return (await odds(text))[1]

        clean = (await odds(row["text"]))[0]
        noise = {key: (await odds(text))[0] for key, text in self.versions(row).items()}
        found = None
        if clean[0] == row["label"]:
            found = await attack(
                ask, row["text"], row["label"], families=self.families, queries=QUERIES, seed=SEED
            )
        return _prediction(clean, noise, found.label if found else None)

    def versions(self, row: Row) -> dict[str, str]:
        """The row's text with noise, by `FAMILY SEVERITY`; where nothing can be touched, as it
        is. No text is left empty."""
        return {
            f"{name} {severity}": noisy(row["text"], name, severity, SEED).strip() or row["text"]
            for name in self.families
            for severity in SEVERITIES
        }

    def statistics(self, rows: Sequence[Row], predictions: Sequence[Prediction]) -> Statistics:
        table = np.zeros((len(rows), self._bins + 6 * BINS))
        for i, (row, prediction) in enumerate(zip(rows, predictions, strict=True)):
            table[i, 1] = 1
            clean, noise = prediction.get("clean", ("", None)), prediction.get("noise", {})
            table[i, 0] = clean[0] == row["label"]
            if prediction.get("attacked") is not None:
                table[i, 2:4] = 1, prediction["attacked"] != row["label"]
            self._bin(table[i], 0, clean, row["label"])
            for name in self.families:
                for severity in SEVERITIES:
                    said = noise.get(f"{name} {severity}", ("", None))
                    at = self._column(name, severity)
                    table[i, at : at + 3] = said[0] == row["label"], said[0] == clean[0] != "", 1
                    if severity == MIDDLE:
                        self._bin(table[i], 1, said, row["label"])
        return table

    def _bin(self, line: Statistics, which: int, said: Sequence[Any], actual: str) -> None:
        label, sure = said
        if sure is not None:
            at = self._bins + 3 * (BINS * which + min(int(sure * BINS), BINS - 1))
            line[at : at + 3] += 1, sure, label == actual

    def baselines(self, rows: Sequence[Row]) -> Mapping[str, Sequence[Prediction]]:
        """A regression that learns from the training rows, under the same noise and attack."""
        if len({row["label"] for row in self.train}) < 2:
            return {}
        vectorizer, model = self._learnt()
        names = [str(name) for name in model.classes_]

        def answer(text: str) -> Mapping[str, float]:
            odds = model.predict_proba(vectorizer.transform([text]))[0].tolist()
            return dict(sorted(zip(names, odds, strict=True), key=lambda item: -item[1]))

        return {"TF-IDF + logistic regression": [self._stood(row, answer) for row in rows]}

    def _stood(self, row: Row, answer: Callable[[str], Mapping[str, float]]) -> Prediction:
        def said(text: str) -> Said:
            return next(iter(answer(text).items()))

        async def ask(text: str) -> Mapping[str, float]:
            return answer(text)

        clean = said(row["text"])
        noise = {key: said(text) for key, text in self.versions(row).items()}
        found = None
        if clean[0] == row["label"]:
            found = asyncio.run(
                attack(
                    ask,
                    row["text"],
                    row["label"],
                    families=self.families,
                    queries=QUERIES,
                    seed=SEED,
                )
            )
        return _prediction(clean, noise, found.label if found else None)

    def details(self, rows: Sequence[Row], predictions: Sequence[Prediction]) -> dict[str, Any]:
        """`severity`: accuracy by family and severity, 0 being clean."""
        total = self.statistics(rows, predictions).sum(0)
        clean = float(total[0] / total[1])
        return {
            "severity": {
                name: {
                    "0": clean,
                    **{str(s): self._rate(total, [name], s, 0) for s in SEVERITIES},
                }
                for name in self.families
            },
            "held_out": [name for name in self.families if name in HELD_OUT],
        }

    def show(self, row: Row, prediction: Prediction) -> tuple[str, str, str]:
        versions = self.versions(row)
        key = next((k for k in versions if k.endswith(str(MIDDLE)) and versions[k] != row["text"]),
                   next(iter(versions)))  # fmt: skip
        return versions[key], row["label"], str(prediction.get("noise", {}).get(key, [""])[0])


def _prediction(clean: Said, noise: Mapping[str, Said], attacked: str | None) -> Prediction:
    return {
        "clean": list(clean),
        "noise": {key: list(said) for key, said in noise.items()},
        "attacked": attacked,
    }
