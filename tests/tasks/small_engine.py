"""A deterministic engine in this process: tokens are bytes, the next one depends on the last.

It can be told to refuse the k-th request or to die in mid-stream, and it counts what is running,
which a real engine can't be asked to do on cue.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator, Sequence

from everloop.engine.interface import (
    Chunk,
    Embedding,
    Engine,
    EngineStatus,
    GenerateRequest,
    Generation,
    ModelInfo,
    Prompt,
    Score,
    ScoreRequest,
    TokenLogprob,
    Usage,
)
from everloop.errors import ContextLengthExceeded, EngineUnavailable, Overloaded

LETTERS = "abcdefgh"


def text_of(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    return "".join(
        chr(t) if isinstance(t, int) else f"{t['role']}:{t['content']}\n" for t in prompt
    )


def distribution(last: str) -> dict[str, float]:
    weights = [1 + (ord(last) * 7 + i * i * 3) % 11 for i in range(len(LETTERS))]
    return {c: w / sum(weights) for c, w in zip(LETTERS, weights, strict=True)}


class SmallGeneration(Generation):
    def __init__(self, engine: SmallEngine, request: GenerateRequest) -> None:
        self.engine, self.request = engine, request
        self.prompt = text_of(request.prompt)
        self.prompt_tokens = len(self.prompt)
        self.written = 0
        self.done = False
        engine.running += 1

    def usage(self) -> Usage:
        return Usage(prompt_tokens=self.prompt_tokens, completion_tokens=self.written)

    def token(self, last: str, char: str, wanted: bool) -> TokenLogprob:
        probability = distribution(last).get(char, 1e-6)
        known = wanted and not self.engine.hides_logprobs
        return TokenLogprob(
            text=char,
            bytes=char.encode(),
            id=ord(char),
            logprob=math.log(probability) if known else None,
        )

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        request, wanted = self.request, self.request.logprobs is not None
        if request.echo:
            pairs = zip("\0" + self.prompt, self.prompt, strict=False)
            yield Chunk(text=self.prompt, tokens=tuple(self.token(a, b, wanted) for a, b in pairs))
        draw = random.Random(request.sampling.seed)
        limit = 16 if request.max_tokens is None else request.max_tokens
        last = self.prompt[-1:] or "a"
        while self.written < limit:
            await asyncio.sleep(0)
            if self.done:
                return
            if self.engine.dies_after is not None and self.written >= self.engine.dies_after:
                self.end()
                raise EngineUnavailable("The engine died.")
            odds = distribution(last)
            if request.sampling.temperature == 0:
                char = max(odds, key=lambda c: odds[c])
            else:
                char = draw.choices(list(odds), list(odds.values()))[0]
            self.written += 1
            yield Chunk(text=char, tokens=(self.token(last, char, wanted),))
            last = char
        self.end()
        yield Chunk(finish_reason="length", usage=self.usage())

    def end(self) -> None:
        if not self.done:
            self.done = True
            self.engine.running -= 1

    async def cancel(self) -> Usage:
        await asyncio.sleep(0)
        self.end()
        return self.usage()


class SmallEngine(Engine):
    def __init__(self) -> None:
        self.info = ModelInfo(id="small", context_length=10**7, vocab_size=256)
        self.running = 0
        self.started: list[GenerateRequest] = []
        self.scored: list[ScoreRequest] = []
        self.refuses_after: int | None = None
        self.dies_after: int | None = None
        self.hides_logprobs = False

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def generate(self, request: GenerateRequest) -> Generation:
        await asyncio.sleep(0)
        self.check(request)
        if self.refuses_after is not None and len(self.started) >= self.refuses_after:
            raise Overloaded("The queue is full.")
        self.started.append(request)
        return SmallGeneration(self, request)

    def check(self, request: GenerateRequest) -> None:
        length = len(text_of(request.prompt)) + (request.max_tokens or 0)
        if length > self.info.context_length:
            raise ContextLengthExceeded(f"{length} tokens are too many.")

    async def score(self, request: ScoreRequest) -> list[Score]:
        await asyncio.sleep(0)
        self.scored.append(request)
        scores = []
        for continuation in request.continuations:
            text = text_of(continuation)
            pairs = zip((text_of(request.prompt)[-1:] or "a") + text, text, strict=False)
            values = tuple(math.log(distribution(a).get(b, 1e-6)) for a, b in pairs)
            scores.append(Score(tokens=tuple(map(ord, text)), logprobs=values))
        return scores

    async def embed(self, texts: Sequence[str], *, tenant: str = "") -> list[Embedding]:
        return [Embedding(vector=(1.0,), tokens=len(text)) for text in texts]

    async def count_tokens(self, prompt: Prompt) -> int:
        return len(text_of(prompt))

    def status(self) -> EngineStatus:
        return EngineStatus(ready=True, running=self.running)
