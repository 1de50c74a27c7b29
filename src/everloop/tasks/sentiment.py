"""Whether a text feels positive or negative, and how much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from everloop.data.instructions import LABELS, instruction
from everloop.engine.interface import Engine
from everloop.tasks.ask import required
from everloop.tasks.classify import choose
from everloop.tasks.language import checked


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentiment:
    """`score` runs from -1 (surely negative) to 1 (surely positive)."""

    label: Literal["positive", "negative"]
    score: float


async def sentiment(
    engine: Engine, text: str, *, lang: str | None = None, tenant: str = ""
) -> Sentiment:
    """The sentiment of `text`, in either language.

    Raises what `Engine.score` raises; InvalidRequest for an empty text.
    """
    text = required(text, "text")
    spoken = checked(lang, text)
    labels = LABELS["sentiment"][spoken]  # positive first
    chosen = await choose(
        engine, instruction("sentiment", spoken, text=text), labels, tenant=tenant
    )
    positive = chosen.probabilities[labels[0]]
    return Sentiment(
        label="positive" if chosen.label == labels[0] else "negative", score=2 * positive - 1
    )
