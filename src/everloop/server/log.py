"""Log lines with an allow-list of fields: never a prompt, an answer, a key or a header.

Plain lines on a terminal, one JSON object a line elsewhere. Of an exception only its type and the
places it passed are written, because its message may quote what a user sent.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
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

logger = logging.getLogger("everloop.server")


def event(name: str, *, level: int = logging.INFO, **fields: object) -> None:
    """Writes one line. Every field must be in FIELDS; None is left out."""
    unknown = fields.keys() - set(FIELDS)
    assert not unknown, f"log fields not on the allow-list: {sorted(unknown)}"
    if logger.isEnabledFor(level):
        shown = {k: v for k, v in fields.items() if v is not None}
        logger.log(level, name, extra={"fields": shown})


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


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        head = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        return orjson.dumps(head | _fields(record), default=str).decode()


class PlainFormatter(logging.Formatter):
    """For eyes: `time level event name=value …`."""

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{k}={v}" for k, v in _fields(record).items())
        message = record.getMessage()
        return f"{_time(record)} {record.levelname.lower()} {message} {fields}".rstrip()


def _time(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + (
        f".{int(record.msecs):03d}Z"
    )


def configure(level: str, stream: IO[str] | None = None) -> None:
    """Sends all of the process's logging through the two formatters above, to stderr."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(PlainFormatter() if stream.isatty() else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logger.setLevel(level.upper())
