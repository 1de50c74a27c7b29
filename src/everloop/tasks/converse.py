"""Answer a conversation: /v1/chat/completions as a Python call."""

from __future__ import annotations

from everloop.engine.interface import Engine, GenerateRequest
from everloop.errors import InvalidRequest
from everloop.tasks.choices import Choices
from everloop.tasks.complete import complete


async def converse(engine: Engine, request: GenerateRequest, *, n: int = 1) -> Choices:
    """n answers to the conversation in `request.prompt` (a tuple of messages).

    Raises what `Engine.generate` raises, before anything runs; InvalidRequest for n and for a
    prompt that is no conversation.
    """
    prompt = request.prompt
    if isinstance(prompt, str) or not prompt or any(isinstance(turn, int) for turn in prompt):
        raise InvalidRequest(
            "There is no conversation. Give at least one message.", param="messages"
        )
    return await complete(engine, request, n=n)
