"""Bits per byte of text that the model has not seen: comparable between models and tokenizers.

The text is cut into windows of a fixed number of characters. The first few of each are given, the
rest is scored: -log2 p(rest | beginning) over the rest's UTF-8 bytes.
"""

from __future__ import annotations

import lzma
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from everloop.data.files import sha256_file
from everloop.data.pack import PackedDataset
from everloop.data.read import read
from everloop.engine.interface import Engine, ScoreRequest
from everloop.errors import DataError, InvalidRequest
from everloop.evaluate.estimate import Statistics
from everloop.evaluate.suite import Metric, Prediction, Row, Suite
from everloop.model.tokenizer import Tokenizer
from everloop.tasks.language import language_of

GIVEN = {"zh": 16, "en": 48}  # characters that are not scored
WINDOW = {"zh": 320, "en": 960}  # characters in all: about as many tokens in both languages
SHORTEST = 0.5  # a rest below this share of a window is left out


class HeldOut(Suite):
    """Columns: nats, bytes."""

    needs = ("given", "rest")

    @property
    def metrics(self) -> Mapping[str, Metric]:
        def of(total: Statistics) -> float:
            return float(total[0] / total[1] / math.log(2)) if total[1] else 0.0

        return {"bits per byte": Metric(of=of, higher_is_better=False, percent=False)}

    async def predict(self, engine: Engine, row: Row) -> Prediction:
        request = ScoreRequest(prompt=row["given"], continuations=(row["rest"],))
        (score,) = await engine.score(request)
        return {"nats": -score.total}

    def statistics(self, rows: Sequence[Row], predictions: Sequence[Prediction]) -> Statistics:
        if any("refused" in prediction for prediction in predictions):
            raise InvalidRequest(
                f"The model's context is too short for windows of {WINDOW[self.lang]} characters, "
                "so its bits per byte would not compare with other models'.",
                param="suite",
            )
        sizes = [len(row["rest"].encode("utf-8", "surrogatepass")) for row in rows]
        return np.array([[p["nats"] for p in predictions], sizes], float).T

    def baselines(self, rows: Sequence[Row]) -> Mapping[str, Sequence[Prediction]]:
        """xz on all rows together, its bits shared out by bytes (so it has no interval)."""
        texts = [row["rest"].encode("utf-8", "surrogatepass") for row in rows]
        packed = lzma.compress(b"\n".join(texts), preset=9 | lzma.PRESET_EXTREME)
        nats = 8 * len(packed) * math.log(2) / sum(map(len, texts))
        return {"xz -9e": [{"nats": nats * len(text)} for text in texts]}

    def show(self, row: Row, prediction: Prediction) -> tuple[str, str, str]:
        size = len(row["rest"].encode("utf-8", "surrogatepass"))
        bits = prediction.get("nats", 0.0) / math.log(2) / max(size, 1)
        return row["given"], row["rest"], f"{bits:.3f} bits per byte"


def windows(texts: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Rows to score, in the order of the texts."""
    for text in texts:
        lang = language_of(text)
        size = WINDOW[lang]
        for start in range(0, len(text), size):
            part = text[start : start + size]
            if len(part) >= SHORTEST * size:
                given = GIVEN[lang]
                yield {
                    "task": "held-out",
                    "lang": lang,
                    "given": part[:given],
                    "rest": part[given:],
                }


def from_file(path: Path) -> list[str]:
    """The texts of a txt or jsonl (column `text`) file, or of any other that `data` reads."""
    texts = []
    for row in read(path):
        text = row.value if isinstance(row.value, str) else row.value.get("text")
        if not isinstance(text, str):
            raise DataError(
                "has no column text.",
                path=str(path),
                line=row.line,
                repair="Give plain text, or rows with a column `text`.",
            )
        texts.append(text)
    return texts


def from_packed(directory: Path, model: Path) -> list[str]:
    """The texts of the validation split of packed data. Raises InvalidRequest unless the data was
    packed with the tokenizer of the `model` folder, which turns it into text again."""
    data = PackedDataset(directory, "validation")
    if data.manifest["masked"]:
        raise InvalidRequest(
            f"{directory} holds examples of tasks, not text. Give the packed pretraining data.",
            param="packed",
        )
    if data.manifest["tokenizer_sha256"] != sha256_file(model / "tokenizer.json"):
        raise InvalidRequest(
            f"{directory} was packed with another tokenizer than {model.name}'s. Give data packed "
            "with its own, or the text with --text FILE.",
            param="packed",
        )
    tokenizer = Tokenizer.load(model)
    special = tokenizer.special_ids
    texts = []
    for i in range(len(data)):
        ids = [int(token) for token in data.document(i)[0]]
        texts.append(tokenizer.decode([token for token in ids if token not in special]))
    return texts
