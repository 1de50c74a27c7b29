"""Choose one of given labels by how likely the model finds each as its reply."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from everloop.data.instructions import INSTRUCTIONS, instruction
from everloop.engine.interface import Engine, GenerateRequest, Prompt, ScoreRequest
from everloop.errors import InvalidRequest
from everloop.tasks.ask import GREEDY, ask, required, user_turn
from everloop.tasks.choices import start
from everloop.tasks.language import checked

MANY = 8  # labels, from which on it pays to look at the reply's first token
TOP = 20  # of its likeliest alternatives


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """The likeliest label, and the probability of each, best first; they sum to 1.

    `scored` is False where a remote server can't score a reply: then the label is the one nearest
    to what the model wrote, and the probabilities say no more than that.
    """

    label: str
    probabilities: Mapping[str, float]
    scored: bool = True

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
    divides by the label's length in tokens. Of many labels, those that can't be the likeliest
    are not scored and have probability 0.
    """
    if len(labels) < 2 or len(set(labels)) < len(labels) or not all(s.strip() for s in labels):
        raise InvalidRequest(
            "labels must be at least two different texts, none of them empty.", param="labels"
        )
    prompt = user_turn(content)
    try:
        logits = await _logits(engine, prompt, labels, per_token, tenant)
    except InvalidRequest as error:
        if error.param != "prompt":
            raise
        return await _named(engine, content, labels, tenant)
    best = max(logits.values())
    weights = {label: math.exp(logits.get(label, -math.inf) - best) for label in labels}
    total = sum(weights.values())
    ranked = sorted(labels, key=lambda label: -weights[label])  # stable: ties keep their order
    return Classification(
        label=ranked[0], probabilities={label: weights[label] / total for label in ranked}
    )


async def _logits(
    engine: Engine, prompt: Prompt, labels: Sequence[str], per_token: bool, tenant: str
) -> dict[str, float]:
    """log p of each label that may be the likeliest."""
    logits: dict[str, float] = {}

    async def score(some: Sequence[str]) -> None:
        request = ScoreRequest(prompt=prompt, continuations=tuple(some), tenant=tenant)
        for label, found in zip(some, await engine.score(request), strict=True):
            logits[label] = found.total / max(1, len(found.tokens)) if per_token else found.total

    if len(labels) > MANY and not per_token:
        likely, bound = await _likely(engine, prompt, labels, tenant)
        if likely:
            await score(likely)
            if max(logits.values()) >= bound:
                return logits
    await score([label for label in labels if label not in logits])
    return logits


async def _named(
    engine: Engine, content: str, labels: Sequence[str], tenant: str
) -> Classification:
    """The label most like the written reply."""
    reply = await ask(engine, content, max_tokens=64, tenant=tenant)
    said = reply.text.casefold()
    likeness = {
        label: (label.casefold() in said, SequenceMatcher(None, label.casefold(), said).ratio())
        for label in labels
    }
    label = max(labels, key=lambda label: likeness[label])
    return Classification(
        label=label,
        probabilities={label: 1.0} | dict.fromkeys([x for x in labels if x != label], 0.0),
        scored=False,
    )


async def _likely(
    engine: Engine, prompt: Prompt, labels: Sequence[str], tenant: str
) -> tuple[list[str], float]:
    """The labels that begin with a likely first token of the reply, and the most that any other
    can have: a label's log-probability is at most its first token's, and that is at most the last
    of the TOP likeliest if it isn't one of them."""
    request = GenerateRequest(
        prompt=prompt, max_tokens=1, sampling=GREEDY, logprobs=TOP, tenant=tenant
    )
    collected = await (await start(engine, [request], candidates=1, keep=1)).collect()
    tokens = collected.choices[0].tokens
    top = tokens[0].top if tokens else ()
    if len(top) < TOP:
        return [], math.inf
    beginnings = tuple(first for _, first, _ in top if first)
    return [label for label in labels if label.encode().startswith(beginnings)], top[-1][2]


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
    text = required(text, "text")
    if "{labels}" in INSTRUCTIONS.get(task, {}).get(spoken, ("",))[0]:
        content = instruction(task, spoken, text=text, labels=labels)
    else:
        content = instruction(task, spoken, text=text)
    return await choose(engine, content, labels, per_token=per_token, tenant=tenant)
