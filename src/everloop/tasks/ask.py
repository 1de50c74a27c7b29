"""One question to the model, one reply, with a bound on its length: what most tasks come to."""

from __future__ import annotations

from dataclasses import dataclass, replace

from everloop.engine.interface import (
    Engine,
    FinishReason,
    GenerateRequest,
    Message,
    Sampling,
    Usage,
)
from everloop.errors import ContextLengthExceeded, InvalidRequest
from everloop.tasks.choices import start

GREEDY = Sampling(temperature=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the model wrote, without white space around it; `finish_reason` is "length" where the
    bound cut it off."""

    text: str
    finish_reason: FinishReason
    usage: Usage


def user_turn(content: str) -> tuple[Message, ...]:
    """A conversation of one user message."""
    return (Message(role="user", content=content),)


def required(text: str, param: str) -> str:
    """`text` without white space around it. Raises InvalidRequest if nothing is left."""
    stripped = text.strip()
    if not stripped:
        raise InvalidRequest(f"{param} is empty. Give some text.", param=param)
    return stripped


def room_for(text: str) -> int:
    """A bound on a reply that is about as long as `text`, which only a runaway reply meets: no
    token is shorter than a byte."""
    return len(text.encode("utf-8", "surrogatepass")) + 32


async def ask(
    engine: Engine,
    content: str,
    *,
    max_tokens: int,
    sampling: Sampling = GREEDY,
    prediction: str | None = None,
    tenant: str = "",
    request_id: str = "",
) -> Reply:
    """The model's reply to one user message, of at most `max_tokens` or what the context leaves.
    A `prediction` of it makes it faster where it is right, and changes nothing.

    Raises what `Engine.generate` raises; ContextLengthExceeded only if the message leaves no room.
    """
    prompt = user_turn(content)
    request = GenerateRequest(
        prompt=prompt,
        max_tokens=max_tokens,
        sampling=sampling,
        prediction=prediction,
        stream=False,
        tenant=tenant,
        request_id=request_id,
    )
    try:
        choices = await start(engine, [request], candidates=1, keep=1)
    except ContextLengthExceeded:
        room = engine.info.context_length - await engine.count_tokens(prompt)
        if not 0 < room < max_tokens:
            raise
        request = replace(request, max_tokens=room)
        choices = await start(engine, [request], candidates=1, keep=1)
    collected = await choices.collect()
    choice = collected.choices[0]
    return Reply(
        text=choice.text.strip(), finish_reason=choice.finish_reason, usage=collected.usage
    )
