"""Token bytes to text that may be sent: whole characters, and nothing of a stop string.

Works on UTF-8 bytes. UTF-8 is self-synchronizing, so a stop string is found among bytes exactly
where it stands among characters.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class Released:
    """What a push or a flush lets go: text, and how many tokens ended in it."""

    text: str = ""
    tokens: int = 0
    stopped: bool = False  # a stop string was completed; nothing more will come


class TextStream:
    """One request's output on its way from tokens to text."""

    def __init__(self, stops: Iterable[str] = ()) -> None:
        self._matchers = [_Matcher(stop.encode()) for stop in stops]
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = bytearray()  # not given to the decoder: may become a stop string
        self._sent = 0  # bytes given to the decoder so far
        self._tokens: deque[tuple[int, int]] = deque()  # (start, end) of tokens not yet released
        self._length = 0

    def prime(self, tokens: Iterable[bytes]) -> Released:
        """An echoed prompt: comes out at once, and stop strings inside it don't count."""
        for piece in tokens:
            self._append(piece)
        return self._release(0)

    def push(self, token: bytes) -> Released:
        """Adds one token's bytes."""
        start = self._length
        self._append(token)
        for i, byte in enumerate(token):
            ended = [m.length for m in self._matchers if m.feed(byte)]
            if ended:
                return self._stop(start + i + 1 - max(ended))
        return self._release(max((m.matched for m in self._matchers), default=0))

    def flush(self) -> Released:
        """The end without a stop string: text held for one comes out. The bytes of a character
        that the output's end cut in two stay out; the tokens have them."""
        out = self._release(0)
        out.tokens += len(self._tokens)
        self._tokens.clear()
        return out

    def _append(self, token: bytes) -> None:
        self._held += token
        self._tokens.append((self._length, self._length + len(token)))
        self._length += len(token)

    def _release(self, hold: int) -> Released:
        """Lets everything go but the last `hold` bytes and an unfinished character."""
        ready = len(self._held) - hold
        text = self._decoder.decode(bytes(self._held[:ready]))
        del self._held[:ready]
        self._sent += ready
        complete = self._sent - len(self._decoder.getstate()[0])
        count = 0
        while self._tokens and self._tokens[0][1] <= complete:
            self._tokens.popleft()
            count += 1
        return Released(text=text, tokens=count)

    def _stop(self, at: int) -> Released:
        """Ends before byte `at`, where a stop string begins. A token that began earlier has text
        of its own and is released; those that lie in the stop string are not."""
        visible = max(at - self._sent, 0)
        text = self._decoder.decode(bytes(self._held[:visible]))
        count = sum(start < at for start, _ in self._tokens)
        self._tokens.clear()
        self._held.clear()
        return Released(text=text, tokens=count, stopped=True)


class _Matcher:
    """Knuth-Morris-Pratt: after each byte, how much of the pattern the output ends with."""

    def __init__(self, pattern: bytes) -> None:
        assert pattern
        self.pattern, self.length, self.matched = pattern, len(pattern), 0
        self._fallback = [0] * len(pattern)
        k = 0
        for i in range(1, len(pattern)):
            while k and pattern[i] != pattern[k]:
                k = self._fallback[k - 1]
            k += pattern[i] == pattern[k]
            self._fallback[i] = k

    def feed(self, byte: int) -> bool:
        while self.matched and self.pattern[self.matched] != byte:
            self.matched = self._fallback[self.matched - 1]
        self.matched += self.pattern[self.matched] == byte
        return self.matched == self.length
