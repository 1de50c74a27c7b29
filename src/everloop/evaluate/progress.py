"""What is done, and how long the rest will take, in one line on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO


class Progress:
    """Counts rows over all suites. On a terminal the line is renewed, else one is written for each
    suite that ends."""

    def __init__(
        self,
        total: int,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._clock = clock
        self._total, self._done, self._asked = total, 0, 0
        self._start = self._shown = clock()

    def step(self, suite: str, *, known: bool) -> None:
        """One row is done; `known` if it was from an earlier run, which takes no time."""
        self._done += 1
        self._asked += not known
        now = self._clock()
        if self._live and now - self._shown > 0.1:
            self._shown = now
            self._write(f"\r\x1b[K{self._line(suite)}")

    def end(self, suite: str, what: str) -> None:
        """A suite is done; `what` is its result in words."""
        line = f"{suite}: {what}  [{self._line('')}]"
        self._write(f"\r\x1b[K{line}\n" if self._live else f"{line}\n")

    def _line(self, suite: str) -> str:
        seconds = self._clock() - self._start
        left = (self._total - self._done) * seconds / self._asked if self._asked else 0.0
        return (
            f"{suite + ' ' if suite else ''}{self._done}/{self._total} rows, {_spoken(left)} left"
        )

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _spoken(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
