"""How much two texts have in common, in characters of Chinese and words of English."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

_UNIT = re.compile(
    r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]|\w+?(?=[\u3400-\u9fff\uf900-\ufaff]|\b)"
)


def units(text: str) -> list[str]:
    """Chinese characters and other words, in one width and case, without punctuation."""
    return _UNIT.findall(unicodedata.normalize("NFKC", text).casefold())


def exact(said: str, references: Iterable[str]) -> bool:
    """Whether `said` equals a reference up to punctuation, width, case and white space."""
    mine = units(said)
    return any(mine == units(reference) for reference in references)


def f1(said: str, references: Iterable[str]) -> float:
    """The best harmonic mean of precision and recall over units (SQuAD's and CMRC's F1, with
    Chinese by character). Two texts without units are equal."""
    mine = Counter(units(said))
    best = 0.0
    for reference in references:
        theirs = Counter(units(reference))
        shared = (mine & theirs).total()
        total = mine.total() + theirs.total()
        best = max(best, 2 * shared / total if total else 1.0)
    return best


def rouge_l(said: str, reference: str) -> float:
    """F1 of the longest common subsequence of units (Lin 2004, with equal weights)."""
    mine, theirs = units(said), units(reference)
    total = len(mine) + len(theirs)
    return 2 * longest_common_subsequence(mine, theirs) / total if total else 1.0


def longest_common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Its length; time len(a)·len(b)."""
    row = [0] * (len(b) + 1)
    for x in a:
        previous = 0
        for j, y in enumerate(b, start=1):
            above = row[j]
            row[j] = previous + 1 if x == y else max(above, row[j - 1])
            previous = above
    return row[-1]


def ngrams(sequence: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All runs of n units."""
    return [tuple(sequence[i : i + n]) for i in range(len(sequence) - n + 1)]


def distinct(texts: Iterable[str], n: int) -> float:
    """Different n-grams over all n-grams of the texts together (Li et al. 2016)."""
    grams = [gram for text in texts for gram in ngrams(units(text), n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repeated(text: str, n: int) -> tuple[int, int]:
    """How many n-grams of one text occurred in it before, and how many it has."""
    grams = ngrams(units(text), n)
    return len(grams) - len(set(grams)), len(grams)
