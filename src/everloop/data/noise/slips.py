"""Slips of a hand at one place of a text."""

from __future__ import annotations

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")

NEIGHBOURS = {
    c: "".join(
        row[j]
        for r, row in enumerate(_ROWS)
        for j in range(len(row))
        if (r, j) != (at, i) and abs(r - at) <= 1 and abs(j + 0.4 * r - i - 0.4 * at) < 1.01
    )
    for at, keys in enumerate(_ROWS)
    for i, c in enumerate(keys)
}
"""The keys around each letter on a QWERTY keyboard, whose rows are shifted by 0.4 keys."""


def replaced(text: str, i: int, by: str) -> str:
    """`text[i]` is something else."""
    return text[:i] + by + text[i + 1 :]


def dropped(text: str, i: int) -> str:
    """`text[i]` is missing."""
    return replaced(text, i, "")


def repeated(text: str, i: int) -> str:
    """`text[i]` stands there twice."""
    return replaced(text, i, text[i] * 2)


def swapped(text: str, i: int) -> str:
    """`text[i]` and the next character have changed places."""
    return text[:i] + text[i + 1] + text[i] + text[i + 2 :]
