"""POST /v1/completions: raw text continued, for one prompt or many."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from everloop import tasks
from everloop.engine.interface import Chunk, Engine, GenerateRequest, Prompt, TokenLogprob
from everloop.server.cleaning import Report, clean_prompts, told
from everloop.server.context import record_of, service_of
from everloop.server.document import body_of
from everloop.server.errors import renamed
from everloop.server.generate import Start, answered, pieces
from everloop.server.parameters import CompletionParameters
from everloop.server.service import fingerprint
from everloop.server.stream import DONE, EventStream, TextEvents, sse, until_gone
from everloop.server.wire import JSON, CompletionLogprobs, headers, new_id, usage

router = APIRouter()

_NAMES = {"messages": "prompt"}
"""The engine's names for parameters to those of this endpoint."""


@router.post("/v1/completions", openapi_extra=body_of(CompletionParameters))
async def create_completion(request: Request) -> Response:
    """Continues each prompt, at once or as a stream."""
    return await completion(request)


async def completion(request: Request, engine_name: str | None = None) -> Response:
    """As the route; `engine_name` is the model that an old path names."""
    service = service_of(request)
    asked = await service.read(request, CompletionParameters, engine_name)
    record = record_of(request.scope)
    record.stream = asked.stream
    engine = await service.engine(request, asked.model)
    prompts, cleaned = await clean_prompts(asked.prompts, asked.clean)
    wanted = [
        GenerateRequest(
            prompt=prompt,
            max_tokens=asked.max_tokens,
            sampling=asked.sampling(engine.info.sampling),
            stop=asked.stop,
            ignore_eos=asked.ignore_eos,
            early_exit=asked.early_exit,
            logprobs=asked.logprobs,
            stream=asked.stream,
            echo=asked.echo,
            suffix=asked.suffix,
            tenant=record.key or "",
            request_id=record.request_id,
        )
        for prompt in prompts
    ]

    async def start() -> tasks.Choices:
        with renamed(_NAMES):
            return await tasks.complete(engine, wanted, n=asked.n, best_of=asked.best_of)

    logprobs = []
    if asked.logprobs is not None:
        with renamed(_NAMES):
            offsets = await until_gone(request.receive, _offsets(engine, prompts, asked.echo))
        logprobs = [
            CompletionLogprobs(top=asked.logprobs, offset=offset)
            for offset in offsets
            for _ in range(asked.n)
        ]

    def choice(
        index: int, text: str, tokens: tuple[TokenLogprob, ...], finish: str | None
    ) -> dict[str, Any]:
        return {
            "text": text,
            "index": index,
            "logprobs": logprobs[index].piece(tokens) if logprobs and tokens else None,
            "finish_reason": finish,
        }

    head = _head(engine)
    if asked.stream:
        events = _events(request, asked, start, head, choice, cleaned)
        return EventStream(events, headers(asked.early_exit))
    done = await answered(request, start)
    choices = [choice(c.index, c.text, c.tokens, c.finish_reason) for c in done.choices]
    answer = {**head, "choices": choices, "usage": usage(done.usage), **told(cleaned)}
    return JSON(answer, headers=headers(asked.early_exit))


async def _events(
    request: Request,
    asked: CompletionParameters,
    start: Start,
    head: dict[str, Any],
    choice: Any,
    cleaned: Report,
) -> AsyncGenerator[bytes, None]:
    record = record_of(request.scope)
    tail = {"usage": None} if asked.include_usage else {}

    def data(index: int, chunk: Chunk) -> Any:
        answer = choice(index, chunk.text, chunk.tokens, chunk.finish_reason)
        return {**head, "choices": [answer], **tail}

    def piece(index: int) -> TextEvents:
        return TextEvents(lambda text: data(index, Chunk(text=text)))

    texts: dict[int, TextEvents] = {}
    async with aclosing(pieces(record, start)) as answers:
        async for index, chunks in answers:
            if cleaned and not texts:
                yield sse({**data(index, Chunk(text="")), **told(cleaned)})
            if index not in texts:
                texts[index] = piece(index)
            yield b"".join(
                texts[index](chunk.text)
                if chunk.finish_reason is None and not chunk.tokens
                else sse(data(index, chunk))
                for chunk in chunks
            )
    if asked.include_usage and record.usage is not None:
        yield sse({**head, "choices": [], "usage": usage(record.usage)})
    yield DONE


async def _offsets(engine: Engine, prompts: Sequence[Prompt], echoed: bool) -> list[int]:
    """Where each answer begins: after its prompt, counted in characters."""
    offsets = []
    for prompt in prompts:
        if echoed:
            offsets.append(0)
        elif isinstance(prompt, str):
            offsets.append(len(prompt))
        else:  # the engine knows the text of token ids
            echo = GenerateRequest(prompt=prompt, max_tokens=0, echo=True)
            done = await (await tasks.complete(engine, echo)).collect()
            offsets.append(len(done.choices[0].text))
    return offsets


def _head(engine: Engine) -> dict[str, Any]:
    return {
        "id": new_id("cmpl"),
        "object": "text_completion",
        "created": int(time.time()),
        "model": engine.info.id,
        "system_fingerprint": fingerprint(engine.info),
    }
