"""An engine in the server's own process that does what its prompt says, for what a real engine
can't be asked to do on cue: be slow, refuse, die in mid-stream, or have a defect.

The last line of the prompt is the script: `say:TEXT` (the default), `slow:N` (N tokens, 20 ms
each), `die:N` (dies after N tokens), `refuse:ERROR`, `defect:TEXT`. A token is a character; a
Chinese one is three tokens of one byte each.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

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
from everloop.errors import ContextLengthExceeded, EngineUnavailable, NotFound, Overloaded
from everloop.settings import Settings
from everloop.store.registry import Registry

CONTEXT = 200
TOP = ((" yes", b" yes", -0.5), ("\ufffd", b"\xe4", float("-inf")))


def text_of(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    return "".join(chr(t) if isinstance(t, int) else t["content"] + "\n" for t in prompt).rstrip()


def tokens_of(text: str, logprobs: int | None, first: float | None) -> list[TokenLogprob]:
    tokens: list[TokenLogprob] = []
    for char in text:
        raw = char.encode()
        parts = [raw] if len(raw) == 1 else [raw[i : i + 1] for i in range(len(raw))]
        for part in parts:
            value = first if not tokens else -1.0
            tokens.append(
                TokenLogprob(
                    text=part.decode(errors="replace"),
                    bytes=part,
                    id=part[0],
                    logprob=None if logprobs is None else value,
                    top=TOP[: logprobs or 0] if value is not None else (),
                )
            )
    return tokens


class ScriptedGeneration(Generation):
    def __init__(self, engine: ScriptedEngine, request: GenerateRequest) -> None:
        self.engine, self.request = engine, request
        self.prompt = text_of(request.prompt)
        self.prompt_tokens = len(self.prompt)
        self.verb, _, self.rest = self.prompt.rpartition("\n")[2].partition(":")
        self.written = 0
        self.done = False
        engine.running += 1

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        if self.request.echo:
            tokens = tuple(tokens_of(self.prompt, self.request.logprobs, None))
            yield Chunk(text=self.prompt, tokens=tokens)
        if self.verb == "defect":
            raise RuntimeError(f"defect {self.rest}")
        text, pause = self.rest if self.verb == "say" else self.prompt, 0.0
        if self.verb in ("slow", "die"):
            count = int(self.rest)
            text = "x" * (count if self.verb == "slow" else count + 1)
            pause = 0.02 if self.verb == "slow" else 0.0
        limit = 10**9 if self.request.max_tokens is None else self.request.max_tokens
        finish = "stop" if len(text) <= limit else "length"
        for char in text[:limit]:
            await asyncio.sleep(pause)
            if self.done:
                return
            if self.engine.closed:
                raise EngineUnavailable("The server is stopping.")
            if self.verb == "die" and self.written == int(self.rest):
                self.end()
                raise EngineUnavailable("The engine died.", retry_after=3.0)
            self.written += 1
            yield Chunk(text=char, tokens=tuple(tokens_of(char, self.request.logprobs, -1.0)))
        self.end()
        yield Chunk(finish_reason=finish, usage=self.usage())  # type: ignore[arg-type]

    def usage(self) -> Usage:
        return Usage(prompt_tokens=self.prompt_tokens, completion_tokens=self.written)

    def end(self) -> None:
        if not self.done:
            self.done = True
            self.engine.running -= 1

    async def cancel(self) -> Usage:
        self.end()
        return self.usage()


class ScriptedEngine(Engine):
    def __init__(self, name: str, created: int) -> None:
        self.info = ModelInfo(id=name, context_length=CONTEXT, vocab_size=256, created=created)
        self.running = 0
        self.closed = False

    async def start(self) -> None: ...

    async def close(self) -> None:
        self.closed = True

    async def generate(self, request: GenerateRequest) -> Generation:
        text = text_of(request.prompt)
        if text.endswith("refuse:down"):
            raise EngineUnavailable("The engine is being restarted.", retry_after=2.5)
        if text.endswith("refuse:full"):
            raise Overloaded("The queue is full.")
        if len(text) + (request.max_tokens or 0) > CONTEXT:
            raise ContextLengthExceeded(
                f"This model's maximum context length is {CONTEXT} tokens.", param="prompt"
            )
        return ScriptedGeneration(self, request)

    async def score(self, request: ScoreRequest) -> list[Score]:
        raise NotImplementedError

    async def embed(self, texts: Sequence[str], *, tenant: str = "") -> list[Embedding]:
        return [Embedding(vector=(0.6, -0.8), tokens=len(text)) for text in texts]

    async def count_tokens(self, prompt: Prompt) -> int:
        return len(text_of(prompt))

    def status(self) -> EngineStatus:
        return EngineStatus(ready=True, running=self.running)


class ScriptedPool:
    def __init__(self, registry: Registry, settings: Settings) -> None:
        self.registry = registry
        self.engines: dict[str, ScriptedEngine] = {}

    async def get(self, name: str) -> Engine:
        version = self.registry.resolve(name)
        if version is None:
            raise NotFound(f"no {name}")
        engine = ScriptedEngine(version.name, version.created)
        return self.engines.setdefault(version.name, engine)

    def loaded(self) -> Mapping[str, Engine]:
        return self.engines

    async def close(self) -> None:
        for engine in self.engines.values():
            await engine.close()
