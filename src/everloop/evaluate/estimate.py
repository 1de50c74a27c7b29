"""A number with its 95 % interval."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054
RESAMPLES = 1000

Statistics = NDArray[np.float64]
"""One row of sums for each evaluated row: a metric of a set is a function of their total."""
Draws = NDArray[np.float64]
"""A metric of resampled rows, one value for each time."""
Metric = Callable[[Statistics], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A value and the interval that holds the true one with 95 % confidence."""

    value: float
    low: float
    high: float


def wilson(successes: float, count: float) -> Estimate:
    """A share, with Wilson's score interval (Wilson 1927); without rows anything is possible."""
    if count == 0:
        return Estimate(value=0.0, low=0.0, high=1.0)
    p, z2 = successes / count, Z95**2
    middle = (p + z2 / (2 * count)) / (1 + z2 / count)
    half = Z95 * math.sqrt(p * (1 - p) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    # Clipped because rounding may put the exact bounds 0 and 1 on the wrong side of the value.
    return Estimate(
        value=p, low=max(0.0, min(middle - half, p)), high=min(1.0, max(middle + half, p))
    )


def totals(statistics: Statistics, *, seed: int = 0) -> Statistics:
    """(RESAMPLES, k) sums of as many rows, drawn with replacement. Equal counts of rows are drawn
    alike, so that two models' draws on the same rows are pairs."""
    count = len(statistics)
    drawn = np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))
    return np.stack([statistics[chosen].sum(0) for chosen in drawn])


def draws(drawn: Statistics, metric: Metric) -> Draws:
    """The metric of each of the `totals`."""
    return np.array([metric(total) for total in drawn])


def spread(value: float, drawn: Draws) -> Estimate:
    """The value with the percentile bootstrap interval (Efron 1979)."""
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(value=value, low=float(low), high=float(high))


def bootstrap(statistics: Statistics, metric: Metric, *, seed: int = 0) -> Estimate:
    """`metric` of the rows' total, with its interval.

    `statistics` is (rows, k) and must have a row; `metric` takes the (k,) total.
    """
    return spread(metric(statistics.sum(0)), draws(totals(statistics, seed=seed), metric))


def difference(ours: Statistics, theirs: Statistics, metric: Metric, *, seed: int = 0) -> Estimate:
    """By how much `ours` is above `theirs` on the same rows: paired bootstrap."""
    mine, other = (draws(totals(table, seed=seed), metric) for table in (ours, theirs))
    return spread(metric(ours.sum(0)) - metric(theirs.sum(0)), mine - other)


def packed(drawn: Draws) -> str:
    """Draws as text for JSON, with which another report's can be compared."""
    return base64.b64encode(zlib.compress(drawn.astype("<f4").tobytes(), 9)).decode()


def unpacked(text: str) -> Draws:
    """The draws again, in single precision."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), "<f4").astype(np.float64)
