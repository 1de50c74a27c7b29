"""How long a step takes, learnt from steps: whether drafting pays is a question of time."""

from __future__ import annotations

MEMORY = 0.9
"""What a measured step with drafts leaves of the weight of those before it."""

FORGET = 0.99
"""What writing plainly leaves of it: what didn't pay long ago is tried again."""

ENOUGH, MOST = 8, 24
"""Steps of plain writing that must be measured to know it, and that are remembered at most."""

STALE, LEFT = 256, 4
"""After so many steps with drafts no more than this is left of them."""

SUPPOSED, DOUBT = 16, 0.05
"""Supposed before anything is known: what a step costs by itself is what so many rows cost; with so
much weight beside a measured step."""


class StepCosts:
    """Seconds that writing takes: plainly, by the number of streams, and in a step with drafts, a
    line over its rows that is fitted to relative errors."""

    def __init__(self) -> None:
        self._plain: dict[int, float] = {}
        self._seen: dict[int, int] = {}  # steps that this comes from
        self._single: dict[int, float] = {}  # one step without drafts that was a go of its own
        self._drafted = 0  # steps
        self._w = self._wx = self._wxx = self._wy = self._wxy = 0.0

    def wrote(self, streams: int, steps: int, seconds: float) -> None:
        """Takes the time of a go of `steps` tokens for each of `streams`, without drafts and as
        many as there would be if nobody drafted."""
        seconds /= steps
        known, seen = self._plain.get(streams, seconds), self._seen.get(streams, 0) + steps
        # An outlier is something else's doing: the machine has other work as well.
        self._plain[streams] = known + steps / seen * (min(seconds, 2 * known) - known)
        self._seen[streams] = min(seen, MOST)
        self._fade(FORGET)

    def single(self, streams: int, seconds: float) -> None:
        """Takes the time of a step without drafts that was a go of its own."""
        known = self._single.get(streams, seconds)
        self._single[streams] = known + (1 - MEMORY) * (min(seconds, 2 * known) - known)

    def drafted(self, streams: int, rows: float, seconds: float, steps: int = 1) -> None:
        """Takes the time of a step for `streams` that computed `rows` rows, drafts among them; of
        `steps` in one go, the mean of both."""
        base, row = self.line(streams)
        expected = base + row * rows
        if self._w:
            seconds = min(seconds, 2 * expected)
        else:
            expected = seconds
        self._fade(MEMORY**steps)
        w = steps * expected**-2
        self._w += w
        self._wx += w * rows
        self._wxx += w * rows * rows
        self._wy += w * seconds
        self._wxy += w * seconds * rows
        self._drafted += steps
        if self._drafted >= STALE:
            self._drafted = 0
            self._seen = {n: min(seen, LEFT) for n, seen in self._seen.items()}

    def plain(self, streams: int) -> float | None:
        """Seconds of a token for each of `streams`; None if it should be measured first."""
        return self._plain[streams] if self._seen.get(streams, 0) >= ENOUGH else None

    def seconds(self, streams: int, rows: int) -> float:
        """Seconds that a step with drafts is expected to take."""
        base, row = self.line(streams)
        return base + row * rows

    def line(self, streams: int) -> tuple[float, float]:
        """Seconds of a step with drafts: those of any, and those for each row."""
        single = self._single.get(streams) or self._plain.get(streams, 1.0)
        w, wx, wxx, wy, wxy = self._w, self._wx, self._wxx, self._wy, self._wxy
        for rows, seconds, weight in (
            (streams, single, 1.0),
            (streams + SUPPOSED, single * (1 + SUPPOSED / (SUPPOSED + streams)), DOUBT),
        ):
            weight /= seconds * seconds
            w += weight
            wx += weight * rows
            wxx += weight * rows * rows
            wy += weight * seconds
            wxy += weight * seconds * rows
        row = max((w * wxy - wx * wy) / (w * wxx - wx * wx), 0.0)
        base = (wy - row * wx) / w
        return (base, row) if base > 0 else (0.0, wxy / wxx)

    def _fade(self, kept: float) -> None:
        self._w *= kept
        self._wx *= kept
        self._wxx *= kept
        self._wy *= kept
        self._wxy *= kept
