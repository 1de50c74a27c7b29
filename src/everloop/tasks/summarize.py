"""Say in short what a text says: a sentence, or a title."""

from __future__ import annotations

from typing import Literal

from everloop.data.instructions import instruction
from everloop.engine.interface import Engine
from everloop.errors import InvalidRequest
from everloop.tasks.ask import Reply, ask, required
from everloop.tasks.language import checked


async def summarize(
    engine: Engine,
    text: str,
    *,
    form: Literal["sentence", "title"] = "sentence",
    lang: str | None = None,
    max_tokens: int = 96,
    tenant: str = "",
    request_id: str = "",
) -> Reply:
    """A one-sentence summary of `text`, or a title for it.

    Raises what `Engine.generate` raises (a text that doesn't fit is refused, never cut);
    InvalidRequest for an empty text or another form.
    """
    text = required(text, "text")
    tasks = {"sentence": "summarize", "title": "title"}
    if form not in tasks:
        raise InvalidRequest(f"form is {form!r}. Use sentence or title.", param="form")
    return await ask(
        engine,
        instruction(tasks[form], checked(lang, text), text=text),
        max_tokens=max_tokens,
        tenant=tenant,
        request_id=request_id,
    )
