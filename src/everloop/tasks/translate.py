"""Translate between Chinese and English."""

from __future__ import annotations

from everloop.data.instructions import instruction
from everloop.engine.interface import Engine
from everloop.errors import InvalidRequest
from everloop.tasks.ask import Reply, ask, required, room_for
from everloop.tasks.language import checked


async def translate(
    engine: Engine,
    text: str,
    *,
    source: str | None = None,
    target: str | None = None,
    max_tokens: int | None = None,
    tenant: str = "",
    request_id: str = "",
) -> Reply:
    """`text` in the other language, or in `target` (zh or en); `source` is found by script.

    Raises what `Engine.generate` raises; InvalidRequest for an empty text, or if source and
    target are the same.
    """
    text = required(text, "text")
    if source is None and target is not None:  # any text can be asked for in the other language
        known = checked(target, text, "target")
        spoken = "en" if known == "zh" else "zh"
    else:
        spoken = checked(source, text, "source")
    wanted = ("en" if spoken == "zh" else "zh") if target is None else checked(target, "", "target")
    if wanted == spoken:
        raise InvalidRequest(
            f"source and target are both {wanted}. Translation is between zh and en.",
            param="target",
        )
    content = instruction("translate", spoken, text=text, target=wanted)
    return await ask(
        engine,
        content,
        max_tokens=room_for(text) if max_tokens is None else max_tokens,
        tenant=tenant,
        request_id=request_id,
    )
