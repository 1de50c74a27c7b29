"""MinHash of many texts at once: texts that share most of their shingles share a band key.

A shingle is five tokens in a row; a token is a Chinese character or a word of letters and digits,
so Chinese is compared by characters, English by words, and mixed text by both. Case, full-width
forms, spaces and punctuation don't count. With 16 bands of 8 minima two texts of Jaccard
similarity s share a band with probability 1-(1-s^8)^16: 6 % at 0.5, 61 % at 0.7, 95 % at 0.8,
over 99.9 % at 0.9 (Broder 1997; Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, ch. 3).
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

BANDS = 16
ROWS = 8
SHINGLE = 5
MIN_SHINGLES = 8  # a shorter text is compared exactly only

U64 = npt.NDArray[np.uint64]
_CHUNK = 1024  # shingles times 128 minima in 512 KiB: stays in the second-level cache
_GROUP_CHARS = 1 << 17  # hashed together: enough to hide numpy's calls, little enough for caches
_PRIME = np.uint64(0x9E3779B97F4A7C15)  # odd, from the golden ratio
_NONE = np.uint32(0xFFFFFFFF)


def band_keys(texts: list[str]) -> tuple[U64, npt.NDArray[np.bool_]]:
    """(len(texts), BANDS) keys, and which texts are long enough to be compared by them."""
    groups: list[list[str]] = [[]]
    chars = 0
    for text in texts:
        if chars > _GROUP_CHARS:
            groups.append([])
            chars = 0
        groups[-1].append(text)
        chars += len(text)
    found = [_group_keys(group) for group in groups]
    return np.concatenate([k for k, _ in found]), np.concatenate([e for _, e in found])


def _group_keys(texts: list[str]) -> tuple[U64, npt.NDArray[np.bool_]]:
    shingles, owner = _shingles(texts)
    enough = np.bincount(owner, minlength=len(texts)) >= MIN_SHINGLES
    minima = np.full((len(texts), BANDS * ROWS), _NONE)
    multipliers, offsets = _permutations()
    buffer = np.empty((BANDS * ROWS, _CHUNK), np.uint32)
    for start in range(0, len(shingles), _CHUNK):
        part = shingles[start : start + _CHUNK]
        owners = owner[start : start + _CHUNK]
        first = np.flatnonzero(np.r_[True, owners[1:] != owners[:-1]])
        hashed = buffer[:, : len(part)]
        np.multiply(part[None, :], multipliers[:, None], out=hashed)
        np.add(hashed, offsets[:, None], out=hashed)
        least = np.minimum.reduceat(hashed, first, axis=1).T
        texts_here = owners[first]
        minima[texts_here] = np.minimum(minima[texts_here], least)
    keys = np.zeros((len(texts), BANDS), np.uint64)
    rows = minima.reshape(len(texts), BANDS, ROWS).astype(np.uint64)
    for i in range(ROWS):
        keys = _mixed(keys * _PRIME + rows[:, :, i])
    # The band's number is part of its key: equal minima in different bands mean nothing.
    return _mixed(keys + np.arange(1, BANDS + 1, dtype=np.uint64)[None, :] * _PRIME), enough


def _shingles(texts: list[str]) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """Hashes of all shingles, and the text that each is from (ascending)."""
    joined = "\0".join(text.replace("\0", " ") for text in texts)
    units = _folded()[np.frombuffer(joined.encode("utf-16-le", "surrogatepass"), "<u2")]
    kind = _kinds()[units]
    word = kind == 1
    begins = (kind == 2) | (word & ~np.r_[False, word[:-1]])
    starts = np.flatnonzero(begins)
    none = np.zeros(0, np.uint32), np.zeros(0, np.int64)
    if len(starts) < SHINGLE:
        return none
    # A token's hash is a polynomial in its characters; what follows it up to the next weighs 0.
    spans = np.diff(np.r_[starts, len(units)])
    place = np.arange(starts[0], len(units)) - np.repeat(starts, spans)
    weight = _powers()[np.minimum(place, 255)]
    terms = (units[starts[0] :].astype(np.uint64) + np.uint64(1)) * weight
    terms[kind[starts[0] :] == 0] = 0
    tokens = _mixed(np.add.reduceat(terms, starts - starts[0]))
    text_of = np.cumsum(units == 0)[starts]
    count = len(tokens) - SHINGLE + 1
    shingles = np.zeros(count, np.uint64)
    for i in range(SHINGLE):
        shingles = shingles * _PRIME + tokens[i : i + count]
    whole = text_of[:count] == text_of[SHINGLE - 1 :]
    return (_mixed(shingles[whole]) >> np.uint64(32)).astype(np.uint32), text_of[:count][whole]


def _mixed(values: U64) -> U64:
    """The finalizer of splitmix64, on arrays."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@cache
def _permutations() -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    random = _mixed(np.arange(1, 2 * BANDS * ROWS + 1, dtype=np.uint64) * _PRIME)
    halves = (random >> np.uint64(32)).astype(np.uint32).reshape(2, -1)
    return halves[0] | np.uint32(1), halves[1]


@cache
def _powers() -> U64:
    powers = [1]
    for _ in range(255):
        powers.append(powers[-1] * 0x100000001B3 % (1 << 64))
    return np.array(powers, np.uint64)


@cache
def _folded() -> npt.NDArray[np.uint16]:
    """By UTF-16 unit: its NFKC case-folded form where that is one unit, else itself. (Normalizing
    the text itself takes longer than all the rest: full-width punctuation defeats its shortcut.)"""
    table = np.arange(1 << 16, dtype=np.uint16)
    for code in range(128, 1 << 16):
        folded = unicodedata.normalize("NFKC", chr(code)).casefold()
        if len(folded) == 1 and folded <= "\uffff":
            table[code] = ord(folded)
    table[ord("A") : ord("Z") + 1] += 32
    return table


@cache
def _kinds() -> npt.NDArray[np.uint8]:
    """By UTF-16 unit: 2 a character that is a token, 1 part of a word, 0 neither."""
    table: Any = np.zeros(1 << 16, np.uint8)
    table[[code for code in range(1 << 16) if chr(code).isalnum()]] = 1
    table[0xD800:0xDC00] = 2  # beyond the basic plane: rare Chinese characters, emoji
    for first, last in ((0x3040, 0x30FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF)):
        table[first : last + 1] = 2
    return table  # type: ignore[no-any-return]
