"""Fixed paths go straight to their functions.

Our routes take a Request and give a Response. FastAPI's way to such a function (matching, two exit
stacks, dependencies, two exception wrappers) costs more than all that we do with most requests.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

Endpoint = Callable[[Request], Awaitable[Response]]


class Direct:
    """Wraps the app: answers what it can itself, and leaves the rest to FastAPI."""

    def __init__(self, app: ASGIApp, *, routes: Iterable[BaseRoute]) -> None:
        self.app = app
        self._found: dict[tuple[str, str], tuple[APIRoute, Endpoint]] = {}
        for route in routes:
            if not isinstance(route, APIRoute) or "{" in route.path:
                continue
            if list(inspect.signature(route.endpoint).parameters) == ["request"]:
                for method in route.methods or ():
                    self._found.setdefault((method, route.path), (route, route.endpoint))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._found.get((scope["method"], scope["path"])) if "method" in scope else None
        if found is None:
            await self.app(scope, receive, send)
            return
        scope["route"], endpoint = found
        response = await endpoint(Request(scope, receive, send))
        await response(scope, receive, send)
