"""Answers that end when their client does: server-sent events, and waits raced with a hang-up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

import orjson
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from everloop.server import log
from everloop.server.context import record_of
from everloop.server.errors import problem_of

T = TypeVar("T")

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"
PING_SECONDS = 15.0
"""A silent stream says that it lives, so that proxies keep it open."""


def sse(data: Any) -> bytes:
    """One event: one JSON object on one line, as the oldest clients need it."""
    return b"data: " + orjson.dumps(data) + b"\n\n"


class TextEvents:
    """Events of one stream that differ in one text only: the rest of them is written once.

    `make` gives the event's data for a text.
    """

    def __init__(self, make: Callable[[str], Any]) -> None:
        mark = "\0"  # in no event otherwise, as far as its last text
        self._before, _, self._after = sse(make(mark)).rpartition(orjson.dumps(mark))

    def __call__(self, text: str) -> bytes:
        return self._before + orjson.dumps(text) + self._after


async def until_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client hangs up (ClientDisconnect).

    The request's body must have been read.
    """
    caller = asyncio.current_task()
    assert caller is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        caller.cancel()

    watching = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if gone and caller.cancelling() == 1:  # by `watch`, and by nobody else
            raise ClientDisconnect from None
        raise
    finally:
        if gone:
            caller.uncancel()
        else:
            watching.cancel()
            await asyncio.sleep(0)  # its end


class EventStream(Response):
    """Sends events as they come. An error before the first one is raised, so that it becomes an
    ordinary error answer; a later one is sent as an event, and ends the stream."""

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncGenerator[bytes, None], headers: Mapping[str, str] | None = None
    ) -> None:
        self._events = events
        self.background = None
        self.status_code = 200
        fixed = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        self.init_headers({**fixed, **(headers or {})})

    def init_headers(self, headers: Any = None) -> None:
        self.body = b""
        super().init_headers(headers)
        self.raw_headers = [h for h in self.raw_headers if h[0] != b"content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await until_gone(receive, self._send(scope, send))

    async def _send(self, scope: Scope, send: Send) -> None:
        async with aclosing(self._events) as events:
            first = await anext(events)
            start: Message = {"type": "http.response.start", "status": 200}
            await send({**start, "headers": self.raw_headers})
            await send(_part(first))
            pings = asyncio.create_task(_ping(send, quiet := _Quiet()))
            try:
                async for event in events:
                    quiet.sent = True
                    await send(_part(event))
            except Exception as error:
                problem = problem_of(error)
                record = record_of(scope)
                record.error, record.code = type(error).__name__, problem.code
                if problem.code == "internal_error":
                    log.event(
                        "defect", level=logging.ERROR, error=record.error, where=log.where(error)
                    )
                await send(_part(b"data: " + problem.body + b"\n\n"))
            finally:
                pings.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Quiet:
    sent = False


async def _ping(send: Send, quiet: _Quiet) -> None:
    while True:
        await asyncio.sleep(PING_SECONDS)
        if not quiet.sent:
            await send(_part(PING))
        quiet.sent = False


def _part(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}
