"""Runs answers for a route: ended when the client hangs up, and metered however they end."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any

from starlette.requests import Request

from everloop.engine.interface import Chunk
from everloop.server.context import Record, record_of
from everloop.server.stream import until_gone
from everloop.tasks import Choices, Collected

Start = Callable[[], Awaitable[Choices]]
"""Starts the answers; a function, because nothing may start before somebody waits for it."""


async def answered(request: Request[Any], start: Start) -> Collected:
    """All answers, complete. Raises what the task raises, and ClientDisconnect."""
    record = record_of(request.scope)

    async def work() -> Collected:
        began = time.perf_counter()
        choices = await start()
        try:
            return await choices.collect()
        finally:
            record.usage = choices.usage
            record.engine = time.perf_counter() - began

    return await until_gone(request.receive, work())


async def pieces(record: Record, start: Start) -> AsyncGenerator[tuple[int, Sequence[Chunk]], None]:
    """(answer, chunks that are there at once) as they come. `record.usage` is final at the end;
    close it when leaving."""
    choices = await start()
    try:
        async with choices, aclosing(choices.groups()) as groups:
            async for index, chunks in groups:
                record.spoke()
                yield index, chunks
    finally:
        record.usage = choices.usage
