"""Noise in what the user of a tuning example says, so that the model learns to answer it anyway."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from string import Formatter

from everloop.data.formats import Example
from everloop.data.instructions import INSTRUCTIONS
from everloop.data.noise.make import SEVERITIES, noisy, variants
from everloop.data.split import mix

EXACT = ("correct", "edit")
"""Tasks whose answer depends on every letter of the text: noise would make the answer wrong."""

_NOISED = ("text", "question")


def with_noise(example: Example, chance: int) -> Example:
    """The example with mistakes in its user turns; `chance` is 64 random bits.

    One family of TRAINING and one severity for all of them. Of a known instruction only the text
    or question is touched, never the wording, the labels offered or the passage. Nothing that the
    answers repeat is touched, so that they stay right. An example of an EXACT task, without
    messages, or with nothing to touch comes back as it is.
    """
    if example.is_raw or example.task in EXACT:
        return example
    said = "\n".join(m["content"] for m in example.messages if m["role"] == "assistant")
    users = [i for i, m in enumerate(example.messages) if m["role"] == "user"]
    spans = {i: span(example.task, example.messages[i]["content"]) for i in users}
    texts = {i: example.messages[i]["content"][slice(*spans[i])] for i in users}
    families = variants("\n".join(texts.values()))
    if not families:
        return example
    family = families[mix(chance, 1) % len(families)]
    severity = SEVERITIES[mix(chance, 2) % len(SEVERITIES)]
    messages = list(example.messages)
    for i, text in texts.items():
        content, (start, end) = messages[i]["content"], spans[i]
        seed = mix(chance, 3 + i)
        changed = noisy(text, family, severity, seed, spared=repeated_in(text, said))
        messages[i] = {**messages[i], "content": content[:start] + changed + content[end:]}
    return replace(example, messages=tuple(messages))


def span(task: str, content: str) -> tuple[int, int]:
    """Where the text or question is in a user turn worded by `instructions`; all of any other."""
    for pattern in _patterns(task):
        match = pattern.fullmatch(content)
        if match is not None:
            return match.span("noised")
    return 0, len(content)


@cache
def _patterns(task: str) -> tuple[re.Pattern[str], ...]:
    return tuple(
        re.compile("".join(_part(*part[:2]) for part in Formatter().parse(phrasing)), re.DOTALL)
        for phrasings in INSTRUCTIONS.get(task, {}).values()
        for phrasing in phrasings
    )


def _part(literal: str, name: str | None) -> str:
    return re.escape(literal) + (
        "" if name is None else "(?P<noised>.*)" if name in _NOISED else ".*?"
    )


def repeated_in(text: str, said: str) -> set[int]:
    """Places of words (in Chinese: pairs of characters) of `text` that `said` has too."""
    words = {m.lower() for m in _pieces(said)}
    return {
        i
        for start, piece in _placed(text)
        if piece.lower() in words
        for i in range(start, start + len(piece))
    }


def _pieces(text: str) -> set[str]:
    return {piece for _, piece in _placed(text)}


def _placed(text: str) -> list[tuple[int, str]]:
    """Words of three letters and more, and all overlapping pairs of Chinese characters."""
    found = [(m.start(), m.group()) for m in re.finditer(r"[A-Za-z]{3,}", text)]
    pairs = re.finditer(r"(?=([\u3400-\u9fff]{2}))", text)
    return found + [(m.start(), m.group(1)) for m in pairs]
