"""POST /v1/chat/completions."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from everloop import tasks
from everloop.engine.interface import Engine, GenerateRequest, TokenLogprob
from everloop.server.cleaning import Report, clean_messages, told
from everloop.server.context import record_of, service_of
from everloop.server.document import body_of
from everloop.server.errors import renamed
from everloop.server.generate import Start, answered, pieces
from everloop.server.parameters import ChatParameters
from everloop.server.service import fingerprint
from everloop.server.stream import DONE, EventStream, TextEvents, sse
from everloop.server.wire import JSON, chat_logprobs, headers, new_id, usage

router = APIRouter()

_NAMES = {"prompt": "messages", "logprobs": "top_logprobs"}
"""The engine's names for parameters to those of this endpoint."""


@router.post("/v1/chat/completions", openapi_extra=body_of(ChatParameters))
async def create_chat_completion(request: Request) -> Response:
    """Answers a conversation, at once or as a stream."""
    return await chat(request)


async def chat(request: Request, engine_name: str | None = None) -> Response:
    """As the route; `engine_name` is the model that an old path names."""
    service = service_of(request)
    asked = await service.read(request, ChatParameters, engine_name)
    record = record_of(request.scope)
    record.stream = asked.stream
    engine = await service.engine(request, asked.model)
    conversation, cleaned = await clean_messages(asked.conversation, asked.clean)
    wanted = GenerateRequest(
        prompt=conversation,
        max_tokens=asked.limit,
        sampling=asked.sampling(engine.info.sampling),
        stop=asked.stop,
        ignore_eos=asked.ignore_eos,
        early_exit=asked.early_exit,
        logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
        stream=asked.stream,
        prediction=asked.prediction,
        tenant=record.key or "",
        request_id=record.request_id,
    )

    async def start() -> tasks.Choices:
        with renamed(_NAMES):
            return await tasks.converse(engine, wanted, n=asked.n)

    if asked.stream:
        events = _events(request, engine, asked, start, cleaned)
        return EventStream(events, headers(asked.early_exit))
    done = await answered(request, start)
    choices: list[dict[str, Any]] = [
        {
            "index": choice.index,
            "message": {
                "role": "assistant",
                "content": choice.text,
                "refusal": None,
                "annotations": [],
            },
            "logprobs": _logprobs(asked, choice.tokens),
            "finish_reason": choice.finish_reason,
        }
        for choice in done.choices
    ]
    head = _head(engine, "chat.completion")
    answer = {**head, "choices": choices, "usage": usage(done.usage), **told(cleaned)}
    return JSON(answer, headers=headers(asked.early_exit))


async def _events(
    request: Request, engine: Engine, asked: ChatParameters, start: Start, cleaned: Report
) -> AsyncGenerator[bytes, None]:
    record = record_of(request.scope)
    head = _head(engine, "chat.completion.chunk")
    tail = {"usage": None} if asked.include_usage else {}

    def data(index: int, delta: dict[str, Any], logprobs: Any, finish: str | None) -> Any:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return {**head, "choices": [choice], **tail}

    def content(index: int) -> TextEvents:
        return TextEvents(lambda text: data(index, {"content": text}, None, None))

    texts: dict[int, TextEvents] = {}
    async with aclosing(pieces(record, start)) as answers:
        async for index, chunks in answers:
            events = []
            if index not in texts:
                texts[index] = content(index)
                first = {"role": "assistant", "content": "", "refusal": None}
                begun = data(index, first, None, None)
                events.append(sse(begun if len(texts) > 1 else {**begun, **told(cleaned)}))
            for chunk in chunks:
                if asked.logprobs and (chunk.text or chunk.tokens):
                    logprobs = _logprobs(asked, chunk.tokens)
                    events.append(sse(data(index, {"content": chunk.text}, logprobs, None)))
                elif chunk.text:
                    events.append(texts[index](chunk.text))
                if chunk.finish_reason is not None:
                    events.append(sse(data(index, {}, None, chunk.finish_reason)))
            if events:
                yield b"".join(events)
    if asked.include_usage and record.usage is not None:
        yield sse({**head, "choices": [], "usage": usage(record.usage)})
    yield DONE


def _head(engine: Engine, kind: str) -> dict[str, Any]:
    return {
        "id": new_id("chatcmpl"),
        "object": kind,
        "created": int(time.time()),
        "model": engine.info.id,
        "service_tier": "default",
        "system_fingerprint": fingerprint(engine.info),
    }


def _logprobs(asked: ChatParameters, tokens: tuple[TokenLogprob, ...]) -> dict[str, Any] | None:
    return chat_logprobs(tokens, asked.top_logprobs or 0) if asked.logprobs else None
