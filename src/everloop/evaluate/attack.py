"""A greedy attacker with a limited number of questions, who may make a text only as dirty as noise
of the highest severity does."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from everloop.data.noise import FAMILIES, TOUCHED
from everloop.data.noise.families import places
from everloop.data.split import document_hash, mix

Ask = Callable[[str], Awaitable[Mapping[str, float]]]
"""The probability of each label for a text, the likeliest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attacked:
    """The dirtiest text found; `label` is what the model says of it, `queries` the times that it
    was asked."""

    text: str
    label: str
    queries: int


async def attack(
    ask: Ask, text: str, label: str, *, families: Sequence[str], queries: int, seed: int = 0
) -> Attacked:
    """Looks for a text that the model doesn't give `label`, though it gave it to `text`.

    One change at a time, at a place and of a family drawn by hash: it stays if it makes `label`
    less likely (greedy search as in Gao et al. 2018, arXiv 1801.04354, and Pruthi et al. 2019,
    arXiv 1905.11268, whose changes are such typos). It ends when the label changes, after
    `queries` questions, or when TOUCHED[5] of the characters are changed.
    """
    chance = document_hash(text, seed)
    moves = sorted(
        ((name, i) for name in families for i in places(FAMILIES[name], text)),
        key=lambda move: mix(chance, (document_hash(move[0]) & 0xFFFF) + (move[1] << 16)),
    )
    room = math.ceil(TOUCHED[5] * sum(not c.isspace() for c in text))
    cells, touched = list(text), set[int]()
    found, asked = label, 0
    sure = math.inf
    for name, i in moves:
        if asked == queries or found != label:
            break
        kind = FAMILIES[name]
        here = set(range(i, i + kind.span))
        if here & touched or len(touched | here) > room:
            continue
        tried = cells.copy()
        tried[i : i + kind.span] = [kind.change(text, i, mix(chance, i)), *[""] * (kind.span - 1)]
        odds = await ask("".join(tried))
        asked += 1
        said = next(iter(odds))
        if said != label or odds.get(label, 0.0) < sure:
            cells, found, sure = tried, said, odds.get(label, 0.0)
            touched |= here
    return Attacked(text="".join(cells), label=found, queries=asked)
