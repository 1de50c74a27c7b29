"""A text with mistakes of one family in it."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Final

from everloop.data.noise.families import FAMILIES, TRAINING, places
from everloop.data.split import document_hash, mix, share
from everloop.errors import InvalidRequest

SEVERITIES: Final = (1, 2, 3, 4, 5)

TOUCHED: Final = {1: 0.02, 2: 0.04, 3: 0.08, 4: 0.12, 5: 0.20}
"""Share of the characters that a family can touch which it touches, by severity: at 3, the middle,
a mistake in every third English word and in every twelfth Chinese character."""


def noisy(
    text: str, family: str, severity: int, seed: int = 0, *, spared: Container[int] = ()
) -> str:
    """`text` with mistakes of `family`, depending on the arguments alone; the places `spared` stay
    as they are.

    The number of characters touched is TOUCHED times those that can be, rounded up or down by
    chance so that the mean is exact. A higher severity touches the same places and more of them.
    Raises InvalidRequest for an unknown family or severity, or a seed outside 0 … 2^64 - 1.
    """
    kind = FAMILIES.get(family)
    if kind is None:
        raise InvalidRequest(f"family is {family!r}: one of {', '.join(FAMILIES)}.", param="family")
    if severity not in TOUCHED:
        raise InvalidRequest(f"severity is {severity!r}: 1 to 5.", param="severity")
    if not 0 <= seed < 1 << 64:
        raise InvalidRequest(f"seed is {seed}: 0 to 2^64 - 1.", param="seed")
    found = [i for i in places(kind, text) if i not in spared]
    chance = document_hash(f"{family}\n{text}", seed)
    wanted = TOUCHED[severity] * len(found) / kind.span
    count = int(wanted + share(mix(chance, 0)))
    touched: dict[int, str] = {}
    for i in sorted(found, key=lambda i: mix(chance, i + 1)):
        if len(touched) == count:
            break
        if kind.span > 1 and (i - 1 in touched or i + 1 in touched or i + 1 in spared):
            continue  # a character changes places once
        touched[i] = kind.change(text, i, mix(chance, -i - 2) >> 1)
    parts, at = [], 0
    for i in sorted(touched):
        parts += [text[at:i], touched[i]]
        at = i + kind.span
    return "".join(parts) + text[at:]


def variants(text: str, families: Sequence[str] = TRAINING) -> list[str]:
    """Those of `families` that can touch `text` at all."""
    return [name for name in families if places(FAMILIES[name], text)]
