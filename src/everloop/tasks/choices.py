"""Several answers to one call: started together, merged into one stream, and always cleaned up.

Nothing runs on when nobody listens: leaving early, an error in one answer, or a cancelled caller
cancels every generation that is still running, and `usage` then says what was really used.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from types import TracebackType

from everloop.engine.interface import (
    Chunk,
    EarlyExit,
    Engine,
    FinishReason,
    GenerateRequest,
    Generation,
    TokenLogprob,
    Usage,
)
from everloop.errors import EngineUnavailable, InvalidRequest

_Key = tuple[int, int]
"""Prompt and candidate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One complete answer."""

    index: int
    text: str
    tokens: tuple[TokenLogprob, ...]
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """All answers of a call, by index, and what they took together."""

    choices: tuple[Choice, ...]
    usage: Usage


class Choices:
    """Answers on their way: iterate for `(index, chunk)` pairs as they come, or `collect` them.

    Each index ends with a chunk that has a finish_reason. Use as `async with`, or call `aclose`,
    so that leaving early frees the engine at once; both are harmless at the end. Iterate once.
    """

    def __init__(
        self,
        requests: Sequence[GenerateRequest],
        groups: Sequence[Sequence[Generation]],
        *,
        keep: int,
    ) -> None:
        self._requests = requests
        self._groups = groups  # the candidates of each request
        self._keep = keep  # answers returned for each request
        self._used: dict[_Key, Usage] = {}
        self._pumps: list[asyncio.Task[None]] = []
        self._closing: asyncio.Task[None] | None = None

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts, each counted once however many answers it gets."""
        return sum(group[0].prompt_tokens for group in self._groups)

    @property
    def usage(self) -> Usage:
        """What is known to be used so far; final after the last chunk or after `aclose`."""
        used = self._used
        if len(used) == len(self._groups) == len(self._groups[0]) == 1:
            return used[0, 0]
        first = [used[p, 0] for p in range(len(self._groups)) if (p, 0) in used]
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=sum(u.completion_tokens for u in used.values()),
            cached_tokens=sum(u.cached_tokens for u in first),
            accepted_prediction_tokens=sum(u.accepted_prediction_tokens for u in used.values()),
            rejected_prediction_tokens=sum(u.rejected_prediction_tokens for u in used.values()),
            early_exit=_exits([u.early_exit for u in used.values() if u.early_exit is not None]),
        )

    async def __aiter__(self) -> AsyncIterator[tuple[int, Chunk]]:
        async with aclosing(self.groups()) as groups:
            async for index, chunks in groups:
                for chunk in chunks:
                    yield index, chunk

    async def groups(self) -> AsyncGenerator[tuple[int, Sequence[Chunk]], None]:
        """As iterating, with all chunks of an answer that are there at once."""
        try:
            if all(len(group) == self._keep for group in self._groups):
                async with aclosing(self._merged()) as merged:
                    async for (p, c), chunks in merged:
                        yield p * self._keep + c, chunks
            else:
                async with aclosing(self._ranked()) as ranked:
                    async for index, chunk in ranked:
                        yield index, (chunk,)
        finally:
            await self.aclose()

    async def collect(self) -> Collected:
        """Waits for every answer."""
        parts: dict[int, list[Chunk]] = {}
        async with self, aclosing(self.groups()) as groups:
            async for index, chunks in groups:
                parts.setdefault(index, []).extend(chunks)
        choices = []
        for index, chunks in sorted(parts.items()):
            whole = chunks[0] if len(chunks) == 1 else _join(chunks)
            assert whole.finish_reason is not None
            choices.append(
                Choice(
                    index=index,
                    text=whole.text,
                    tokens=whole.tokens,
                    finish_reason=whole.finish_reason,
                )
            )
        return Collected(choices=tuple(choices), usage=self.usage)

    async def aclose(self) -> Usage:
        """Cancels what still runs and returns what was really used. Idempotent."""
        if not self._pumps and all(key in self._used for key, _ in self._generations()):
            return self.usage
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        # Shielded: a caller that is itself being cancelled must not leave generations behind.
        await asyncio.shield(self._closing)
        return self.usage

    async def __aenter__(self) -> Choices:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _close(self) -> None:
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        left = [(k, g) for k, g in self._generations() if k not in self._used]
        ended = await asyncio.gather(*(g.cancel() for _, g in left), return_exceptions=True)
        for (key, _), usage in zip(left, ended, strict=True):
            if isinstance(usage, Usage):
                self._used[key] = usage
            elif not isinstance(usage, EngineUnavailable):  # a dead engine runs nothing
                raise usage

    def _generations(self) -> Iterable[tuple[_Key, Generation]]:
        for p, group in enumerate(self._groups):
            for c, generation in enumerate(group):
                yield (p, c), generation

    async def _merged(self) -> AsyncGenerator[tuple[_Key, Sequence[Chunk]], None]:
        """Chunks of all generations, in the order in which they come."""
        if len(self._groups) == 1 and len(self._groups[0]) == 1:  # the usual call: no queue
            async with aclosing(self._groups[0][0].groups()) as groups:
                async for chunks in groups:
                    self._note((0, 0), chunks)
                    yield (0, 0), chunks
            return
        queue: asyncio.Queue[tuple[_Key, Sequence[Chunk] | BaseException | None]] = asyncio.Queue()

        async def pump(key: _Key, generation: Generation) -> None:
            try:
                async for chunks in generation.groups():
                    queue.put_nowait((key, chunks))
            except Exception as error:
                queue.put_nowait((key, error))
            else:
                queue.put_nowait((key, None))

        self._pumps = [asyncio.create_task(pump(k, g)) for k, g in self._generations()]
        running = len(self._pumps)
        while running:
            key, item = await queue.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                running -= 1
            else:
                self._note(key, item)
                yield key, item

    def _note(self, key: _Key, chunks: Sequence[Chunk]) -> None:
        usage = chunks[-1].usage
        if usage is not None:
            self._used[key] = usage

    async def _ranked(self) -> AsyncGenerator[tuple[int, Chunk], None]:
        """The best `keep` candidates of each prompt, best first, each as one chunk."""
        parts: dict[_Key, list[Chunk]] = {k: [] for k, _ in self._generations()}
        unfinished = [len(group) for group in self._groups]
        async with aclosing(self._merged()) as merged:
            async for (p, c), some in merged:
                parts[p, c] += some
                if some[-1].finish_reason is None:
                    continue
                unfinished[p] -= 1
                if unfinished[p]:
                    continue
                candidates = [parts.pop((p, i)) for i in range(len(self._groups[p]))]
                request = self._requests[p]
                # Stable: ties keep their order.
                candidates.sort(
                    key=lambda chunks: _mean_logprob(chunks, request.echo), reverse=True
                )
                for rank, chunks in enumerate(candidates[: self._keep]):
                    whole = _join(chunks)
                    if request.logprobs is None:  # they were only asked for to rank
                        whole = replace(whole, tokens=())
                    yield p * self._keep + rank, whole


