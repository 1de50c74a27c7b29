"""Edits as told: how many come out exactly right, beside leaving the text alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from everloop.engine.interface import Engine
from everloop.evaluate.estimate import Statistics
from everloop.evaluate.overlap import rouge_l
from everloop.evaluate.suite import Metric, Prediction, Row, Suite, mean, said, share
from everloop.tasks import edit
from everloop.tasks.ask import GREEDY, room_for


class Editing(Suite):
    """Columns: exactly right, ROUGE-L, 1."""

    needs = ("instruction", "src", "tgt")

    @property
    def metrics(self) -> Mapping[str, Metric]:
        return {"exact match": share(0, 2), "ROUGE-L": mean(1, 2)}

    def text_of(self, row: Row) -> str:
        return f"{row['instruction']}\n{row['src']}"

    async def predict(self, engine: Engine, row: Row) -> Prediction:
        choices = await edit(
            engine,
            text=row["src"],
            instruction=row["instruction"],
            max_tokens=room_for(row["src"]),
            sampling=GREEDY,
        )
        collected = await choices.collect()
        return {"text": collected.choices[0].text.strip()}

    def statistics(self, rows: Sequence[Row], predictions: Sequence[Prediction]) -> Statistics:
        texts = [said(prediction) for prediction in predictions]
        return np.array(
            [
                (text.strip() == row["tgt"].strip(), rouge_l(text, row["tgt"]), 1)
                for row, text in zip(rows, texts, strict=True)
            ],
            float,
        )

    def baselines(self, rows: Sequence[Row]) -> Mapping[str, Sequence[Prediction]]:
        return {"copy": [{"text": row["src"]} for row in rows]}

    def show(self, row: Row, prediction: Prediction) -> tuple[str, str, str]:
        return self.text_of(row), row["tgt"], said(prediction)
