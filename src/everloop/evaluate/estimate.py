"""A number with its 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054
RESAMPLES = 1000

Statistics = NDArray[np.float64]
"""One row of sums for each evaluated row: a metric of a set is a function of their total."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A value and the interval that holds the true one with 95 % confidence."""

    value: float
    low: float
    high: float


def wilson(successes: int, count: int) -> Estimate:
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


def _resamples(count: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))


def bootstrap(
    statistics: Statistics, metric: Callable[[Statistics], float], *, seed: int = 0
) -> Estimate:
    """`metric` of the rows' total, with the percentile bootstrap interval (Efron 1979).

    `statistics` is (rows, k) and must have a row; `metric` takes the (k,) total.
    """
    samples = [metric(statistics[chosen].sum(0)) for chosen in _resamples(len(statistics), seed)]
    low, high = np.quantile(samples, [0.025, 0.975])
    return Estimate(value=metric(statistics.sum(0)), low=float(low), high=float(high))


def difference(
    ours: Statistics,
    theirs: Statistics,
    metric: Callable[[Statistics], float],
    *,
    seed: int = 0,
) -> Estimate:
    """By how much `ours` is above `theirs` on the same rows: paired bootstrap."""
    samples = [
        metric(ours[chosen].sum(0)) - metric(theirs[chosen].sum(0))
        for chosen in _resamples(len(ours), seed)
    ]
    low, high = np.quantile(samples, [0.025, 0.975])
    value = metric(ours.sum(0)) - metric(theirs.sum(0))
    return Estimate(value=value, low=float(low), high=float(high))
