"""One OpenAI-compatible server over HTTP: deadlines, retries, and errors in our own words."""

from __future__ import annotations

import asyncio
import email.utils
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx2
import orjson

from everloop.engine.remote.sse import events
from everloop.errors import (
    ContextLengthExceeded,
    EngineUnavailable,
    EverloopError,
    InvalidRequest,
    KeyRefused,
    NotFound,
    Overloaded,
)

Json = dict[str, Any]
T = TypeVar("T")

RETRIED = frozenset({408, 429, 500, 502, 503, 504})
MAX_RESPONSE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteOptions:
    """Patience with a remote server."""

    connect_seconds: float = 5.0
    try_seconds: float = 120.0
    """From sending a request to the first event of its stream, or to the end of its reply."""
    idle_seconds: float = 60.0
    """Between two events of a stream."""
    total_seconds: float = 600.0
    """All tries and the whole stream together."""
    retries: int = 2
    """Further tries while nothing has been answered."""
    backoff_seconds: float = 0.5
    """Before the first further try; doubled each time, with jitter, unless the server says."""
    longest_wait: float = 20.0
    """A server that asks for a longer pause is not waited for."""


class Refused(Exception):
    """A try that failed. `again`: another one may succeed; `wait`: seconds the server asked for."""

    def __init__(self, error: EverloopError, *, again: bool, wait: float | None = None) -> None:
        super().__init__(str(error))
        self.error, self.again, self.wait = error, again, wait


class Api:
    """Sends requests to one base URL."""

    def __init__(self, url: str, key: str | None, options: RemoteOptions) -> None:
        self._url, self.options = url.rstrip("/"), options
        headers = {"accept-encoding": "identity"}
        if key:
            headers["authorization"] = f"Bearer {key}"
        self._client = httpx2.AsyncClient(
            headers=headers,
            timeout=httpx2.Timeout(None, connect=options.connect_seconds),
            limits=httpx2.Limits(max_connections=1000, max_keepalive_connections=50),
        )

    async def close(self) -> None:
        """Closes all connections."""
        await self._client.aclose()

    async def get(self, path: str) -> Json:
        """A JSON reply."""
        return await self._retried(lambda: self._whole("GET", self._url + path, None))

    async def post(self, path: str, body: Json, *, root: bool = False) -> Json:
        """A JSON reply; `root` leaves the base URL's /v1 out."""
        url = self._url.removesuffix("/v1") if root else self._url
        return await self._retried(lambda: self._whole("POST", url + path, body))

    async def stream(self, path: str, body: Json) -> Stream:
        """A stream whose first event has arrived."""
        return await self._retried(lambda: self._open(self._url + path, body))

    async def _retried(self, once: Callable[[], Coroutine[None, None, T]]) -> T:
        deadline = time.monotonic() + self.options.total_seconds
        for number in range(self.options.retries + 1):
            left = deadline - time.monotonic()
            try:
                async with asyncio.timeout(min(self.options.try_seconds, left)):
                    return await once()
            except TimeoutError:
                failure = Refused(_down("did not answer in time"), again=True)
            except httpx2.InvalidURL as error:
                raise InvalidRequest(
                    f"remote_url is no usable URL: {error}.", param="remote_url"
                ) from None
            except httpx2.HTTPError as error:
                failure = Refused(_down(f"failed ({type(error).__name__})"), again=True)
            except Refused as refused:
                failure = refused
            pause = failure.wait
            if pause is None:
                pause = self.options.backoff_seconds * 2**number * random.uniform(0.5, 1.0)
            left = deadline - time.monotonic()
            last = number == self.options.retries
            if last or not failure.again or pause > min(left, self.options.longest_wait):
                raise failure.error
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def _send(self, method: str, url: str, body: Json | None) -> httpx2.Response:
        content = None if body is None else orjson.dumps(body)
        headers = {} if body is None else {"content-type": "application/json"}
        request = self._client.build_request(method, url, content=content, headers=headers)
        response = await self._client.send(request, stream=True)
        if response.status_code != 200:
            try:
                data = await _read(response)
            finally:
                await response.aclose()
            raise refusal(response.status_code, response.headers, data)
        return response

    async def _whole(self, method: str, url: str, body: Json | None) -> Json:
        response = await self._send(method, url, body)
        try:
            return _object(await _read(response))
        finally:
            await response.aclose()

    async def _open(self, url: str, body: Json) -> Stream:
        response = await self._send("POST", url, body)
        stream = Stream(response, self.options)
        try:
            await stream.peek()
        except BaseException:
            await stream.close()
            raise
        return stream


