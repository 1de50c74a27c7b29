"""/v1/engines: the paths of openai 0.x, which names the model in the path."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from everloop.server.chat import chat
from everloop.server.completions import completion
from everloop.server.context import service_of
from everloop.server.document import body_of
from everloop.server.edits import edit
from everloop.server.embeddings import embed
from everloop.server.models import OWNER, find, names
from everloop.server.parameters import (
    ChatParameters,
    CompletionParameters,
    EditParameters,
    EmbeddingParameters,
)
from everloop.server.wire import JSON

router = APIRouter(deprecated=True)


@router.get("/v1/engines")
async def list_engines(request: Request) -> Response:
    """Models and aliases as engines."""
    data = [_engine(name) for name, _, _ in await names(service_of(request))]
    return JSON({"object": "list", "data": data})


# Engine names may hold a slash, hence :path; the longer suffix comes first.
@router.post("/v1/engines/{engine:path}/chat/completions", openapi_extra=body_of(ChatParameters))
async def engine_chat(request: Request, engine: str) -> Response:
    return await chat(request, engine)


@router.post("/v1/engines/{engine:path}/completions", openapi_extra=body_of(CompletionParameters))
async def engine_completion(request: Request, engine: str) -> Response:
    return await completion(request, engine)


@router.post("/v1/engines/{engine:path}/edits", openapi_extra=body_of(EditParameters))
async def engine_edit(request: Request, engine: str) -> Response:
    return await edit(request, engine)


@router.post("/v1/engines/{engine:path}/embeddings", openapi_extra=body_of(EmbeddingParameters))
async def engine_embedding(request: Request, engine: str) -> Response:
    return await embed(request, engine)


@router.get("/v1/engines/{engine:path}")
async def retrieve_engine(request: Request, engine: str) -> Response:
    """One model or alias as an engine."""
    name, _, _ = await find(service_of(request), engine)
    return JSON(_engine(name))


def _engine(name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "engine",
        "owner": OWNER,
        "ready": True,
        "created": None,
        "permissions": None,
    }
