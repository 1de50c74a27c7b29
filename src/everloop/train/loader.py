"""Packed documents to rows of fixed length, mixed over sources, resumable to the row.

A document of n tokens gives n-1 pairs (token, next token). Pairs are packed best-fit into rows;
longer documents are cut at row length, without losing a pair. Every piece keeps its own document
number and positions, so that attention never crosses a border. The order is a pure function of
(data, seed): resuming at a step costs no replay of what was trained.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from everloop.errors import InvalidRequest

IGNORE = -100
"""Target of a position that gives no loss."""

WINDOW = 8192
"""Pieces packed together: enough for best-fit to fill rows, little enough to pack in no time."""


class Dataset(Protocol):
    """What the loader needs of packed data (data.pack.PackedDataset)."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each document."""

    @property
    def source_of(self) -> NDArray[np.uint16]:
        """Index of each document's source."""

    def document(self, index: int) -> tuple[NDArray[np.integer], NDArray[np.uint8] | None]:
        """Token ids, and a mask with 1 on tokens to learn (None: all)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows for one optimizer step, all arrays int64 (rows, sequence_length)."""

    ids: NDArray[np.int64]
    targets: NDArray[np.int64]
    positions: NDArray[np.int64]
    documents: NDArray[np.int64]
    """Number of the piece within its row; -1 where the row is padding."""
    weights: NDArray[np.float32]
    """What each target counts in the loss; 1 unless sources are balanced."""

    @property
    def target_tokens(self) -> int:
        """Positions that give a loss."""
        return int((self.targets != IGNORE).sum())

    @property
    def weight(self) -> float:
        """Sum of the targets' weights: what the loss is divided by."""
        return float(self.weights[self.targets != IGNORE].sum(dtype=np.float64))

    def rows(self, start: int, stop: int, step: int = 1) -> Batch:
        """A part of the batch."""
        part = slice(start, stop, step)
        return Batch(
            ids=self.ids[part],
            targets=self.targets[part],
            positions=self.positions[part],
            documents=self.documents[part],
            weights=self.weights[part],
        )


@dataclass(slots=True)
class Cursor:
    """Where the next batch begins: pass over the data, window of pieces, row in the window."""

    epoch: int = 0
    window: int = 0
    row: int = 0


