"""Change a text as told: the legacy /v1/edits as a Python call."""

from __future__ import annotations

from everloop.data.instructions import instruction as worded
from everloop.engine.interface import Engine, GenerateRequest, Message, Sampling
from everloop.tasks.ask import required, user_turn
from everloop.tasks.choices import Choices
from everloop.tasks.complete import complete
from everloop.tasks.language import language_of


def edit_prompt(text: str, told: str) -> tuple[Message, ...]:
    """One user turn: the instruction, an empty line, the text, as in training."""
    if text.strip():
        told = worded("edit", language_of(told), instruction=told, input=text)
    return user_turn(told)


async def edit(
    engine: Engine,
    *,
    text: str,
    instruction: str,
    n: int = 1,
    max_tokens: int | None = None,
    sampling: Sampling | None = None,
    prediction: str | None = None,
    tenant: str = "",
    request_id: str = "",
) -> Choices:
    """n versions of `text` changed as `instruction` says; an empty text is written from nothing.
    Without a `prediction` the text as it is will do.

    Raises what `Engine.generate` raises, before anything runs; InvalidRequest for n and for an
    empty instruction.
    """
    told = required(instruction, "instruction")
    request = GenerateRequest(
        prompt=edit_prompt(text, told),
        max_tokens=max_tokens,
        sampling=sampling or Sampling(),
        prediction=text.strip() if prediction is None else prediction,
        stream=False,
        tenant=tenant,
        request_id=request_id,
    )
    return await complete(engine, request, n=n)
