"""Continue raw text: /v1/completions as a Python call."""

from __future__ import annotations

from collections.abc import Sequence

from everloop.engine.interface import Engine, GenerateRequest
from everloop.errors import InvalidRequest
from everloop.tasks.choices import Choices, start


async def complete(
    engine: Engine,
    request: GenerateRequest | Sequence[GenerateRequest],
    *,
    n: int = 1,
    best_of: int | None = None,
) -> Choices:
    """n continuations of each request; answer j of prompt p has index p·n + j.

    With `best_of` > n, that many candidates are made for each prompt and the n with the highest
    log-probability per token are returned, best first. They can't be streamed: each arrives as
    one chunk. Usage counts all candidates, and each prompt once, as OpenAI does.

    Raises what `Engine.generate` raises, before anything runs; InvalidRequest for n and best_of.
    """
    requests = [request] if isinstance(request, GenerateRequest) else list(request)
    if not requests:
        raise InvalidRequest("There is no prompt. Give at least one.", param="prompt")
    if n < 1:
        raise InvalidRequest(f"n is {n}, but must be at least 1.", param="n")
    candidates = n if best_of is None else best_of
    if candidates < n:
        raise InvalidRequest(
            f"best_of is {candidates} and n is {n}, but best_of must be at least n.",
            param="best_of",
        )
    return await start(engine, requests, candidates=candidates, keep=n)
