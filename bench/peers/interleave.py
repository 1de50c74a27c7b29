"""Runs measures: all sides in turn, A B C A B C, so that a slow minute is slow for all."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .bench import Bench
from .measures import Measure
from .process import SideError, Skipped

LOADING = 75.0
"""Seconds for all models on all sides, and to find the best number of threads."""

PAUSE = 0.15
"""Seconds between two sides: threads that spin while they wait for work have gone to sleep."""


@dataclass(slots=True)
class Outcome:
    """What was measured, and what was not and why; by measure, then by series or side."""

    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    skipped: dict[str, dict[str, str]] = field(default_factory=dict)


def expected(measure: Measure, repeats: int) -> float:
    """Seconds that a measure takes on two Zen 4 cores."""
    return len(measure.repeats(repeats)) * (measure.seconds + PAUSE * len(measure.asks))


def estimate(measures: Sequence[Measure], repeats: int) -> float:
    """Seconds that they take on two Zen 4 cores, with loading and trying out threads."""
    return LOADING + sum(expected(m, repeats) for m in measures)


def run(
    bench: Bench,
    measures: Sequence[Measure],
    repeats: int,
    *,
    done: Callable[[Outcome], None] = lambda outcome: None,
) -> Outcome:
    """Measures everything; `done` is called after each measure with all results so far. A side that
    can't or that fails is left out of that measure, with its reason."""
    outcome = Outcome()
    pace = Pace(measures, repeats)
    for number, measure in enumerate(measures, 1):
        pace.say(f"[{number}/{len(measures)}] {measure.title}")
        outcome.values[measure.name] = values = {}
        outcome.skipped[measure.name] = skipped = {}
        asks = {side: ask for side, ask in measure.asks.items() if side in bench.sides}
        for repeat in measure.repeats(repeats):
            for side, ask in asks.items():
                if side in skipped:
                    continue
                try:
                    found = ask(bench, repeat)
                except (Skipped, SideError) as reason:
                    skipped[side] = str(reason)
                    if isinstance(reason, SideError):
                        log = bench.sides[side].log
                        print(f"  {side}, {reason} (log: {log})", file=sys.stderr)
                    continue
                if repeat >= 0:
                    for series, value in found.items():
                        values.setdefault(series, []).append(value)
                time.sleep(PAUSE)
        pace.finish(measure)
        done(outcome)
    return outcome


class Pace:
    """Says how long it still takes: what the measures should take, scaled by what they took."""

    def __init__(self, measures: Sequence[Measure], repeats: int) -> None:
        self._expected = {m.name: expected(m, repeats) for m in measures}
        self._left = sum(self._expected.values())
        self._over, self._began = 0.0, time.monotonic()

    def finish(self, measure: Measure) -> None:
        self._over += self._expected[measure.name]
        self._left -= self._expected[measure.name]

    def say(self, what: str) -> None:
        taken = time.monotonic() - self._began
        # Cautious at first: half a minute of the expectation counts as already seen.
        scale = (taken + 30) / (self._over + 30)
        minutes = self._left * scale / 60
        print(f"{taken:5.0f} s  {what}; about {minutes:.1f} min left", file=sys.stderr, flush=True)
