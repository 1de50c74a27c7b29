"""One question to the model, one reply, with a bound on its length: what most tasks come to."""

from __future__ import annotations

from dataclasses import dataclass

from everloop.engine.interface import (
    Engine,
    FinishReason,
    GenerateRequest,
    Message,
    Sampling,
    Usage,
)
from everloop.errors import InvalidRequest
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


async def ask(
    engine: Engine,
    content: str,
    *,
    max_tokens: int,
    sampling: Sampling = GREEDY,
    tenant: str = "",
    request_id: str = "",
) -> Reply:
    """The model's reply to one user message, of at most `max_tokens` or what the context leaves.

    Raises what `Engine.generate` raises.
    """
    prompt = user_turn(content)
    room = engine.info.context_length - await engine.count_tokens(prompt)
    request = GenerateRequest(
        prompt=prompt,
        # Without room the engine refuses the prompt itself, with its own message.
        max_tokens=min(max_tokens, room) if room > 0 else max_tokens,
        sampling=sampling,
        tenant=tenant,
        request_id=request_id,
    )
    collected = await (await start(engine, [request], candidates=1, keep=1)).collect()
    choice = collected.choices[0]
    return Reply(
        text=choice.text.strip(), finish_reason=choice.finish_reason, usage=collected.usage
    )