def _exits(each: Sequence[EarlyExit]) -> EarlyExit | None:
    """Several answers' together; one call's leave at the same point."""
    return replace(each[0], exited=sum(e.exited for e in each)) if each else None


def _join(chunks: Sequence[Chunk]) -> Chunk:
    return Chunk(
        text="".join(chunk.text for chunk in chunks),
        tokens=tuple(token for chunk in chunks for token in chunk.tokens),
        finish_reason=chunks[-1].finish_reason,
        usage=chunks[-1].usage,
    )


def _mean_logprob(chunks: Sequence[Chunk], echo: bool) -> float:
    """Log-probability per generated token; an answer without tokens ranks last."""
    usage = chunks[-1].usage
    assert usage is not None
    tokens = [token for chunk in chunks for token in chunk.tokens]
    tokens = tokens[usage.prompt_tokens :] if echo else tokens
    values = [token.logprob for token in tokens if token.logprob is not None]
    if len(values) < len(tokens):
        raise InvalidRequest(
            "This model gives no log-probabilities, so best_of can't tell which answer is best. "
            "Leave best_of out, or set it to n.",
            param="best_of",
        )
    return sum(values) / len(values) if values else float("-inf")


async def start(
    engine: Engine, requests: Sequence[GenerateRequest], *, candidates: int, keep: int
) -> Choices:
    """Starts `candidates` generations for every request, or none: if the engine refuses one, the
    others are cancelled. The best `keep` candidates of each request are returned."""
    if len(requests) == candidates == 1:
        return Choices(requests, [[await engine.generate(requests[0])]], keep=keep)
    starts = [
        asyncio.create_task(engine.generate(candidate))
        for request in requests
        for candidate in _candidates(request, candidates, rank=candidates > keep)
    ]
    try:
        await asyncio.gather(*starts)
    except BaseException:
        for starting in starts:
            starting.cancel()
        ended = await asyncio.gather(*starts, return_exceptions=True)
        running = [g for g in ended if isinstance(g, Generation)]
        await asyncio.gather(*(g.cancel() for g in running), return_exceptions=True)
        raise
    generations = [starting.result() for starting in starts]
    groups = [generations[i : i + candidates] for i in range(0, len(generations), candidates)]
    return Choices(requests, groups, keep=keep)


def _candidates(request: GenerateRequest, count: int, *, rank: bool) -> list[GenerateRequest]:
    """`count` requests for one prompt, each with its own seed if the call has one."""
    if rank:  # what isn't known to be among the best isn't shown
        logprobs = 0 if request.logprobs is None else request.logprobs
        request = replace(request, logprobs=logprobs, stream=False)
    seed = request.sampling.seed
    if seed is None:
        return [request] * count
    return [
        replace(request, sampling=replace(request.sampling, seed=nth_seed(seed, i)))
        for i in range(count)
    ]


def nth_seed(seed: int, index: int) -> int:
    """The seed of answer `index`: the call's own for the first, so that asking for more answers
    leaves it as it was, and SplitMix64 of both for the others, in 0 … 2^63 - 1."""
    if index == 0:
        return seed
    z = (seed + index * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return (z ^ (z >> 31)) >> 1
