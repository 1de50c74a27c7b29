"""What it takes to measure a model on one task: rows, how a row is asked, what the replies are
worth, and simple baselines on the same rows.

A suite's metrics are functions of sums over rows, so that one bootstrap gives every interval.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from everloop.data.findings import key
from everloop.engine.interface import Engine
from everloop.evaluate.estimate import Draws, Estimate, Statistics, bootstrap, spread, wilson

Row = Mapping[str, Any]
Prediction = Mapping[str, Any]
"""What the model or a baseline said to a row, as JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """`of` takes the rows' total statistics. `share` names the columns (successes, tries) of a
    plain share, whose interval is Wilson's; the others' is by bootstrap, or none where drawing a
    row twice would change the value. `percent` is for print: values are 0 to 1."""

    of: Callable[[Statistics], float]
    share: tuple[int, int] | None = None
    resampled: bool = True
    higher_is_better: bool = True
    percent: bool = True

    def estimate(self, statistics: Statistics, drawn: Draws | None = None) -> Estimate:
        """The metric of these rows with its 95 % interval; from `drawn` if it was drawn before."""
        if not self.resampled:
            value = self.of(statistics.sum(0))
            return Estimate(value=value, low=value, high=value)
        if self.share is None and drawn is not None:
            return spread(self.of(statistics.sum(0)), drawn)
        if self.share is None:
            return bootstrap(statistics, self.of)
        good, tries = statistics[:, self.share].sum(0)
        return wilson(float(good), float(tries))


def share(good: int, tries: int, *, higher_is_better: bool = True) -> Metric:
    """The share of column `good` in column `tries`; 0 where there are none."""

    def of(total: Statistics) -> float:
        return float(total[good] / total[tries]) if total[tries] else 0.0

    return Metric(of=of, share=(good, tries), higher_is_better=higher_is_better)


def mean(column: int, count: int, *, higher_is_better: bool = True) -> Metric:
    """Column `column` over column `count`, for values that are no plain yes or no."""

    def of(total: Statistics) -> float:
        return float(total[column] / total[count]) if total[count] else 0.0

    return Metric(of=of, higher_is_better=higher_is_better)


class Suite(ABC):
    """One task on one set of rows. The first metric is the one number of the task."""

    needs: ClassVar[tuple[str, ...]] = ()
    """Fields that every row must have."""

    def __init__(
        self, rows: Sequence[Row], lang: str, train: Callable[[], Sequence[Row]] = tuple
    ) -> None:
        self.rows = self.prepare(rows)
        self.lang = lang
        self._load_train = train

    @cached_property
    def every_train(self) -> Sequence[Row]:
        """The training rows, read when they are needed."""
        return self._load_train()

    @cached_property
    def train(self) -> Sequence[Row]:
        """Those that baselines may learn from: with a text, and none that is asked here."""
        asked = {key(self.text_of(row)) for row in self.rows}
        texts = ((row, self.text_of(row)) for row in self.every_train)
        return [row for row, text in texts if text.strip() and key(text) not in asked]

    def prepare(self, rows: Sequence[Row]) -> Sequence[Row]:
        """The rows to ask, which may be fewer where one question has several right answers."""
        return rows

    def text_of(self, row: Row) -> str:
        """What a row asks about: two rows of one text are copies, and one needs some text."""
        return str(row[self.needs[0]])

    @property
    @abstractmethod
    def metrics(self) -> Mapping[str, Metric]: ...

    @abstractmethod
    async def predict(self, engine: Engine, row: Row) -> Prediction:
        """Asks the model. Raises what the engine raises."""

    @abstractmethod
    def statistics(self, rows: Sequence[Row], predictions: Sequence[Prediction]) -> Statistics:
        """(rows, k) sums for the metrics. A prediction {"refused": …} says that the engine could
        not take the row, and counts as wrong."""

    @abstractmethod
    def baselines(self, rows: Sequence[Row]) -> Mapping[str, Sequence[Prediction]]:
        """What simple methods, trained on `self.train`, say to `rows`; the strongest first."""

    def details(self, rows: Sequence[Row], predictions: Sequence[Prediction]) -> dict[str, Any]:
        """What a picture needs beside the metrics, as JSON."""
        return {}

    @abstractmethod
    def show(self, row: Row, prediction: Prediction) -> tuple[str, str, str]:
        """Asked, expected, said: for the samples in the report."""


def said(prediction: Prediction) -> str:
    """The text of a prediction; empty where the engine refused the row."""
    return str(prediction.get("text", ""))


def with_references(rows: Sequence[Row]) -> list[Row]:
    """One row for each `src`, with every `tgt` of it among its `references`."""
    merged: dict[str, dict[str, Any]] = {}
    for row in rows:
        first = merged.setdefault(row["src"], {**row, "references": [*row.get("references", ())]})
        if row["tgt"] not in first["references"]:
            first["references"].append(row["tgt"])
    return list(merged.values())
