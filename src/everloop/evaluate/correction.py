"""Correction of mistakes by sentence: precision, recall, F0.5, and harm to correct text."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from everloop.engine.interface import Engine
from everloop.evaluate.estimate import Statistics
from everloop.evaluate.suite import Metric, Prediction, Row, Suite, said, share, with_references
from everloop.tasks import correct

RIGHT, CHANGED, WRONG, CORRECT, HARMED = range(5)


def f_half(total: Statistics) -> float:
    """F0.5 of corrected sentences: precision counts twice as much as recall."""
    if not total[RIGHT]:
        return 0.0
    precision, recall = total[RIGHT] / total[CHANGED], total[RIGHT] / total[WRONG]
    return float(1.25 * precision * recall / (0.25 * precision + recall))


class Correction(Suite):
    """Columns: sentences made right, changed, wrong before, correct before, correct but changed.

    As in SIGHAN's correction level: a sentence counts only if all of it is as it should be. Rows
    with one `src` give several right answers (JFLEG has four); a sentence that is one of its own
    is correct.
    """

    needs = ("src", "tgt")

    def prepare(self, rows: Sequence[Row]) -> Sequence[Row]:
        return with_references(rows)

    @property
    def metrics(self) -> Mapping[str, Metric]:
        return {
            "F0.5": Metric(of=f_half),
            "precision": share(RIGHT, CHANGED),
            "recall": share(RIGHT, WRONG),
            "harm to correct text": share(HARMED, CORRECT, higher_is_better=False),
        }

    async def predict(self, engine: Engine, row: Row) -> Prediction:
        reply = await correct(engine, row["src"], lang=row["lang"])
        return {"text": reply.text}

    def statistics(self, rows: Sequence[Row], predictions: Sequence[Prediction]) -> Statistics:
        table = np.zeros((len(rows), 5))
        for i, (row, prediction) in enumerate(zip(rows, predictions, strict=True)):
            before, right = row["src"].strip(), {each.strip() for each in row["references"]}
            # A text that the engine couldn't take stays as it was.
            text = before if "refused" in prediction else said(prediction).strip()
            changed, wrong = text != before, before not in right
            table[i] = wrong and text in right, changed, wrong, not wrong, changed and not wrong
        return table

    def baselines(self, rows: Sequence[Row]) -> Mapping[str, Sequence[Prediction]]:
        copied: list[Prediction] = [{"text": row["src"]} for row in rows]
        if not self.train:
            return {"copy": copied}
        table = ConfusionTable([(row["src"], row["tgt"]) for row in self.train], self.lang)
        return {
            "confusion table": [{"text": table(row["src"])} for row in rows],
            "copy": copied,
        }

    def show(self, row: Row, prediction: Prediction) -> tuple[str, str, str]:
        return row["src"], " / ".join(row["references"]), said(prediction)


class ConfusionTable:
    """Replaces a character (English: a word) where, beside the same neighbour, the training pairs
    replaced it more often than not."""

    def __init__(self, pairs: Sequence[tuple[str, str]], lang: str) -> None:
        self._space = " " if lang == "en" else ""
        seen: Counter[tuple[str, str, str]] = Counter()
        replaced: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
        for before, after in pairs:
            a, b = self._split(before), self._split(after)
            if len(a) != len(b):
                continue
            for i, (x, y) in enumerate(zip(a, b, strict=True)):
                for context in self._contexts(a, i):
                    seen[context] += 1
                    if x != y:
                        replaced[context][y] += 1
        self._rules = {}
        for context, counts in replaced.items():
            right, times = counts.most_common(1)[0]
            if times >= 2 and times > seen[context] / 2:
                self._rules[context] = right

    def _split(self, text: str) -> list[str]:
        return text.split(" ") if self._space else list(text)

    @staticmethod
    def _contexts(tokens: Sequence[str], i: int) -> list[tuple[str, str, str]]:
        before = tokens[i - 1] if i else ""
        after = tokens[i + 1] if i + 1 < len(tokens) else ""
        return [("before", before, tokens[i]), ("after", after, tokens[i])]

    def __call__(self, text: str) -> str:
        tokens = self._split(text)
        out = list(tokens)
        for i in range(len(tokens)):
            for context in self._contexts(tokens, i):
                out[i] = self._rules.get(context, out[i])
        return self._space.join(out)
