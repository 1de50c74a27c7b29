"""POST /v1/embeddings."""

from __future__ import annotations

import base64
from array import array
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from everloop.engine.interface import Usage
from everloop.errors import InvalidRequest
from everloop.server.context import record_of, service_of
from everloop.server.document import body_of
from everloop.server.errors import renamed
from everloop.server.parameters import EmbeddingParameters
from everloop.server.stream import until_gone
from everloop.server.wire import JSON

router = APIRouter()

_NAMES = {"texts": "input", "prompt": "input", "messages": "input"}


@router.post("/v1/embeddings", openapi_extra=body_of(EmbeddingParameters))
async def create_embedding(request: Request) -> Response:
    """A unit vector for each text."""
    return await embed(request)


async def embed(request: Request, engine_name: str | None = None) -> Response:
    """As the route; `engine_name` is the model that an old path names."""
    service = service_of(request)
    asked = await service.read(request, EmbeddingParameters, engine_name)
    record = record_of(request.scope)
    engine = await service.engine(request, asked.model)
    if not engine.info.embeds:
        raise InvalidRequest(
            f"The model `{engine.info.id}` makes no embeddings. GET /v1/models lists the others.",
            param="model",
        )
    with renamed(_NAMES):
        work = engine.embed(asked.texts, tenant=record.key or "")
        embeddings = await until_gone(request.receive, work)
    tokens = sum(embedding.tokens for embedding in embeddings)
    record.usage = Usage(prompt_tokens=tokens, completion_tokens=0)
    data = [
        {
            "object": "embedding",
            "index": i,
            "embedding": _encoded(embedding.vector, asked.encoding_format),
        }
        for i, embedding in enumerate(embeddings)
    ]
    return JSON(
        {
            "object": "list",
            "data": data,
            "model": engine.info.id,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )


def _encoded(vector: tuple[float, ...], form: str) -> Any:
    """The vector as numbers, or as base64 of little-endian float32."""
    if form == "float":
        return vector
    packed = array("f", vector)
    return base64.b64encode(packed.tobytes()).decode()
