"""A word-for-word dictionary learnt from sentence pairs, to see what translation adds to it.

The translation of a term is the term of the other side with the highest Dice coefficient of their
occurrences (Dice 1945; Smadja et al. 1996). Terms are English words, and Chinese runs of up to
three characters.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

LONGEST = 3
RARE = 3  # a term seen less often has no entry
PAIRS = 30_000  # more would only cost time

_WORD = re.compile(r"[a-z0-9]+(?:['’][a-z]+)?")
_HAN = re.compile(r"[\u3400-\u9fff]+")
_PIECES = re.compile(r"[\u3400-\u9fff]+|[A-Za-z0-9]+(?:['’][A-Za-z]+)?|[^\w\s]")
_MARKS = {",": "，", ".": "。", "?": "？", "!": "！", ":": "：", ";": "；"}


def _terms(text: str) -> set[str]:
    runs = _HAN.findall(text)
    return set(_WORD.findall(text.lower())) | {
        run[i : i + n]
        for run in runs
        for n in range(1, LONGEST + 1)
        for i in range(len(run) - n + 1)
    }


class Dictionary:
    """Call it with a text to translate it term by term; unknown terms stay as they are."""

    def __init__(self, entries: Mapping[str, str], *, target: str) -> None:
        self._entries = entries
        marks = _MARKS if target == "zh" else {v: k for k, v in _MARKS.items()}
        self._marks, self._space = marks, "" if target == "zh" else " "

    @classmethod
    def learn(cls, pairs: Sequence[tuple[str, str]], *, target: str) -> Dictionary:
        """Entries from (source, target) sentences; `target` is zh or en."""
        sides = [(_terms(a), _terms(b)) for a, b in pairs[:PAIRS]]
        ours = Counter(term for a, _ in sides for term in a)
        theirs = Counter(term for _, b in sides for term in b)
        together: Counter[tuple[str, str]] = Counter()
        for a, b in sides:
            known = [term for term in b if theirs[term] >= RARE]
            for term in a:
                if ours[term] >= RARE:
                    together.update((term, other) for other in known)
        best: dict[str, tuple[float, int, str]] = {}
        for (term, other), count in together.items():
            dice = 2 * count / (ours[term] + theirs[other])
            found = (dice, len(other), other)  # of equals the longer
            if term not in best or found > best[term]:
                best[term] = found
        return cls({term: other for term, (_, _, other) in best.items()}, target=target)

    def __call__(self, text: str) -> str:
        out: list[str] = []
        for piece in _PIECES.findall(text):
            if _HAN.match(piece):
                out.extend(self._longest(piece))
            else:
                out.append(self._entries.get(piece.lower()) or self._marks.get(piece, piece))
        joined = self._space.join(out)
        return re.sub(r" ([,.?!:;])", r"\1", joined)

    def _longest(self, run: str) -> list[str]:
        out, i = [], 0
        while i < len(run):
            sizes = range(min(LONGEST, len(run) - i), 0, -1)
            size = next((n for n in sizes if run[i : i + n] in self._entries), 1)
            out.append(self._entries.get(run[i : i + size], run[i : i + size]))
            i += size
        return out
