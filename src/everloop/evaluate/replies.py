"""Replies that people gave in a conversation: how well the model foresees them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from everloop.engine.interface import Engine, Message, ScoreRequest
from everloop.evaluate.estimate import Statistics
from everloop.evaluate.overlap import units
from everloop.evaluate.suite import Metric, Prediction, Row, Suite

UNSEEN = math.log(1 << 16)  # nats of a character that no training row has


class Replies(Suite):
    """Perplexity of the reference reply after the messages, by word, for Chinese by character, so
    that tokenizers don't matter. Columns: nats, units, bytes."""

    needs = ("messages", "reference")

    @property
    def metrics(self) -> Mapping[str, Metric]:
        def perplexity(total: Statistics) -> float:
            return math.exp(min(total[0] / total[1], 700)) if total[1] else 0.0

        def bits(total: Statistics) -> float:
            return float(total[0] / total[2] / math.log(2)) if total[2] else 0.0

        return {
            "perplexity": Metric(of=perplexity, higher_is_better=False, percent=False),
            "bits per byte": Metric(of=bits, higher_is_better=False, percent=False),
        }

    def text_of(self, row: Row) -> str:
        return "\n".join(str(message["content"]) for message in row["messages"])

    async def predict(self, engine: Engine, row: Row) -> Prediction:
        prompt = tuple(Message(role=m["role"], content=m["content"]) for m in row["messages"])
        request = ScoreRequest(prompt=prompt, continuations=(row["reference"],))
        (score,) = await engine.score(request)
        return {"nats": -score.total}

    def statistics(self, rows: Sequence[Row], predictions: Sequence[Prediction]) -> Statistics:
        """A conversation that doesn't fit costs as much as characters never seen."""
        table = np.zeros((len(rows), 3))
        for i, (row, prediction) in enumerate(zip(rows, predictions, strict=True)):
            text = row["reference"]
            nats = prediction.get("nats", UNSEEN * len(text))
            table[i] = nats, len(units(text)), len(text.encode("utf-8", "surrogatepass"))
        return table

    def baselines(self, rows: Sequence[Row]) -> Mapping[str, Sequence[Prediction]]:
        if not self.train:
            return {}
        model = Characters(row["reference"] for row in self.train)
        return {"n-gram model": [{"nats": model.nats(row["reference"])} for row in rows]}

    def show(self, row: Row, prediction: Prediction) -> tuple[str, str, str]:
        each = prediction.get("nats", 0.0) / max(len(units(row["reference"])), 1)
        return self.text_of(row), row["reference"], f"perplexity {math.exp(min(each, 700)):.1f}"


class Characters:
    """An n-gram model of characters with Witten and Bell's interpolation (1991)."""

    ORDER = 4

    def __init__(self, texts: Iterable[str]) -> None:
        self._counts: Counter[str] = Counter()  # by context and character
        self._total: Counter[str] = Counter()  # by context
        self._kinds: Counter[str] = Counter()  # different characters by context
        for text in texts:
            padded = "\n" * (self.ORDER - 1) + text
            for i in range(self.ORDER - 1, len(padded)):
                for n in range(self.ORDER):
                    context = padded[i - n : i]
                    seen = f"{context}{padded[i]}\0{n}"
                    self._kinds[context] += not self._counts[seen]
                    self._counts[seen] += 1
                    self._total[context] += 1

    def nats(self, text: str) -> float:
        """-log p(text)."""
        padded = "\n" * (self.ORDER - 1) + text
        spent = 0.0
        for i in range(self.ORDER - 1, len(padded)):
            p = math.exp(-UNSEEN)
            for n in range(self.ORDER):
                context = padded[i - n : i]
                total, kinds = self._total[context], self._kinds[context]
                if total:
                    count = self._counts[f"{context}{padded[i]}\0{n}"]
                    p = (count + kinds * p) / (total + kinds)
            spent -= math.log(p)
        return spent
