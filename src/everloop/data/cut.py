"""Long documents cut into pieces that fit a training sequence, where a reader would pause: after
a paragraph, else after a sentence, else between characters."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from everloop.model.tokenizer import Tokenizer

Ids = npt.NDArray[np.integer[Any]]
_SENTENCE_ENDS = tuple(mark.encode() for mark in "。！？；…!?;.")


class Cutter:
    """Cuts token ids of one tokenizer; joining the pieces gives the ids back."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    @cached_property
    def _quality(self) -> npt.NDArray[np.uint8]:
        """By token id: 2 where a paragraph ends with it, 1 a sentence, 0 neither."""
        table = np.zeros(self.tokenizer.vocab_size, np.uint8)
        for i in range(len(table)):
            piece = self.tokenizer.token_bytes(i)
            if piece.endswith(b"\n"):
                table[i] = 2
            elif piece.endswith(_SENTENCE_ENDS):
                table[i] = 1
        return table

    @cached_property
    def _continues(self) -> npt.NDArray[np.bool_]:
        """By token id: whether it begins inside a UTF-8 character."""
        pieces = map(self.tokenizer.token_bytes, range(self.tokenizer.vocab_size))
        return np.array([bool(p) and 0x80 <= p[0] < 0xC0 for p in pieces])

    def cut(self, ids: Ids, limit: int) -> list[Ids]:
        """Pieces of at most `limit` tokens, and at least a quarter of it but for the last."""
        if len(ids) <= limit:
            return [ids]
        quality = self._quality[ids]
        pieces = []
        start = 0
        while len(ids) - start > limit:
            end = self._end(ids, quality, start, start + limit)
            pieces.append(ids[start:end])
            start = end
        pieces.append(ids[start:])
        return pieces

    def _end(self, ids: Ids, quality: npt.NDArray[np.uint8], start: int, stop: int) -> int:
        least = start + (stop - start) // 4
        window = quality[least:stop]
        for wanted in (2, 1):
            found = np.flatnonzero(window >= wanted)
            if len(found):
                return least + int(found[-1]) + 1
        whole = np.flatnonzero(~self._continues[ids[least + 1 : stop + 1]])
        return least + 1 + int(whole[-1]) if len(whole) else stop
