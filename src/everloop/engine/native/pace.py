"""How many prompt tokens a step may compute so that the streams beside them stay smooth."""

from __future__ import annotations

SMALLEST = 8
"""A prompt gets at least this many tokens of a step, and multiples of it."""

SLOWDOWN = 2.25
"""A step with prompt tokens may take this many times as long as one without, …"""

UNSEEN = 0.008
"""… or this many seconds: streams write that much in one go anyway (`core.RUN_SECONDS`)."""


class Pace:
    """Learns from measured steps what a prompt token costs beside running streams.

    Alone, prompts get `most` tokens a step. The estimates follow the machine: what other programs
    take of it, and contexts that grow.
    """

    def __init__(self, most: int) -> None:
        assert most > 0
        self.most = most
        self._plain: dict[int, float] = {}  # streams: seconds of a step without prompts
        self._token = 0.0  # seconds of one prompt token; 0: not known
        self._mixed = False  # learnt beside streams, not only alone

    def observe(self, prompt: int, decode: int, seconds: float, steps: int = 1) -> None:
        """Takes the time of a step (or of each of several) that computed `prompt` prompt tokens
        and `decode` next tokens."""
        seconds /= steps
        if not prompt:
            self._plain[decode] = _follow(self._plain.get(decode, 0.0), seconds, 0.25)
        elif decode:
            # However short the step was, a token costs something.
            extra = max(seconds - self._without(decode), seconds / 16)
            self._token = _follow(self._token, extra / prompt, 0.5)
            self._mixed = True
        elif not self._mixed:
            self._token = _follow(self._token, seconds / prompt, 0.5)

    def budget(self, streams: int) -> int:
        """Prompt tokens for a step beside `streams` running ones."""
        if not streams or not self._token or not self._plain:
            return self.most
        plain = self._without(streams)
        tokens = (max(SLOWDOWN * plain, UNSEEN) - plain) / self._token
        if tokens >= self.most:
            return self.most
        return min(max(int(tokens) // SMALLEST, 1) * SMALLEST, self.most)

    def _without(self, streams: int) -> float:
        """Seconds of a step without prompts, of the nearest number of streams that was seen."""
        known = self._plain.get(streams)
        if known is None and self._plain:
            known = self._plain[min(self._plain, key=lambda n: abs(n - streams))]
        return known or 0.0


def _follow(estimate: float, value: float, weight: float) -> float:
    """The estimate moved towards `value`, of which an outlier counts no more than its double."""
    if not estimate:
        return value
    return estimate + weight * (min(max(value, estimate / 2), estimate * 2) - estimate)
