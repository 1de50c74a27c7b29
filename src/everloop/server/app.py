"""Puts the server together: routes inside, then keys, then what every request passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Lifespan

import everloop
from everloop.server import chat, completions, edits, embeddings, engines, models, status
from everloop.server.access import Access
from everloop.server.direct import Direct
from everloop.server.errors import InvalidUrl
from everloop.server.metrics import Metrics
from everloop.server.observe import Observe
from everloop.server.service import Pool, Service
from everloop.settings import Settings
from everloop.store.keys import Key
from everloop.store.registry import Registry


def create_app(
    settings: Settings,
    *,
    pool: Pool,
    registry: Registry,
    verify: Callable[[str], Key | None],
    lifespan: Lifespan[Any] | None = None,
) -> FastAPI:
    """The ASGI application. `verify` gives the key with a text, or None; it may block."""

    def statuses() -> dict[str, Any]:
        return {name: engine.status() for name, engine in pool.loaded().items()}

    app = FastAPI(
        title="Everloop",
        version=everloop.__version__,
        lifespan=lifespan,
        openapi_url=None,  # ours is behind the key
        docs_url=None,  # it would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    service = Service(
        settings=settings,
        pool=pool,
        registry=registry,
        verify=verify,
        metrics=Metrics(statuses),
    )
    app.state.service = service
    routers = [m.router for m in (chat, completions, edits, embeddings, models, engines, status)]
    for router in routers:
        app.include_router(router)
    app.add_exception_handler(HTTPException, _no_route)
    # The last one added is the outermost.
    app.add_middleware(Direct, routes=[route for router in routers for route in router.routes])
    app.add_middleware(Access, service=service)
    app.add_middleware(Observe, service=service)
    return app


async def _no_route(request: Request, error: Exception) -> Response:
    """The router's 404 and 405, worded as OpenAI does."""
    assert isinstance(error, HTTPException)
    raise InvalidUrl(request.method, request.scope["path"], allowed=error.status_code == 405)
