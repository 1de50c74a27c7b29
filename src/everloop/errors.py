"""Errors that a user can repair. Each says what is wrong, names the parameter or setting, and how
to put it right; the command line prints one line and exits with `exit_code`, the server answers
with `status` in OpenAI's shape. Anything else that is raised is a defect of ours.
"""

from __future__ import annotations


class EverloopError(Exception):
    """Base of every error meant for a user.

    `param` names the request parameter, setting or column at fault; `code` is the short string
    that programs match on (OpenAI's `error.code`).
    """

    status = 500
    exit_code = 1

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


class InvalidRequest(EverloopError):
    """A parameter, setting or argument is wrong."""

    status = 400
    exit_code = 2


class ContextLengthExceeded(InvalidRequest):
    """The prompt (plus what was asked for) doesn't fit the model's context."""

    def __init__(self, message: str, *, param: str | None = "messages") -> None:
        super().__init__(message, param=param, code="context_length_exceeded")


class AuthenticationFailed(EverloopError):
    """No key, or a wrong, revoked or expired one."""

    status = 401
    exit_code = 4


class NotFound(EverloopError):
    """No such model, key, file or run."""

    status = 404
    exit_code = 3


class DataError(EverloopError):
    """A row or file of the user's can't be used; says where (file:line) and how to repair it."""

    status = 400
    exit_code = 1

    def __init__(
        self, message: str, *, path: str | None = None, line: int | None = None, repair: str = ""
    ) -> None:
        where = "" if path is None else f"{path}:{line}: " if line is not None else f"{path}: "
        super().__init__(f"{where}{message}{' ' + repair if repair else ''}", code="invalid_data")
        self.path, self.line, self.reason, self.repair = path, line, message, repair


class Overloaded(EverloopError):
    """The queue is full; come back after `retry_after` seconds."""

    status = 429
    exit_code = 75

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message, code="rate_limit_exceeded")
        self.retry_after = retry_after


class EngineUnavailable(EverloopError):
    """The engine (or the remote server behind it) is down or restarting."""

    status = 503
    exit_code = 5

    def __init__(self, message: str, *, retry_after: float = 2.0) -> None:
        super().__init__(message, code="engine_unavailable")
        self.retry_after = retry_after


class KeyRefused(EngineUnavailable):
    """The remote server does not take our key. Callers of ours can't help it, so the status says
    no more than that the engine is down; on the command line it is the user's own key."""

    exit_code = 4
