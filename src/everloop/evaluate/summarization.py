"""Summaries and titles: ROUGE-L by character for Chinese, beside the first sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from everloop.engine.interface import Engine
from everloop.evaluate.estimate import Statistics
from everloop.evaluate.overlap import rouge_l
from everloop.evaluate.suite import Metric, Prediction, Row, Suite, mean, said
from everloop.tasks import summarize

_SENTENCE = re.compile(r".+?(?:[。！？；]|[.!?](?=\s|$)|\n|$)", re.S)


def sentences(text: str) -> list[str]:
    """The sentences of a text in either language."""
    return [part.strip() for part in _SENTENCE.findall(text) if part.strip()]


class Summarization(Suite):
    """Columns: ROUGE-L, 1."""

    needs = ("src", "tgt")

    @property
    def metrics(self) -> Mapping[str, Metric]:
        return {"ROUGE-L": mean(0, 1)}

    async def predict(self, engine: Engine, row: Row) -> Prediction:
        form = "title" if row["task"] == "title" else "sentence"
        reply = await summarize(
            engine, row["src"], form="title" if form == "title" else "sentence", lang=row["lang"]
        )
        return {"text": reply.text}

    def statistics(self, rows: Sequence[Row], predictions: Sequence[Prediction]) -> Statistics:
        values = [rouge_l(said(p), r["tgt"]) for r, p in zip(rows, predictions, strict=True)]
        return np.array([values, np.ones(len(rows))]).T

    def baselines(self, rows: Sequence[Row]) -> Mapping[str, Sequence[Prediction]]:
        first = [{"text": (sentences(row["src"]) or [""])[0]} for row in rows]
        return {"first sentence": first}

    def show(self, row: Row, prediction: Prediction) -> tuple[str, str, str]:
        return row["src"], row["tgt"], said(prediction)
