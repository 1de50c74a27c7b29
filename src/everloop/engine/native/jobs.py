"""The three kinds of work: continue a prompt, score continuations, embed texts.

A job owns its sequences, takes what the model computed for them and turns it into events.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from everloop.engine.interface import FinishReason
from everloop.engine.native.backend import Choice, Exit, Floats, Sampler, Top
from everloop.engine.native.frames import Message
from everloop.engine.native.proposals import Drafter, Experience
from everloop.engine.native.sequence import Sequence
from everloop.engine.native.text import Released, TextStream

TokenBytes = Callable[[int], bytes]
"""Text bytes of a token; empty for special tokens, which are never shown."""

Used = tuple[int, ...]
"""Prompt, completion and cached tokens; then, where there is a prediction, how many of its tokens
appeared in the output and how many did not (0, 0 if only the next is told); then, where tokens may
leave early, how many did."""


@dataclass(slots=True, kw_only=True)
class Event:
    """News of one job for whoever submitted it."""

    key: int
    text: str = ""
    tokens: list[tuple[int, float | None, Top]] | None = None
    finish: FinishReason | None = None
    usage: Used | None = None
    scores: list[list[float]] | None = None
    vectors: list[list[float]] | None = None
    error: str | None = None  # ends the job
    logprobs: bool = False  # asked for: `tokens` are told, not only counted

    def message(self) -> Message:
        """As it goes over the wire: without what isn't there."""
        message: Message = {"key": self.key, "text": self.text}
        if self.tokens:
            message["count"] = len(self.tokens)
            if self.logprobs:
                message["tokens"] = self.tokens
        for name in ("finish", "usage", "scores", "vectors", "error"):
            value = getattr(self, name)
            if value is not None:
                message[name] = value
        return message


class Job(ABC):
    """Work with one key. `sequences` are all it needs computed; `done` once an event ended it."""

    top = 0  # alternatives wanted with each log-probability
    done = False
    drafter: Drafter | None = None  # proposes what it may write next

    def __init__(self, key: int, request_id: str, tenant: str) -> None:
        self.key, self.request_id, self.tenant = key, request_id, tenant
        self.sequences: list[Sequence] = []

    def wants_logprob(self) -> bool:
        """Whether a sampled token's log-probability is needed."""
        return False

    def scored(self, sequence: Sequence, logprob: float, top: Top) -> None:
        """Takes the log-probability of the sequence's next target."""
        raise AssertionError("this job scores nothing")

    def sampled(self, token: int, logprob: float | None, top: Top) -> Event | None:
        """Takes a sampled token."""
        raise AssertionError("this job samples nothing")

    def pooled(self, sequence: Sequence, hidden: Floats) -> None:
        """Takes hidden states (tokens, C) of the sequence's next tokens."""
        raise AssertionError("this job pools nothing")

    @abstractmethod
    def computed(self, sequence: Sequence) -> Event | None:
        """All of the sequence's tokens are computed (and it samples no further one)."""

    @abstractmethod
    def usage(self) -> Used:
        """What it took so far."""