class Loader:
    """An endless stream of batches in a fixed order.

    `weights` says how often each source is read in one pass (1.0: every document once; 0.3: a
    random 30 % of them, drawn anew in the next pass; 2.5: twice, and a random half again);
    `counts` what a target of each source counts in the loss.
    """

    def __init__(
        self,
        data: Dataset,
        *,
        sequence_length: int,
        rows: int,
        seed: int,
        weights: list[float] | None = None,
        counts: list[float] | None = None,
        cut: bool = True,
    ) -> None:
        self.data, self.length, self.rows, self.seed = data, sequence_length, rows, seed
        usable = data.lengths > 1
        if not cut:
            # An answer cut off from its question teaches nothing: too long examples are left out.
            usable &= data.lengths <= sequence_length + 1
        self.left_out = int((data.lengths > 1).sum() - usable.sum())
        self._usable = np.flatnonzero(usable)
        if not len(self._usable):
            longest = int(data.lengths.max()) if len(data.lengths) else 0
            raise InvalidRequest(
                f"No document fits: {len(data.lengths)} documents, the longest {longest} tokens, "
                f"--sequence-length {sequence_length}. Raise --sequence-length or give more data.",
                param="sequence_length",
            )
        sources = int(data.source_of.max()) + 1
        self.weights = weights or [1.0] * sources
        self.counts = np.array(counts or [1.0] * sources, dtype=np.float32)
        if not any(self.weights[s] > 0 for s in np.unique(data.source_of[self._usable])):
            raise InvalidRequest("All sources have weight 0: set a weight.", param="weight")
        self.cursor = Cursor()
        self._packed: tuple[int, int, list[list[Piece]]] | None = None
        self._pieces: tuple[int, NDArray[np.int64]] | None = None

    def next(self) -> Batch:
        """The next batch; moves the cursor."""
        chosen: list[list[Piece]] = []
        empty = 0
        while len(chosen) < self.rows:
            packed = self._window(self.cursor.epoch, self.cursor.window)
            take = packed[self.cursor.row : self.cursor.row + self.rows - len(chosen)]
            chosen += take
            self.cursor.row += len(take)
            if self.cursor.row >= len(packed):
                self.cursor.row = 0
                self.cursor.window += 1
                if self.cursor.window * WINDOW >= len(self._order(self.cursor.epoch)):
                    self.cursor.window = 0
                    self.cursor.epoch += 1
                    empty += 1
                    # Weights below one document a pass can leave passes empty, never all of them.
                    assert empty < 1000, "a thousand passes without a document"
        return self._build(chosen)

    def pairs_per_epoch(self) -> int:
        """Tokens with a next token in one pass at these weights, in expectation."""
        lengths = self.data.lengths[self._usable] - 1
        by_source = np.bincount(self.data.source_of[self._usable], weights=lengths)
        return int(sum(n * self.weights[s] for s, n in enumerate(by_source)))

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """Documents of one pass, shuffled, each as often as its source's weight says."""
        if self._pieces is None or self._pieces[0] != epoch:
            generator = np.random.default_rng((self.seed, epoch))
            parts = []
            source_of = self.data.source_of[self._usable]
            for source in np.unique(source_of):
                weight = self.weights[source]
                documents = self._usable[source_of == source]
                parts += [documents] * int(weight)
                extra = round((weight % 1) * len(documents))
                if extra:
                    parts.append(generator.choice(documents, size=extra, replace=False))
            order = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
            generator.shuffle(order)
            self._pieces = (epoch, order)
        return self._pieces[1]

    def _window(self, epoch: int, window: int) -> list[list[Piece]]:
        if self._packed is None or self._packed[:2] != (epoch, window):
            documents = self._order(epoch)[window * WINDOW : (window + 1) * WINDOW]
            pieces = [
                (int(d), start, min(self.length, pairs - start))
                for d, pairs in zip(documents, self.data.lengths[documents] - 1, strict=True)
                for start in range(0, int(pairs), self.length)
            ]
            generator = np.random.default_rng((self.seed, epoch, window, 1))
            packed = best_fit(pieces, self.length)
            order = generator.permutation(len(packed))
            self._packed = (epoch, window, [packed[i] for i in order])
        return self._packed[2]

    def _build(self, rows: list[list[Piece]]) -> Batch:
        shape = (len(rows), self.length)
        ids = np.zeros(shape, dtype=np.int64)
        targets = np.full(shape, IGNORE, dtype=np.int64)
        positions = np.zeros(shape, dtype=np.int64)
        documents = np.full(shape, -1, dtype=np.int64)
        weights = np.ones(shape, dtype=np.float32)
        for r, row in enumerate(rows):
            at = 0
            for number, (document, start, size) in enumerate(row):
                tokens, mask = self.data.document(document)
                to = at + size
                ids[r, at:to] = tokens[start : start + size]
                following = tokens[start + 1 : start + 1 + size].astype(np.int64)
                if mask is not None:
                    following[mask[start + 1 : start + 1 + size] == 0] = IGNORE
                targets[r, at:to] = following
                positions[r, at:to] = np.arange(size)
                documents[r, at:to] = number
                weights[r, at:to] = self.counts[self.data.source_of[document]]
                at = to
        return Batch(
            ids=ids, targets=targets, positions=positions, documents=documents, weights=weights
        )


Piece = tuple[int, int, int]
"""Document index, first pair, number of pairs."""


def best_fit(pieces: list[Piece], capacity: int) -> list[list[Piece]]:
    """Packs pieces into rows of at most `capacity` pairs, longest first, each into the fullest
    row that still takes it. Deterministic: ties go to the earlier piece and row."""
    rows: list[list[Piece]] = []
    # Rows with room, sorted by (room, index): bisect finds the tightest one.
    room: list[tuple[int, int]] = []
    for piece in sorted(pieces, key=lambda p: -p[2]):
        assert 0 < piece[2] <= capacity
        at = bisect.bisect_left(room, (piece[2], -1))
        if at < len(room):
            left, index = room.pop(at)
        else:
            left, index = capacity, len(rows)
            rows.append([])
        rows[index].append(piece)
        if left > piece[2]:
            bisect.insort(room, (left - piece[2], index))
    return rows


def sequential(
    data: Dataset, *, sequence_length: int, rows: int, limit: int | None = None
) -> Iterator[Batch]:
    """Every document once, in order: for validation. `limit` stops after that many rows."""
    loader = Loader(data, sequence_length=sequence_length, rows=rows, seed=0, cut=True)
    pieces = [
        (int(d), start, min(sequence_length, int(data.lengths[d]) - 1 - start))
        for d in loader._usable
        for start in range(0, int(data.lengths[d]) - 1, sequence_length)
    ]
    packed = best_fit(pieces, sequence_length)[:limit]
    for at in range(0, len(packed), rows):
        yield loader._build(packed[at : at + rows])
