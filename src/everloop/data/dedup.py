"""Removal of copies, across all sources: exact by hash of the text, near by MinHash."""

from __future__ import annotations

from typing import Literal

Verdict = Literal["", "exact", "near"]


class Deduplicator:
    """Remembers the texts it let through. `journal` gets 8 bytes for each, so that a killed run
    can go on: `restore` takes them back."""

    def __init__(self) -> None:
        self._exact: set[int] = set()
        self._journal = bytearray()

    def check(self, value: int) -> Verdict:
        """Whether the text with this hash is new (""), and remember it if so."""
        if value in self._exact:
            return "exact"
        self._exact.add(value)
        self._journal += value.to_bytes(8, "little")
        return ""

    def drain(self) -> bytes:
        """What to append to the journal since the last call."""
        entries, self._journal = bytes(self._journal), bytearray()
        return entries

    def restore(self, journal: bytes) -> None:
        """Remember the texts of a journal."""
        for i in range(0, len(journal), 8):
            self._exact.add(int.from_bytes(journal[i : i + 8], "little"))
