"""Small talk: how varied and how repetitive the replies are, all of them shown, none selected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np

from everloop.engine.interface import Engine, GenerateRequest, Message, Sampling
from everloop.evaluate.estimate import Statistics
from everloop.evaluate.overlap import ngrams, repeated, units
from everloop.evaluate.suite import Metric, Prediction, Row, Suite, mean, said, share
from everloop.tasks import converse
from everloop.tasks.language import language_of

SEED = 1
SAMPLING = Sampling(temperature=0.7, top_p=0.9, seed=SEED)
MAX_TOKENS = 96
FIXED = 8  # columns before those of the different n-grams


class Dialogue(Suite):
    """Columns: 4-grams that repeat, 4-grams, replies in the prompt's language, replies that came
    to an end, empty replies, replies, units, bigrams; then one for each different unit, and one
    for each different bigram."""

    needs = ("prompt",)
    _kinds = 0  # of units

    @property
    def metrics(self) -> Mapping[str, Metric]:
        return {
            "repetition-4": mean(0, 1, higher_is_better=False),
            "distinct-2": Metric(of=self._distinct_2, resampled=False),
            "in the language asked": share(2, 5),
            "came to an end": share(3, 5),
            "empty": share(4, 5, higher_is_better=False),
            "distinct-1": Metric(of=self._distinct_1, resampled=False),
            "words a reply": Metric(of=lambda t: float(t[6] / max(t[5], 1)), percent=False),
        }

    async def predict(self, engine: Engine, row: Row) -> Prediction:
        request = GenerateRequest(
            prompt=(Message(role="user", content=row["prompt"]),),
            sampling=SAMPLING,
            max_tokens=MAX_TOKENS,
            stream=False,
        )
        collected = await (await converse(engine, request)).collect()
        choice = collected.choices[0]
        return {"text": choice.text, "finish_reason": choice.finish_reason}

    def statistics(self, rows: Sequence[Row], predictions: Sequence[Prediction]) -> Statistics:
        said_units = [units(said(prediction)) for prediction in predictions]
        bigrams = [ngrams(each, 2) for each in said_units]
        column: dict[tuple[str, ...], int] = {}
        for words in said_units:
            for word in words:
                column.setdefault((word,), FIXED + len(column))
        self._kinds = len(column)
        for pairs in bigrams:
            for pair in pairs:
                column.setdefault(pair, FIXED + len(column))
        table = np.zeros((len(rows), FIXED + len(column)))
        for i, (row, prediction) in enumerate(zip(rows, predictions, strict=True)):
            text = said(prediction)
            table[i, :2] = repeated(text, 4)
            table[i, 2] = bool(text.strip()) and language_of(text) == row["lang"]
            table[i, 3] = prediction.get("finish_reason") == "stop"
            table[i, 4:8] = not text.strip(), 1, len(said_units[i]), len(bigrams[i])
            for gram in (*ngrams(said_units[i], 1), *bigrams[i]):
                table[i, column[gram]] += 1
        return table

    def baselines(self, rows: Sequence[Row]) -> Mapping[str, Sequence[Prediction]]:
        return {}

    def show(self, row: Row, prediction: Prediction) -> tuple[str, str, str]:
        return row["prompt"], "", said(prediction)

    def _distinct_1(self, total: Statistics) -> float:
        """Different units over all (Li et al. 2016)."""
        different = (total[FIXED : FIXED + self._kinds] > 0).sum()
        return float(different / total[6]) if total[6] else 0.0

    def _distinct_2(self, total: Statistics) -> float:
        """Different bigrams over all."""
        different = (total[FIXED + self._kinds :] > 0).sum()
        return float(different / total[7]) if total[7] else 0.0


def prompts(lang: str) -> list[dict[str, Any]]:
    """The prompts of a language, as rows."""
    text = (files("everloop.evaluate") / "prompts" / f"{lang}.txt").read_text("utf-8")
    return [{"task": "dialogue", "lang": lang, "prompt": p} for p in text.splitlines() if p]
