"""Answer a question from a given passage, and say so when the passage has no answer."""

from __future__ import annotations

import re
from dataclasses import dataclass

from everloop.data.instructions import NOT_IN_PASSAGE, instruction
from everloop.engine.interface import Engine, FinishReason, Usage
from everloop.tasks.ask import ask, required
from everloop.tasks.language import checked

# Below this share of supported words an answer is taken for an invention.
SUPPORTED = 0.5

_UNIT = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]|[^\W_\u3400-\u9fff\uf900-\ufaff]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`found` is False where the passage has no answer, as the model says or because its words
    are not the passage's; `text` then says that. `support` is the share of the model's own words
    that the passage or the question contains."""

    text: str
    found: bool
    support: float
    finish_reason: FinishReason
    usage: Usage


def support(answer: str, *sources: str) -> float:
    """Share of the words (Chinese: characters) of `answer` that occur in the sources; an answer
    without any is not supported."""
    words = _UNIT.findall(answer.casefold())
    known = {word for source in sources for word in _UNIT.findall(source.casefold())}
    return sum(word in known for word in words) / len(words) if words else 0.0


async def answer(
    engine: Engine,
    question: str,
    passage: str,
    *,
    lang: str | None = None,
    max_tokens: int = 64,
    tenant: str = "",
    request_id: str = "",
) -> Answer:
    """What `passage` answers to `question`, or that it doesn't.

    Raises what `Engine.generate` raises; InvalidRequest for an empty question or passage.
    """
    question, passage = required(question, "question"), required(passage, "passage")
    spoken = checked(lang, question)
    reply = await ask(
        engine,
        instruction("answer", spoken, passage=passage, question=question),
        max_tokens=max_tokens,
        tenant=tenant,
        request_id=request_id,
    )
    share = support(reply.text, passage, question)
    refused = reply.text.strip(" 。.").casefold() in {
        text.strip(" 。.").casefold() for text in NOT_IN_PASSAGE.values()
    }
    found = not refused and share >= SUPPORTED
    return Answer(
        text=reply.text if found else NOT_IN_PASSAGE[spoken],
        found=found,
        support=share,
        finish_reason=reply.finish_reason,
        usage=reply.usage,
    )
