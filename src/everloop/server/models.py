"""GET /v1/models: every model and every alias for one, under the name that a call may use."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from everloop.server.context import service_of
from everloop.server.service import Service, no_model
from everloop.server.wire import JSON

router = APIRouter()

OWNER = "everloop"


@router.get("/v1/models")
async def list_models(request: Request) -> Response:
    """Models first, then aliases; `root` is the model behind a name."""
    rows = await asyncio.to_thread(_rows, service_of(request))
    data = [model_object(*row) for row in rows]
    return JSON({"object": "list", "data": data})


@router.get("/v1/models/{model:path}")
async def retrieve_model(request: Request, model: str) -> Response:
    """One model or alias, prefixes such as gpt-4* included."""
    return JSON(model_object(*await find(service_of(request), model)))


async def find(service: Service, name: str) -> tuple[str, int, str]:
    """(name, created, model behind it). Raises NotFound."""
    found = await asyncio.to_thread(service.registry.resolve, name)
    if found is None:
        raise no_model(name)
    return name, found.created, found.name


async def names(service: Service) -> list[tuple[str, int, str]]:
    """(name, created, model behind it) of every model and alias."""
    return await asyncio.to_thread(_rows, service)


def _rows(service: Service) -> list[tuple[str, int, str]]:
    newest = {version.name: version.created for version in service.registry.list_models()}
    rows = [(name, created, name) for name, created in newest.items()]
    for alias in service.registry.aliases():
        found = None if alias.endswith("*") else service.registry.resolve(alias)
        if found is not None and alias not in newest:
            rows.append((alias, found.created, found.name))
    return rows


def model_object(name: str, created: int, root: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": OWNER, "root": root}
