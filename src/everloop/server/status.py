"""What operators and programs ask about the server itself."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

import everloop
from everloop.errors import EngineUnavailable
from everloop.server.context import service_of
from everloop.server.page import page
from everloop.server.wire import JSON

router = APIRouter()


@router.get("/")
async def about(request: Request) -> Response:
    """What this is and how to call it."""
    base = f"http://{_host(request)}/v1"
    return HTMLResponse(
        page(base, service_of(request).settings.model),
        headers={"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"},
    )


@router.get("/health")
async def health() -> Response:
    """The HTTP side answers."""
    return JSON({"status": "ok"})


@router.get("/ready")
async def ready(request: Request) -> Response:
    """An engine answers too."""
    engines = service_of(request).pool.loaded().values()
    if not any(engine.status().ready for engine in engines):
        raise EngineUnavailable("The model is being loaded. Try again soon.", retry_after=1.0)
    return JSON({"status": "ready"})


@router.get("/version")
async def version() -> Response:
    """The program's version."""
    return JSON({"version": everloop.__version__})


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus' text form."""
    numbers = service_of(request).metrics
    return Response(numbers.text(), media_type=numbers.content_type)


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    """This API as OpenAPI 3.1."""
    return JSON(request.app.openapi())


def _host(request: Request[Any]) -> str:
    """The address the client used, if it is one; it is written into a page."""
    host = request.headers.get("host", "")
    if 0 < len(host) <= 100 and all(c.isalnum() or c in ".-:[]" for c in host):
        return host
    settings = service_of(request).settings
    return f"{settings.host}:{settings.port}"