class Stream:
    """JSON events of an open response. The deadline runs from the first event."""

    def __init__(self, response: httpx2.Response, options: RemoteOptions) -> None:
        self._response, self._options = response, options
        self._events = events(response.aiter_bytes())
        self._first: list[Json] = []
        self._deadline = time.monotonic() + options.total_seconds

    async def peek(self) -> None:
        """Waits for the first event: an error in it is raised before anybody was told of success.
        Raises Refused."""
        kind = self._response.headers.get("content-type", "")
        if not kind.startswith("text/event-stream"):
            raise Refused(_down(f"answered with {kind or 'no content type'}"), again=False)
        try:
            first = await anext(self._events)
        except StopAsyncIteration:
            raise Refused(_down("sent an empty stream"), again=True) from None
        except ValueError as error:
            raise Refused(_down(f"sent {error}"), again=False) from None
        if "error" in first:
            raise refusal(_status_of(first["error"]), self._response.headers, orjson.dumps(first))
        self._first = [first]

    async def __aiter__(self) -> AsyncIterator[Json]:
        for event in self._first:
            yield event
        while True:
            left = self._deadline - time.monotonic()
            try:
                async with asyncio.timeout(min(self._options.idle_seconds, left)):
                    event = await anext(self._events)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise _down("stopped sending in the middle of an answer") from None
            except httpx2.HTTPError as error:
                raise _down(f"broke off ({type(error).__name__})") from None
            except ValueError as error:
                raise _down(f"sent {error}") from None
            if "error" in event:
                raise _down(f"failed in the middle of an answer: {_message(event['error'])}")
            yield event

    async def close(self) -> None:
        """Ends the stream, and with it the server's work for it."""
        await self._response.aclose()


async def _read(response: httpx2.Response) -> bytes:
    data = bytearray()
    async for piece in response.aiter_bytes():
        data += piece
        if len(data) > MAX_RESPONSE_BYTES:
            raise Refused(_down("sent too much"), again=False)
    return bytes(data)


def _object(data: bytes) -> Json:
    try:
        value = orjson.loads(data)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise Refused(_down("sent something that is not a JSON object"), again=False)
    return value


def refusal(status: int, headers: httpx2.Headers, data: bytes) -> Refused:
    """What an error reply means for us."""
    try:
        error = orjson.loads(data).get("error")
    except (ValueError, AttributeError):
        error = None
    details: Json = error if isinstance(error, dict) else {}
    message = _message(error) if error is not None else f"status {status}"
    code, param = _text(details.get("code")), _text(details.get("param"))
    wait = retry_after(headers)
    again = status in RETRIED and headers.get("x-should-retry") != "false"
    if status in (400, 413, 422):
        if code == "context_length_exceeded":
            return Refused(ContextLengthExceeded(message, param=param), again=False)
        return Refused(InvalidRequest(message, param=param, code=code), again=False)
    if status == 404:
        found = NotFound(f"The remote server has no such model: {message}", param="model")
        return Refused(found, again=False)
    if status in (401, 403):
        refused = "The remote server refused the key: check remote_key (or --key)."
        return Refused(KeyRefused(refused), again=False)
    if status == 429:
        busy = Overloaded("The remote server is busy. Try again soon.", retry_after=wait or 1.0)
        return Refused(busy, again=again, wait=wait)
    return Refused(_down(f"failed: {message}", wait), again=again, wait=wait)


def retry_after(headers: httpx2.Headers) -> float | None:
    """Seconds to wait by `retry-after-ms` or `retry-after` (seconds or a date)."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "")
        try:
            return max(float(value) * unit, 0.0)
        except ValueError:
            pass
        if name == "retry-after" and value:
            try:
                return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
            except ValueError:
                pass
    return None


def _status_of(error: object) -> int:
    """The status that an error inside a stream should have had."""
    code = error.get("code") if isinstance(error, dict) else None
    kind = error.get("type") if isinstance(error, dict) else None
    if isinstance(code, int) and 400 <= code < 600:
        return code
    return 400 if kind == "invalid_request_error" else 500


def _down(what: str, wait: float | None = None) -> EngineUnavailable:
    return EngineUnavailable(f"The remote server {what}.", retry_after=wait or 2.0)


def _message(error: object) -> str:
    """The remote's own words, shortened: a page of HTML helps nobody."""
    text = error.get("message") if isinstance(error, dict) else error
    return text[:500] if isinstance(text, str) else "no message"


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
