"""Translation: chrF and BLEU by sacreBLEU, beside a dictionary learnt from the training pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from everloop.engine.interface import Engine
from everloop.evaluate.dictionary import Dictionary
from everloop.evaluate.estimate import Statistics
from everloop.evaluate.extras import load
from everloop.evaluate.suite import Metric, Prediction, Row, Suite, said, with_references
from everloop.tasks import translate


class Translation(Suite):
    """Columns: chrF's statistics, then BLEU's; a row has every reference of its source text."""

    needs = ("src", "tgt", "target")

    def __init__(
        self, rows: Sequence[Row], lang: str, train: Callable[[], Sequence[Row]] = tuple
    ) -> None:
        super().__init__(rows, lang, train)
        metrics = load("sacrebleu.metrics")
        self._target = str(self.rows[0]["target"])
        self._chrf: Any = metrics.CHRF()
        self._bleu: Any = metrics.BLEU(tokenize="zh" if self._target == "zh" else "13a")
        self._split = 0  # columns of chrF

    def prepare(self, rows: Sequence[Row]) -> Sequence[Row]:
        return with_references(rows)

    @property
    def metrics(self) -> Mapping[str, Metric]:
        return {
            "chrF": Metric(of=self._chrf_of, percent=False),
            "BLEU": Metric(of=self._bleu_of, percent=False),
        }

    async def predict(self, engine: Engine, row: Row) -> Prediction:
        target = str(row["target"])
        reply = await translate(
            engine, row["src"], source="en" if target == "zh" else "zh", target=target
        )
        return {"text": reply.text}

    def statistics(self, rows: Sequence[Row], predictions: Sequence[Prediction]) -> Statistics:
        hypotheses = [said(prediction) for prediction in predictions]
        most = max(len(row["references"]) for row in rows)
        # sacreBLEU wants as many references for each row; None stands for one that is missing.
        references = [
            [row["references"][i] if i < len(row["references"]) else None for row in rows]
            for i in range(most)
        ]
        # The statistics of each row, as sacreBLEU's own significance tests take them: the corpus
        # score is that of their sum.
        chrf = self._chrf._extract_corpus_statistics(hypotheses, references)
        bleu = self._bleu._extract_corpus_statistics(hypotheses, references)
        self._split = len(chrf[0])
        return np.concatenate([np.array(chrf, float), np.array(bleu, float)], axis=1)

    def _chrf_of(self, total: Statistics) -> float:
        return float(self._chrf._compute_score_from_stats(list(total[: self._split])).score)

    def _bleu_of(self, total: Statistics) -> float:
        counts = [int(n) for n in total[self._split :]]
        return float(self._bleu._compute_score_from_stats(counts).score)

    def baselines(self, rows: Sequence[Row]) -> Mapping[str, Sequence[Prediction]]:
        if not self.train:
            return {}
        pairs = [(row["src"], row["tgt"]) for row in self.train]
        dictionary = Dictionary.learn(pairs, target=self._target)
        return {"word-for-word dictionary": [{"text": dictionary(row["src"])} for row in rows]}

    def show(self, row: Row, prediction: Prediction) -> tuple[str, str, str]:
        return row["src"], " / ".join(row["references"]), said(prediction)
