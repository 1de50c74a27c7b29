"""Reads a JSON body within its limit. Raises before anything else has been decided."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request

from everloop.errors import InvalidRequest
from everloop.server.errors import RequestTooLarge, UnsupportedMedia
from everloop.server.protocol import DRAIN


async def read_json(request: Request, limit: int) -> dict[str, Any]:
    """The request's JSON object. At most `limit` bytes are kept in memory.

    Raises InvalidRequest for what is no JSON object or has a NUL character in a text,
    RequestTooLarge, UnsupportedMedia, and ClientDisconnect.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedMedia(
            f"Content-Encoding {encoding[:40]!r} is not supported: send plain JSON.",
            param="content-encoding",
        )
    raw = await _read(request, limit)
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(
            "We could not parse the JSON body of your request. (HINT: This likely means you "
            "aren't using your HTTP library correctly. The OpenAI API expects a JSON payload, "
            f"but what was sent was not valid JSON: {_reason(error)}.)"
        ) from None
    if not isinstance(body, dict):
        raise InvalidRequest("The JSON body of a request has to be an object: {…}.")
    if b"\\u0000" in raw:  # the only spelling of NUL that JSON allows
        for path in _nul_paths(body, ""):
            raise InvalidRequest(
                f"Invalid '{path}': it contains the NUL character (U+0000). Remove it.",
                param=path,
                code="invalid_value",
            )
    return body


async def _read(request: Request, limit: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit + DRAIN:
        raise _too_large(limit)  # not worth reading on: the connection closes
    parts: list[bytes] = []
    size = 0
    async for part in _parts(request):
        size += len(part)
        if size <= limit:
            parts.append(part)
        else:  # read to the end, so that the client has finished sending and sees the answer
            parts.clear()
    if size > limit:
        raise _too_large(limit)
    return b"".join(parts)


async def _parts(request: Request) -> Any:
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        yield message.get("body", b"")
        more = message.get("more_body", False)


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(
        f"The request body is larger than {limit} bytes (max_body_bytes). Send less at once.",
        code="request_too_large",
    )


def _reason(error: orjson.JSONDecodeError) -> str:
    """Where and why, without quoting the body."""
    return f"{error.msg.split(': line')[0]} (line {error.lineno}, column {error.colno})"


def _nul_paths(value: object, path: str) -> Iterator[str]:
    """Paths of all texts with a NUL, keys included, in order. Not deeper than orjson's 1024."""
    if isinstance(value, str):
        if "\0" in value:
            yield path
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _nul_paths(item, f"{path}[{i}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            if "\0" in key:
                yield path or "body"
            yield from _nul_paths(item, f"{path}.{key}" if path else key)
