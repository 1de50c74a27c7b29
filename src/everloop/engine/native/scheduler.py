"""Which tokens are computed in the next step: continuous batching with chunked prefill.

Every running stream gets one token per step; prompts share what is left of a budget, in order of
arrival, so that a long prompt slows the streams beside it by one chunk and not by its length.
When blocks run out, the youngest sequence gives its own back and is computed again later: with a
batch-invariant model that changes nothing but time.
"""

from __future__ import annotations

from collections import deque

from everloop.engine.native.blocks import BlockManager
from everloop.engine.native.sequence import Piece, Prefix, Sequence


class Scheduler:
    """Owns the waiting and the running sequences and their blocks.

    `chunk` bounds the prompt tokens of one step, `max_running` the sequences computed together.
    Any sequence that is added must fit all blocks alone.
    """

    def __init__(self, blocks: BlockManager, *, max_running: int, chunk: int) -> None:
        assert max_running > 0
        assert chunk > 0
        self.blocks, self.max_running, self.chunk = blocks, max_running, chunk
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # oldest first
        self._prefixes: list[Prefix] = []  # those that hold blocks of their own

    def add(self, sequence: Sequence) -> None:
        """Queues a sequence behind all others."""
        assert self.blocks.needed(len(sequence.tokens)) <= self.blocks.total
        if sequence.prefix is not None:
            sequence.prefix.waiting += 1
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Ends a sequence wherever it is; its blocks are free at once."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._give_back(sequence)
        else:
            self.waiting.remove(sequence)
            if sequence.prefix is not None:
                self._taken(sequence.prefix)

    def plan(self) -> list[Piece]:
        """The pieces of the next step: first the running sequences, then newly admitted ones.
        Their blocks are allocated; call `advance` when they are computed."""
        pieces: list[Piece] = []
        budget = self.chunk
        for sequence in list(self.running):
            if sequence not in self.running:
                continue  # preempted for an older one
            length = 1 if sequence.left == 1 else min(sequence.left, budget)
            if length and self._grow(sequence, sequence.computed + length):
                budget -= length if sequence.left > 1 else 0
                pieces.append(Piece(sequence=sequence, start=sequence.computed, length=length))
        while budget > 0 and len(self.running) < self.max_running:
            admitted = self._admit()
            if admitted is None:
                break
            length = min(admitted.left, budget)
            budget -= length
            pieces.append(Piece(sequence=admitted, start=admitted.computed, length=length))
        return pieces

    def advance(self, pieces: list[Piece]) -> None:
        """Records that `pieces` are computed."""
        for piece in pieces:
            sequence = piece.sequence
            sequence.computed += piece.length
            prefix = sequence.prefix
            if (
                prefix is not None
                and prefix.filler is sequence
                and sequence.computed >= prefix.length
            ):
                prefix.filler = None
                if prefix.waiting:
                    count = prefix.length // self.blocks.block_size
                    prefix.blocks = self.blocks.share(sequence.blocks[:count])
                    self._prefixes.append(prefix)

    def _admit(self) -> Sequence | None:
        """Moves the first waiting sequence that may start to the running ones."""
        for sequence in self.waiting:
            prefix = sequence.prefix
            if prefix is None or prefix.filler is None:
                break
        else:
            return None
        shared = prefix.blocks if prefix is not None and prefix.blocks is not None else []
        need = self.blocks.needed(len(sequence.tokens)) - len(shared)
        # Each running stream may need a block soon: without that reserve an admission would be
        # undone by the next step.
        while self.blocks.free < need + len(self.running):
            if self.running or not self._drop_prefix(keep=prefix if shared else None):
                return None
        taken = self.blocks.allocate(need)
        assert taken is not None
        self.waiting.remove(sequence)
        sequence.blocks = [*self.blocks.share(shared), *taken]
        sequence.computed = sequence.cached = len(shared) * self.blocks.block_size
        if prefix is not None:
            if not shared:
                prefix.filler = sequence
            self._taken(prefix)
        self.running.append(sequence)
        return sequence

    def _grow(self, sequence: Sequence, tokens: int) -> bool:
        """Blocks for `tokens` tokens of a running sequence; False if it had to give way."""
        need = self.blocks.needed(tokens) - len(sequence.blocks)
        while (taken := self.blocks.allocate(max(need, 0))) is None:
            if self._drop_prefix(keep=None):
                continue
            victim = self.running.pop()
            self._give_back(victim)
            self.waiting.appendleft(victim)
            if victim is sequence:
                return False
        sequence.blocks += taken
        return True

    def _give_back(self, sequence: Sequence) -> None:
        self.blocks.release(sequence.blocks)
        sequence.blocks = []
        sequence.computed = sequence.cached = 0
        if sequence.prefix is not None:
            if sequence.prefix.filler is sequence:
                sequence.prefix.filler = None
            sequence.prefix = None  # next time it computes everything itself

    def _taken(self, prefix: Prefix) -> None:
        prefix.waiting -= 1
        if not prefix.waiting:
            self._forget(prefix)

    def _drop_prefix(self, keep: Prefix | None) -> bool:
        """Gives up one shared prefix; sequences that still wait for it compute it again."""
        for prefix in self._prefixes:
            if prefix is not keep:
                self._forget(prefix)
                return True
        return False

    def _forget(self, prefix: Prefix) -> None:
        if prefix.blocks is not None:
            self.blocks.release(prefix.blocks)
            prefix.blocks = None
            self._prefixes.remove(prefix)
