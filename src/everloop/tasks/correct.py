"""Correct spelling and grammar, leaving correct text as it is."""

from __future__ import annotations

from everloop.data.instructions import instruction
from everloop.engine.interface import Engine
from everloop.tasks.ask import Reply, ask, required, room_for
from everloop.tasks.language import checked


async def correct(
    engine: Engine,
    text: str,
    *,
    lang: str | None = None,
    max_tokens: int | None = None,
    prediction: str | None = None,
    tenant: str = "",
    request_id: str = "",
) -> Reply:
    """`text` without its mistakes; white space around it is kept as the user wrote it. Most of it
    will be as it was, so that is the `prediction` if none is given.

    Raises what `Engine.generate` raises; InvalidRequest for an empty text.
    """
    bare = required(text, "text")
    reply = await ask(
        engine,
        instruction("correct", checked(lang, bare), text=bare),
        max_tokens=room_for(bare) if max_tokens is None else max_tokens,
        prediction=bare if prediction is None else prediction,
        tenant=tenant,
        request_id=request_id,
    )
    before = text[: len(text) - len(text.lstrip())]
    after = text[len(text.rstrip()) :]
    return Reply(
        text=before + reply.text + after, finish_reason=reply.finish_reason, usage=reply.usage
    )
