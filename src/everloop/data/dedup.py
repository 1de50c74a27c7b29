"""Removal of copies, across all sources: exact by hash of the text, near by MinHash.

A text is a near copy if it shares a band key with any earlier text, kept or not: the first of a
family of copies stays. That depends on the order of the texts only, not on how they are batched.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from everloop.data.minhash import BANDS, band_keys

Verdict = Literal["", "exact", "near"]
U64 = npt.NDArray[np.uint64]
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio, odd


class KeySet:
    """A set of 64-bit keys in 16 bytes each or less, filled and asked by the array."""

    def __init__(self) -> None:
        self._slots: U64 = np.zeros(1 << 16, np.uint64)  # open addressing; 0 is empty
        self._count = 0

    def add(self, keys: U64) -> tuple[npt.NDArray[np.bool_], U64]:
        """Adds `keys`. For each, whether it was in the set already or is earlier in `keys`; and
        the keys that were new."""
        keys = np.maximum(keys, np.uint64(1))
        unique, first, which = np.unique(keys, return_index=True, return_inverse=True)
        known = self._contains(unique)
        seen = known[which] | (np.arange(len(keys)) > first[which])
        new = unique[~known]
        self._insert(new)
        return seen, new

    def __len__(self) -> int:
        return self._count

    def _contains(self, keys: U64) -> npt.NDArray[np.bool_]:
        found = np.zeros(len(keys), np.bool_)
        waiting = np.arange(len(keys))
        slots = self._home(keys)
        while len(waiting):
            there = self._slots[slots]
            hit = there == keys[waiting]
            found[waiting[hit]] = True
            go_on = ~hit & (there != 0)
            waiting, slots = waiting[go_on], (slots[go_on] + 1) % len(self._slots)
        return found

    def _insert(self, keys: U64) -> None:
        """Insert distinct keys that aren't in the set."""
        self._count += len(keys)
        if self._count * 2 > len(self._slots):
            keys = np.concatenate([self._slots[self._slots != 0], keys])
            self._slots = np.zeros(1 << (4 * self._count - 1).bit_length(), np.uint64)
        slots = self._home(keys)
        while len(keys):
            free = self._slots[slots] == 0
            self._slots[slots[free]] = keys[free]  # of several for one slot, one gets it
            left = self._slots[slots] != keys
            keys, slots = keys[left], (slots[left] + 1) % len(self._slots)

    def _home(self, keys: U64) -> npt.NDArray[np.int64]:
        # Fibonacci hashing: neighbouring keys, too, are spread over the table.
        bits = len(self._slots).bit_length() - 1
        return ((keys * _SPREAD) >> np.uint64(64 - bits)).astype(np.int64)


class Deduplicator:
    """Remembers the texts it saw. `drain` gives what to append to a journal, so that a killed run
    can go on; `restore` takes the journal back."""

    def __init__(self) -> None:
        self._seen = KeySet()
        self._journal: list[U64] = []

    def check(self, values: list[int], texts: list[str], *, near: bool) -> list[Verdict]:
        """For each text (with its document hash): "" if new, else what kind of copy it is."""
        verdicts: list[Verdict] = [""] * len(texts)
        if not texts:
            return verdicts
        copies = self._add(np.array(values, np.uint64))
        for i in np.flatnonzero(copies):
            verdicts[i] = "exact"
        rest = np.flatnonzero(~copies)
        if near and len(rest):
            keys, enough = band_keys([texts[i] for i in rest])
            rest, keys = rest[enough], keys[enough]
            similar = self._similar(keys)
            for i in rest[similar]:
                verdicts[i] = "near"
        return verdicts

    def _similar(self, keys: U64) -> npt.NDArray[np.bool_]:
        return np.asarray(self._add(keys.reshape(-1)).reshape(-1, BANDS).any(axis=1))

    def _add(self, keys: U64) -> npt.NDArray[np.bool_]:
        seen, new = self._seen.add(keys)
        self._journal.append(new)
        return seen

    def drain(self) -> bytes:
        """What to append to the journal since the last call."""
        entries = b"".join(keys.astype("<u8").tobytes() for keys in self._journal)
        self._journal = []
        return entries

    def restore(self, journal: bytes) -> None:
        """Remember what a journal says was seen."""
        self._seen.add(np.frombuffer(journal, "<u8").astype(np.uint64))
