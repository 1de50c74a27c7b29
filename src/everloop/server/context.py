"""What is known of one request on its way through the server: for its log line and metrics."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from starlette.requests import Request
from starlette.types import Scope

from everloop.engine.interface import Usage

if TYPE_CHECKING:
    from everloop.server.service import Service

_RECORD = "everloop.record"


@dataclass(slots=True)
class Record:
    """Filled in as the request is understood. Nothing in it is a user's text."""

    request_id: str = field(default_factory=lambda: "req_" + secrets.token_hex(16))
    started: float = field(default_factory=time.perf_counter)
    key: str | None = None  # the key's id
    model: str | None = None
    stream: bool | None = None
    usage: Usage | None = None
    first: float | None = None  # seconds to the first piece of the answer
    engine: float | None = None  # seconds that a whole answer took the engine, queue included
    error: str | None = None
    code: str | None = None
    param: str | None = None

    def took(self) -> float:
        """Seconds since the request's head was read."""
        return time.perf_counter() - self.started

    def spoke(self) -> None:
        """The first piece of the answer is there."""
        if self.first is None:
            self.first = self.took()


def start_record(scope: Scope) -> Record:
    record = Record()
    scope[_RECORD] = record
    return record


def record_of(scope: Scope) -> Record:
    """The record of the request; it lives as long as the request does."""
    return cast(Record, scope[_RECORD])


def service_of(request: Request[Any]) -> Service:
    """What the app was made with."""
    return cast("Service", request.app.state.service)
