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
FIXED = 8  # columns before those of the bigrams


class Dialogue(Suite):
    """Columns: 4-grams that repeat, 4-grams, replies in the prompt's language, replies that came
    to an end, empty replies, replies, units, bigrams; then one for each different bigram."""

    needs = ("prompt",)

    @property
    def metrics(self) -> Mapping[str, Metric]:
        return {
            "repetition-4": mean(0, 1, higher_is_better=False),
            "distinct-2": Metric(of=_distinct, resampled=False),
            "in the language asked": share(2, 5),
            "came to an end": share(3, 5),
            "empty": share(4, 5, higher_is_better=False),
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
        bigrams = [ngrams(units(said(prediction)), 2) for prediction in predictions]
        column: dict[tuple[str, ...], int] = {}
        for each in bigrams:
            for gram in each:
                column.setdefault(gram, FIXED + len(column))
        table = np.zeros((len(rows), FIXED + len(column)))
        for i, (row, prediction) in enumerate(zip(rows, predictions, strict=True)):
            text = said(prediction)
            table[i, :2] = repeated(text, 4)
            table[i, 2] = bool(text.strip()) and language_of(text) == row["lang"]
            table[i, 3] = prediction.get("finish_reason") == "stop"
            table[i, 4:8] = not text.strip(), 1, len(units(text)), len(bigrams[i])
            for gram in bigrams[i]:
                table[i, column[gram]] += 1
        return table

    def baselines(self, rows: Sequence[Row]) -> Mapping[str, Sequence[Prediction]]:
        return {}

    def show(self, row: Row, prediction: Prediction) -> tuple[str, str, str]:
        return row["prompt"], "", said(prediction)


def _distinct(total: Statistics) -> float:
    """Different bigrams over all (Li et al. 2016)."""
    return float((total[FIXED:] > 0).sum() / total[7]) if total[7] else 0.0


def prompts(lang: str) -> list[dict[str, Any]]:
    """The prompts of a language, as rows."""
    text = (files("everloop.evaluate") / "prompts" / f"{lang}.txt").read_text("utf-8")
    return [{"task": "dialogue", "lang": lang, "prompt": p} for p in text.splitlines() if p]
