"""Questions on a passage: exact match and F1 by character for Chinese, and honest refusals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from everloop.data.instructions import NOT_IN_PASSAGE
from everloop.engine.interface import Engine
from everloop.evaluate.estimate import Statistics
from everloop.evaluate.overlap import exact, f1, units
from everloop.evaluate.suite import Metric, Prediction, Row, Suite, mean, said, share
from everloop.evaluate.summarization import sentences
from everloop.tasks import answer

_REFUSALS = frozenset(NOT_IN_PASSAGE.values())


class Reading(Suite):
    """Columns: F1, exact, 1 of questions with an answer; refused and 1 of those without; wrongly
    refused. A question without an answer has the refusal as its only right one."""

    needs = ("passage", "question", "answers")

    @property
    def metrics(self) -> Mapping[str, Metric]:
        metrics = {
            "F1": mean(0, 2),
            "exact match": share(1, 2),
            "refused though answered": share(5, 2, higher_is_better=False),
        }
        if any(_REFUSALS.issuperset(row["answers"]) for row in self.rows):
            metrics["refused where unanswered"] = share(3, 4)
        return metrics

    def text_of(self, row: Row) -> str:
        return f"{row['passage']} {row['question']}"

    async def predict(self, engine: Engine, row: Row) -> Prediction:
        reply = await answer(engine, row["question"], row["passage"], lang=row["lang"])
        return {"text": reply.text, "found": reply.found}

    def statistics(self, rows: Sequence[Row], predictions: Sequence[Prediction]) -> Statistics:
        table = np.zeros((len(rows), 6))
        for i, (row, prediction) in enumerate(zip(rows, predictions, strict=True)):
            text, found = said(prediction), bool(prediction.get("found", True))
            if _REFUSALS.issuperset(row["answers"]):
                table[i, 3:5] = not found, 1
            else:
                right = row["answers"]
                table[i, :3] = f1(text, right), exact(text, right), 1
                table[i, 5] = not found
        return table

    def baselines(self, rows: Sequence[Row]) -> Mapping[str, Sequence[Prediction]]:
        """The sentence that shares most units with the question."""

        def nearest(row: Row) -> str:
            asked = set(units(row["question"]))
            return max(
                sentences(row["passage"]), key=lambda s: len(asked & set(units(s))), default=""
            )

        return {"sentence most like the question": [{"text": nearest(row)} for row in rows]}

    def show(self, row: Row, prediction: Prediction) -> tuple[str, str, str]:
        return self.text_of(row), " / ".join(row["answers"]), said(prediction)
