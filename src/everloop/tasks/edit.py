"""Change a text as told: the legacy /v1/edits as a Python call."""

from __future__ import annotations

from everloop.engine.interface import Engine, GenerateRequest, Message, Sampling
from everloop.errors import InvalidRequest
from everloop.tasks.choices import Choices
from everloop.tasks.complete import complete


def edit_prompt(text: str, instruction: str) -> tuple[Message, ...]:
    """One user turn as in tuning: the instruction, an empty line, the text."""
    content = f"{instruction.strip()}\n\n{text}" if text.strip() else instruction.strip()
    return (Message(role="user", content=content),)


async def edit(
    engine: Engine,
    *,
    text: str,
    instruction: str,
    n: int = 1,
    max_tokens: int | None = None,
    sampling: Sampling | None = None,
    tenant: str = "",
    request_id: str = "",
) -> Choices:
    """n versions of `text` changed as `instruction` says; an empty text is written from nothing.

    Raises what `Engine.generate` raises, before anything runs; InvalidRequest for n and for an
    empty instruction.
    """
    if not instruction.strip():
        raise InvalidRequest("The instruction is empty. Say what to change.", param="instruction")
    request = GenerateRequest(
        prompt=edit_prompt(text, instruction),
        max_tokens=max_tokens,
        sampling=sampling or Sampling(),
        tenant=tenant,
        request_id=request_id,
    )
    return await complete(engine, request, n=n)
