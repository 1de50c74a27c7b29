"""Fixed paths go straight to their functions, everything else to the app."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from everloop.server import chat, completions, edits, embeddings, models
from everloop.server.direct import Direct

router = APIRouter()


@router.post("/fixed")
async def fixed(request: Request) -> Response:
    return Response(request.method)


@router.get("/fixed/{name}")
async def named(request: Request, name: str) -> Response:
    return Response(name)


@router.get("/bare")
async def bare() -> Response:
    return Response("bare")


def answered(method: str, path: str) -> tuple[str, Any]:
    """Who answers, and the route that log and metrics will name."""
    scope: Scope = {"type": "http", "method": method, "path": path, "headers": []}
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append("app")

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            seen.append(message["body"].decode())

    asyncio.run(Direct(app, routes=router.routes)(scope, receive, send))
    return seen[0], getattr(scope.get("route"), "path", None)


def test_only_fixed_paths_and_their_methods_are_direct() -> None:
    assert answered("POST", "/fixed") == ("POST", "/fixed")
    for method, path in (
        ("GET", "/fixed"),
        ("POST", "/fixed/"),
        ("GET", "/fixed/x"),
        ("GET", "/bare"),
        ("GET", "/"),
    ):
        assert answered(method, path) == ("app", None), (method, path)


def test_what_is_asked_most_is_direct() -> None:
    routers = (chat, completions, edits, embeddings, models)
    direct = Direct(None, routes=[r for module in routers for r in module.router.routes])  # type: ignore[arg-type]
    for path in ("chat/completions", "completions", "edits", "embeddings"):
        assert ("POST", f"/v1/{path}") in direct._found