class GenerateJob(Job):
    """One continuation of one prompt."""

    sampler: Sampler  # the backend's, from `Core.submit` on

    def __init__(
        self,
        key: int,
        *,
        prompt: Seq[int],
        max_tokens: int,
        choice: Choice,
        seed: int,
        token_bytes: TokenBytes,
        stop: Seq[str] = (),
        eos: frozenset[int] = frozenset(),
        logprobs: int | None = None,
        echo: bool = False,
        stream: bool = True,
        prediction: Seq[int] = (),
        exit: tuple[int, float] | None = None,
        request_id: str = "",
        tenant: str = "",
    ) -> None:
        """`exit`: after which layer what it writes may leave, and judged how much at least."""
        super().__init__(key, request_id, tenant)
        self.choice, self.seed, self.eos = choice, seed, eos
        self.top, self._logprobs, self._echo = logprobs or 0, logprobs is not None, echo
        self._token_bytes, self._stream = token_bytes, TextStream(stop)
        self._max_tokens, self._count = max_tokens, 0
        self._prompt = len(prompt)
        self._unsent: deque[tuple[int, float | None, Top]] = deque()
        self._echoed: list[tuple[float, Top]] = []
        self._streams, self._prediction = stream, prediction
        self._held: list[str] = []  # text that waits for the end
        self._held_tokens = 0
        self.exit = None if exit is None else Exit(*exit, start=len(prompt))
        self.left: list[bool] = []  # of each token drawn, whether its state left early
        sequence = Sequence(job=self, tokens=list(prompt), samples=max_tokens > 0, exit=self.exit)
        if echo and self._logprobs:
            sequence.targets = list(prompt[1:])
        self.sequences = [sequence]

    @property
    def remaining(self) -> int:
        """Tokens that may still be written."""
        return self._max_tokens - self._count

    def wants_logprob(self) -> bool:
        return self._logprobs

    def draft(self, experience: Experience) -> None:
        """Lets it propose what it may write next; without that a prediction has no effect."""
        self.drafter = Drafter(self._prompt, self._prediction, experience)

    def usage(self) -> Used:
        used: Used = (self._prompt, self._count, self.sequences[0].cached)
        if self.drafter is not None:
            used += self.drafter.usage(self.sequences[0].tokens)
        if self.exit is not None:
            used = *(*used, 0, 0)[:5], sum(self.left[: self._count])
        return used

    def scored(self, sequence: Sequence, logprob: float, top: Top) -> None:
        self._echoed.append((logprob, top))

    def sampled(self, token: int, logprob: float | None, top: Top) -> Event | None:
        before = self._echo_once()
        self._count += 1
        if token in self.eos:
            return self._event(self._stream.flush(), "stop", before)
        self._unsent.append((token, logprob, top))
        released = self._stream.push(self._token_bytes(token))
        if released.stopped:
            return self._event(released, "stop", before)
        if self._count < self._max_tokens:
            self.sequences[0].tokens.append(token)
            return self._event(released, None, before)
        if self.drafter is not None:
            self.drafter.end(self.sequences[0].tokens, token)
        rest = self._stream.flush()
        rest.text = released.text + rest.text
        rest.tokens += released.tokens
        return self._event(rest, "length", before)

    def computed(self, sequence: Sequence) -> Event | None:
        before = self._echo_once()
        return self._event(self._stream.flush(), "length", before)

    def _echo_once(self) -> Released:
        if not self._echo:
            return Released()
        self._echo = False
        prompt = self.sequences[0].tokens[: self._prompt]
        self._unsent.append((prompt[0], None, []))
        for i, token in enumerate(prompt[1:]):
            logprob, top = self._echoed[i] if self._logprobs else (None, [])
            self._unsent.append((token, logprob, top))
        return self._stream.prime([self._token_bytes(token) for token in prompt])

    def _event(self, out: Released, finish: FinishReason | None, before: Released) -> Event | None:
        text, count = before.text + out.text, before.tokens + out.tokens
        if finish is None and not text and not count:
            return None
        if not self._streams:
            self._held.append(text)
            self._held_tokens += count
            if finish is None:
                return None
            text, count = "".join(self._held), self._held_tokens
        tokens = [self._unsent.popleft() for _ in range(count)]
        self.done = finish is not None
        usage = self.usage() if self.done else None
        return Event(
            key=self.key,
            text=text,
            tokens=tokens,
            finish=finish,
            usage=usage,
            logprobs=self._logprobs,
        )


class ScoreJob(Job):
    """Log-probabilities of continuations of one prompt."""

    def __init__(
        self,
        key: int,
        *,
        prompt: Seq[int],
        continuations: Seq[Seq[int]],
        request_id: str = "",
        tenant: str = "",
    ) -> None:
        super().__init__(key, request_id, tenant)
        self._prompt = len(prompt)
        self._scores: list[list[float]] = [[] for _ in continuations]
        texts = [(i, list(c)) for i, c in enumerate(continuations) if c]
        self.sequences = [
            Sequence(
                job=self,
                number=i,
                tokens=[*prompt, *text[:-1]],
                score_from=len(prompt) - 1,
                targets=text,
            )
            for i, text in texts
        ]
        self._left = len(self.sequences)

    def usage(self) -> Used:
        return self._prompt, 0, 0

    def scored(self, sequence: Sequence, logprob: float, top: Top) -> None:
        self._scores[sequence.number].append(logprob)

    def computed(self, sequence: Sequence) -> Event | None:
        self._left -= 1
        return None if self._left else self.finish()

    def finish(self) -> Event:
        """The result, once nothing is left."""
        self.done = True
        return Event(key=self.key, scores=self._scores, usage=self.usage())


class EmbedJob(Job):
    """Mean of the last hidden states of each text, scaled to length 1."""

    def __init__(
        self, key: int, *, texts: Seq[Seq[int]], request_id: str = "", tenant: str = ""
    ) -> None:
        super().__init__(key, request_id, tenant)
        self.sequences = [
            Sequence(job=self, number=i, tokens=list(text), pools=True)
            for i, text in enumerate(texts)
        ]
        self._sums: list[npt.NDArray[np.float64] | None] = [None] * len(texts)
        self._vectors: list[list[float]] = [[] for _ in texts]
        self._left = len(texts)

    def usage(self) -> Used:
        return sum(len(s.tokens) for s in self.sequences), 0, 0

    def pooled(self, sequence: Sequence, hidden: Floats) -> None:
        # One token after the other in float64: the same sum however the text was cut in chunks.
        # A preempted sequence begins again.
        rows = hidden.astype(np.float64)
        before = self._sums[sequence.number]
        if before is not None and sequence.computed > hidden.shape[0]:
            rows = np.concatenate((before[None], rows))
        self._sums[sequence.number] = rows.cumsum(0)[-1]

    def computed(self, sequence: Sequence) -> Event | None:
        total = self._sums[sequence.number]
        assert total is not None
        self._vectors[sequence.number] = (total / np.linalg.norm(total)).tolist()
        self._left -= 1
        if self._left:
            return None
        self.done = True
        return Event(key=self.key, vectors=self._vectors, usage=self.usage())
