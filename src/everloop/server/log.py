"""Log lines with an allow-list of fields: never a prompt, an answer, a key or a header.

Plain lines on a terminal, one JSON object a line elsewhere. Of an exception only its type and the
places it passed are written, because its message may quote what a user sent.
"""

from __future__ import annotations

import functools
import logging
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import orjson

FIELDS = (
    "request_id",
    "method",
    "route",
    "status",
    "ms",
    "first_ms",
    "key",
    "model",
    "prompt_tokens",
    "completion_tokens",
    "stream",
    "error",
    "code",
    "param",
    "where",
    "address",
    "pid",
    "reason",
)
"""All that a line may hold beside time, level and event."""

_ALLOWED = frozenset(FIELDS)

logger = logging.getLogger("everloop.server")


class _Output:
    """Where `event` writes, past logging's own machinery, which takes longer than the line."""

    stream: IO[str] | None = None
    line: Callable[[float, str, str, Mapping[str, Any]], str]


def event(name: str, *, level: int = logging.INFO, **fields: object) -> None:
    """Writes one line. Every field must be in FIELDS; None is left out."""
    assert fields.keys() <= _ALLOWED, f"not on the allow-list: {sorted(fields.keys() - _ALLOWED)}"
    if not logger.isEnabledFor(level):
        return
    shown = {k: v for k, v in fields.items() if v is not None}
    if _Output.stream is None:
        logger.log(level, name, extra={"fields": shown})
        return
    word = logging.getLevelName(level).lower()
    _Output.stream.write(_Output.line(time.time(), word, name, shown) + "\n")
    _Output.stream.flush()


def where(error: BaseException) -> str:
    """The places an exception passed, innermost last, without its message."""
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    return " > ".join(f"{Path(f.filename).name}:{f.lineno}:{f.name}" for f in frames)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = dict(getattr(record, "fields", {}))
    if record.exc_info and record.exc_info[1] is not None:
        fields["error"] = type(record.exc_info[1]).__name__
        fields["where"] = where(record.exc_info[1])
    return fields


def json_line(created: float, level: str, event: str, fields: Mapping[str, Any]) -> str:
    """One JSON object."""
    whole = {"time": _time(created), "level": level, "event": event, **fields}
    return orjson.dumps(whole, default=str).decode()


def plain_line(created: float, level: str, event: str, fields: Mapping[str, Any]) -> str:
    """For eyes: `time level event name=value …`."""
    shown = "".join(f" {k}={v}" for k, v in fields.items())
    return f"{_time(created)} {level} {event}{shown}"


class Formatter(logging.Formatter):
    """Makes one of these lines of what comes through logging."""

    def __init__(self, line: Callable[[float, str, str, Mapping[str, Any]], str]) -> None:
        super().__init__()
        self._line = line

    def format(self, record: logging.LogRecord) -> str:
        level, message = record.levelname.lower(), record.getMessage()
        return self._line(record.created, level, message, _fields(record))


@functools.lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _time(created: float) -> str:
    milliseconds = int(created * 1000)
    return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


def configure(level: str, stream: IO[str] | None = None) -> None:
    """Sends all of the process's logging to stderr, one line each."""
    stream = stream or sys.stderr
    _Output.stream = stream
    _Output.line = staticmethod(plain_line if stream.isatty() else json_line)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Formatter(_Output.line))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logger.setLevel(level.upper())
