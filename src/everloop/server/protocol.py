"""uvicorn's h11 protocol with what it lacks against slow and greedy clients.

A request has to arrive within `receive_timeout`, counted again for every 64 KiB that did arrive;
an answer may stay unread for `send_timeout`; and there are at most `max_connections`.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from everloop.server.errors import Problem
from everloop.server.joined import Joined
from everloop.settings import Settings

PROGRESS = 64 * 2**10
"""Bytes that earn a client another `receive_timeout`."""

DRAIN = 64 * 2**20
"""Bytes of a refused body that are read and dropped, so that the client sees the answer."""

_REASONS = {400: b"Bad Request", 408: b"Request Timeout", 503: b"Service Unavailable"}


class GuardedProtocol(H11Protocol):
    """One connection. Made by `guarded`, which fills in the limits."""

    settings: Settings

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._receiving: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._step = 0  # bytes since the timer was set
        self._total = 0  # bytes of this request

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(Joined(transport, self.loop))
        if len(self.connections) > self.settings.max_connections:
            self._refuse(503, "Too many connections. Try again soon.", retry_after=1.0)
            return
        self._expect()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._step += len(data)
        self._total += len(data)
        if self._total > self.settings.max_body_bytes + self.settings.max_header_bytes + DRAIN:
            self.transport.abort()
            return
        if self._receiving is None or self._step >= PROGRESS:
            self._expect()
        super().data_received(data)
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._received()
        if self._stalled is not None:
            self._stalled.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(self.settings.send_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, f"{msg} The request head is malformed, or longer than max_header_bytes.")

    def _expect(self) -> None:
        """The rest of a request is due within the time limit, from now."""
        if self._receiving is not None:
            self._receiving.cancel()
        self._step = 0
        self._receiving = self.loop.call_later(self.settings.receive_timeout, self._expired)

    def _received(self) -> None:
        if self._receiving is not None:
            self._receiving.cancel()
        self._receiving = None
        self._step = self._total = 0

    def _expired(self) -> None:
        self._receiving = None
        self._refuse(408, "The request did not arrive in time (receive_timeout).")

    def _refuse(self, status: int, message: str, *, retry_after: float | None = None) -> None:
        """Answers in OpenAI's shape, unless an answer has begun, and closes."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            kind = "invalid_request_error" if status < 500 else "server_error"
            problem = Problem(status=status, message=message, type=kind, retry_after=retry_after)
            headers = [
                *problem.headers,
                (b"content-length", b"%d" % len(problem.body)),
                (b"connection", b"close"),
            ]
            head = b"HTTP/1.1 %d %s\r\n" % (status, _REASONS[status])
            lines = b"".join(b"%s: %s\r\n" % header for header in headers)
            self.transport.write(head + lines + b"\r\n" + problem.body)
        self.transport.close()


def guarded(settings: Settings) -> type[GuardedProtocol]:
    """The protocol class for uvicorn, with this server's limits."""
    return type("Protocol", (GuardedProtocol,), {"settings": settings})


def allow_connections(count: int) -> None:
    """Raises the soft limit of open files so that `count` connections fit, if it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 256  # databases, model files, pipes
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
