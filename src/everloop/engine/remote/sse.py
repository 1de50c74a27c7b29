"""Server-sent events, as OpenAI's API uses them: one JSON object an event, `[DONE]` at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson

MAX_EVENT_BYTES = 4 * 2**20


async def events(source: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    """The JSON objects of a byte stream, however it is cut. Ends at `[DONE]` or with the stream;
    raises ValueError (saying what came instead) for an event that isn't one."""
    data: list[bytes] = []
    async for line in _lines(source):
        if line:
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
            continue  # comments and other fields mean nothing here
        if data:
            payload = b"\n".join(data)
            data = []
            if payload.startswith(b"[DONE]"):
                return
            yield _parse(payload)
    if data and not data[0].startswith(b"[DONE]"):  # the last blank line may be missing
        yield _parse(b"\n".join(data))


def _parse(payload: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(payload)
    except ValueError:
        raise ValueError("an event that is not JSON") from None
    if not isinstance(value, dict):
        raise ValueError("an event that is not a JSON object")
    return value


async def _lines(source: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Lines that end with LF or CRLF."""
    buffer = bytearray()
    async for piece in source:
        buffer += piece
        *whole, rest = buffer.split(b"\n")
        for line in whole:
            yield bytes(line).removesuffix(b"\r")
        buffer = bytearray(rest)
        if len(buffer) > MAX_EVENT_BYTES:
            raise ValueError("a line without end")
    if buffer:
        yield bytes(buffer).removesuffix(b"\r")
