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
        self._spent = 0.0  # seconds on rows that were asked
        self._last = self._shown = clock()

    def step(self, suite: str, *, known: bool) -> None:
        """One row is done; `known` if it was from an earlier run, which takes no time."""
        self._done += 1
        now = self._clock()
        if not known:
            self._asked += 1
            self._spent += now - self._last
        self._last = now
        if self._live and now - self._shown > 0.1:
            self._shown = now
            self._write(f"\r\x1b[K{self._line(suite)}")

    def go_on(self) -> None:
        """Time since the last row went elsewhere."""
        self._last = self._clock()

    def say(self, what: str) -> None:
        """A line that stays."""
        self._write(f"\r\x1b[K{what}\n" if self._live else f"{what}\n")

    def end(self, suite: str, what: str) -> None:
        """A suite is done; `what` is its result in words."""
        self.say(f"{suite}: {what}  [{self._line('')}]")

    def _line(self, suite: str) -> str:
        done = f"{suite + ' ' if suite else ''}{self._done}/{self._total} rows"
        left = self._total - self._done
        if not left or not self._asked:
            return done
        return f"{done}, {_spoken(left * self._spent / self._asked)} left"

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _spoken(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
