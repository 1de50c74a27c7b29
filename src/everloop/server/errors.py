"""Every error that leaves the server, in OpenAI's shape, from one factory.

The body always has the four keys message, type, param and code; `code` is a string or null.
Status 409 and 422 are never used: old clients retry the first for ever.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import orjson

from everloop.errors import EverloopError

HINT_405 = "(HINT: Perhaps you meant to use a different HTTP method?)"


class RequestTooLarge(EverloopError):
    """The body is larger than `max_body_bytes`."""

    status = 413


class UnsupportedMedia(EverloopError):
    """The body is compressed or otherwise not plain JSON."""

    status = 415


class HeadersTooLarge(EverloopError):
    """The request head is larger than `max_header_bytes`."""

    status = 431


class InvalidUrl(EverloopError):
    """No such path, or not with this method."""

    def __init__(self, method: str, path: str, *, allowed: bool) -> None:
        path = path if len(path) <= 200 else path[:200] + "…"
        if allowed:
            super().__init__(f"Not allowed to {method} on {path} {HINT_405}")
        else:
            hint = "" if path.startswith("/v1") else ". The API's base URL ends in /v1."
            super().__init__(f"Invalid URL ({method} {path}){hint}")
        self.status = 405 if allowed else 404


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One error as it goes over the wire."""

    status: int
    message: str
    type: str
    param: str | None = None
    code: str | None = None
    retry_after: float | None = None  # seconds

    @property
    def body(self) -> bytes:
        """The JSON object, on one line."""
        error = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        return orjson.dumps({"error": error})

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        headers = [(b"content-type", b"application/json")]
        if self.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if self.retry_after is not None:
            headers += [
                (b"retry-after", b"%d" % max(1, math.ceil(self.retry_after))),
                (b"retry-after-ms", b"%d" % math.ceil(self.retry_after * 1000)),
                (b"x-should-retry", b"true"),
            ]
        elif self.status >= 500:
            headers.append((b"x-should-retry", b"false"))
        return headers


def problem_of(error: BaseException) -> Problem:
    """What a client is told of `error`. What is not meant for a user says nothing of itself."""
    if not isinstance(error, EverloopError):
        return Problem(
            status=500,
            message="The server had an error while processing your request. It is a defect of the "
            "server: please report it with the x-request-id header.",
            type="server_error",
            code="internal_error",
        )
    retry_after = getattr(error, "retry_after", None)
    code, kind = error.code, "invalid_request_error"
    if error.status == 401:
        code = code or "invalid_api_key"
    elif error.status == 429:
        kind = "requests"
    elif error.status >= 500:
        kind = "server_error"
    return Problem(
        status=error.status,
        message=error.message,
        type=kind,
        param=error.param,
        code=code,
        retry_after=retry_after,
    )


@contextmanager
def renamed(names: Mapping[str, str]) -> Iterator[None]:
    """Errors from within name the parameter as the endpoint's callers know it."""
    try:
        yield
    except EverloopError as error:
        if error.param is not None:
            error.param = names.get(error.param, error.param)
        raise
