"""POST /v1/edits, which OpenAI removed in January 2024 and old clients still call."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request
from starlette.responses import Response

from everloop import tasks
from everloop.server.context import record_of, service_of
from everloop.server.document import body_of
from everloop.server.errors import renamed
from everloop.server.generate import answered
from everloop.server.parameters import EditParameters
from everloop.server.wire import JSON, usage

router = APIRouter()

_NAMES = {"prompt": "input", "messages": "input"}


@router.post("/v1/edits", openapi_extra=body_of(EditParameters))
async def create_edit(request: Request) -> Response:
    """Changes a text as the instruction says."""
    return await edit(request)


async def edit(request: Request, engine_name: str | None = None) -> Response:
    """As the route; `engine_name` is the model that an old path names."""
    service = service_of(request)
    asked = await service.read(request, EditParameters, engine_name)
    record = record_of(request.scope)
    engine = await service.engine(request, asked.model)

    async def start() -> tasks.Choices:
        with renamed(_NAMES):
            return await tasks.edit(
                engine,
                text=asked.input,
                instruction=asked.instruction,
                n=asked.n,
                sampling=asked.sampling(engine.info.sampling),
                tenant=record.key or "",
                request_id=record.request_id,
            )

    done = await answered(request, start)
    choices = [{"text": choice.text, "index": choice.index} for choice in done.choices]
    return JSON(
        {
            "object": "edit",
            "created": int(time.time()),
            "choices": choices,
            "usage": usage(done.usage),
        }
    )
