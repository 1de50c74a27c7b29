"""Choose one of given labels by how likely the model finds each as its reply."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from everloop.data.instructions import INSTRUCTIONS, instruction
from everloop.engine.interface import Engine, ScoreRequest
from everloop.errors import InvalidRequest
from everloop.tasks.ask import required, user_turn
from everloop.tasks.language import checked


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """The likeliest label, and the probability of each, best first; they sum to 1."""

    label: str
    probabilities: Mapping[str, float]

    @property
    def probability(self) -> float:
        return self.probabilities[self.label]


async def choose(
    engine: Engine,
    content: str,
    labels: Sequence[str],
    *,
    per_token: bool = False,
    tenant: str = "",
) -> Classification:
    """Scores each label as the reply to the user message `content`.

    The probabilities are the softmax over log p(label | content). That is right for a model that
    was tuned to reply with the label; an untuned one prefers short labels, and `per_token`
    divides by the label's length in tokens.
    """
    if len(labels) < 2 or len(set(labels)) < len(labels) or not all(s.strip() for s in labels):
        raise InvalidRequest(
            "labels must be at least two different texts, none of them empty.", param="labels"
        )
    request = ScoreRequest(prompt=user_turn(content), continuations=tuple(labels), tenant=tenant)
    scores = await engine.score(request)
    logits = [s.total / max(1, len(s.tokens)) if per_token else s.total for s in scores]
    best = max(logits)
    weights = [math.exp(logit - best) for logit in logits]
    total = sum(weights)
    ranked = sorted(zip(labels, weights, strict=True), key=lambda pair: -pair[1])
    return Classification(
        label=ranked[0][0], probabilities={label: w / total for label, w in ranked}
    )


async def classify(
    engine: Engine,
    text: str,
    labels: Sequence[str],
    *,
    task: str = "classify",
    lang: str | None = None,
    per_token: bool = False,
    tenant: str = "",
) -> Classification:
    """Which of `labels` fits `text`. `task` says what is asked: "classify" for any labels,
    "topic" for its topic; "sentiment", "spam" and "intent" are asked without naming the labels.

    Raises what `Engine.score` raises; InvalidRequest for an empty text or unusable labels.
    """
    spoken = checked(lang, text)
    fields: dict[str, str | Sequence[str]] = {"text": required(text, "text")}
    if "{labels}" in INSTRUCTIONS.get(task, {}).get(spoken, ("",))[0]:
        fields["labels"] = labels
    content = instruction(task, spoken, **fields)
    return await choose(engine, content, labels, per_token=per_token, tenant=tenant)
