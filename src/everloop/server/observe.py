"""The outermost layer: one path spelling, request ids, error answers, a log line, metrics.

Pure ASGI. Whatever is raised further in becomes an answer here, and nothing passes unseen.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from everloop.errors import EverloopError
from everloop.server import log
from everloop.server.context import Record, start_record
from everloop.server.errors import HeadersTooLarge, Problem, problem_of
from everloop.server.service import Service

CLIENT_GONE = 499  # nginx's status for it; only in logs and metrics
_QUIET = {"/health", "/ready", "/metrics"}


class Observe:
    """Wraps the app. Adds OpenAI's headers to every answer."""

    def __init__(self, app: ASGIApp, *, service: Service) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # A base URL with a slash at its end yields `//v1//models`; ours has one spelling.
        scope["path"] = re.sub("/+", "/", scope["path"]).rstrip("/") or "/"
        record = start_record(scope)
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *_headers(record)]}
            await send(message)

        metrics = self.service.metrics
        metrics.in_progress.inc()
        try:
            size = sum(len(name) + len(value) for name, value in scope["headers"])
            size += len(scope.get("raw_path", b"")) + len(scope["query_string"])
            if size > self.service.settings.max_header_bytes:
                raise HeadersTooLarge(
                    "The request's head is larger than "
                    f"{self.service.settings.max_header_bytes} bytes (max_header_bytes)."
                )
            await self.app(scope, receive, answer)
        except ClientDisconnect:
            status = CLIENT_GONE
        except Exception as error:
            problem = problem_of(error)
            record.error, record.code, record.param = (
                type(error).__name__,
                problem.code,
                _plain(problem.param),
            )
            if not isinstance(error, EverloopError):
                log.event(
                    "defect",
                    level=logging.ERROR,
                    request_id=record.request_id,
                    error=record.error,
                    where=log.where(error),
                )
            if status == 0:
                await send_problem(problem, answer)
        finally:
            metrics.in_progress.dec()
            route = getattr(scope.get("route"), "path", "unmatched")
            metrics.record(record, route, status)
            _log(record, scope, route, status)


async def send_problem(problem: Problem, send: Send) -> None:
    """Answers with an error."""
    headers = [*problem.headers, (b"content-length", b"%d" % len(problem.body))]
    if problem.status == 413:  # the rest of the body may not be read
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": problem.body})


def _headers(record: Record) -> list[tuple[bytes, bytes]]:
    identity = record.request_id.encode()
    headers = [
        (b"x-request-id", identity),
        (b"request-id", identity),  # openai 0.28 reads this one
        (b"openai-processing-ms", b"%d" % (record.took() * 1000)),
        (b"openai-version", b"2020-10-01"),
        (b"x-content-type-options", b"nosniff"),
    ]
    if record.engine is not None:  # the rest of the time is the server's own
        headers.append((b"x-everloop-engine-ms", b"%.2f" % (record.engine * 1000)))
    return headers


def _plain(param: str | None) -> str | None:
    """A parameter's name for the log, unless a user made it up."""
    return param if param is not None and re.fullmatch(r"[a-z_]{1,40}(\[\d+\])?", param) else None


def _log(record: Record, scope: Scope, route: str, status: int) -> None:
    level = logging.ERROR if status >= 500 and status != 503 else logging.INFO
    if route in _QUIET and status < 400:
        level = logging.DEBUG
    usage: Any = record.usage
    log.event(
        "request",
        level=level,
        request_id=record.request_id,
        method=scope["method"] if scope["method"].isalpha() and len(scope["method"]) < 8 else "?",
        route=route,
        status=status,
        ms=round(record.took() * 1000, 1),
        first_ms=None if record.first is None else round(record.first * 1000, 1),
        key=record.key,
        model=record.model,
        stream=record.stream,
        prompt_tokens=usage.prompt_tokens if usage else None,
        completion_tokens=usage.completion_tokens if usage else None,
        error=record.error,
        code=record.code,
        param=record.param,
    )
