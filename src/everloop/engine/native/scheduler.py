"""Which tokens are computed in the next step: continuous batching with chunked prefill.

Every running stream gets one token per step; prompts share a budget that leaves the streams beside
them smooth (`pace`). Who waits is admitted in fair turns (`fair`) and shares what the cache knows
of its beginning (`prefix`). When blocks run out, the youngest sequence gives way and is computed
again later, as far as its blocks were needed meanwhile: with a batch-invariant model none of this
changes anything but time.
"""

from __future__ import annotations

from collections.abc import Mapping

from everloop.engine.native.blocks import BlockManager
from everloop.engine.native.fair import FairQueue
from everloop.engine.native.pace import SMALLEST, Pace
from everloop.engine.native.prefix import Node, PrefixTree
from everloop.engine.native.sequence import Draft, Piece, Sequence


class Scheduler:
    """Owns the waiting and the running sequences and their blocks.

    `chunk` bounds the prompt tokens of one step, `max_running` the sequences computed together.
    Any sequence that is added must fit all blocks alone, with all that it will write.
    """

    def __init__(self, blocks: BlockManager, *, max_running: int, chunk: int) -> None:
        assert max_running > 0
        self.blocks, self.max_running = blocks, max_running
        self.tree = PrefixTree(blocks)
        self.waiting = FairQueue()
        self.running: list[Sequence] = []  # oldest first
        self._pace = Pace(chunk)
        self._stuck = False  # nobody waiting can start until something changes

    def add(self, sequence: Sequence) -> None:
        """Queues a sequence behind the others of its tenant."""
        assert self.blocks.needed(len(sequence.tokens)) <= self.blocks.total
        self.waiting.add(sequence)
        self._stuck = False

    def remove(self, sequence: Sequence) -> None:
        """Ends a sequence wherever it is. Nobody holds its blocks any more, but what they know
        stays in the tree while there is room."""
        if sequence.blocks:
            self.running.remove(sequence)
            self._charge(sequence)
            self.tree.release(sequence)
        else:
            self.waiting.remove(sequence)
        self._stuck = False

    def plan(self) -> list[Piece]:
        """The pieces of the next step: one token for each running stream, then prompts, those of
        newly admitted sequences among them. Their blocks are allocated; call `advance` when they
        are computed."""
        size = self.blocks.block_size
        pieces: list[Piece] = []
        prompts: list[Sequence] = []
        full: list[Sequence] = []
        for sequence in self.running:
            computed = sequence.computed
            if len(sequence.tokens) - computed > 1:
                prompts.append(sequence)
            else:
                pieces.append(Piece(sequence, computed, 1))
                if computed == len(sequence.blocks) * size:
                    full.append(sequence)
        if full and not self._grow(full):
            return self.plan()  # without those that gave way
        if prompts or (self.waiting and not self._stuck and len(self.running) < self.max_running):
            self._read(pieces, prompts)
        return pieces

    def advance(self, pieces: list[Piece]) -> None:
        """Records that `pieces` are computed. Leave out those whose numbers are broken and remove
        their sequences: nobody must share them."""
        for piece in pieces:
            sequence = piece.sequence
            sequence.computed += piece.length
            if sequence.filled < len(sequence.path):
                self.tree.fill(sequence)
                self._stuck = False

    def observe(self, prompt: int, decode: int, seconds: float, steps: int = 1) -> None:
        """Takes the time of a step, or of `steps` alike, with `prompt` prompt tokens and `decode`
        streams, to learn how much of a prompt the next one may compute."""
        self._pace.observe(prompt, decode, seconds, steps)

    @property
    def idle_waiting(self) -> bool:
        """Whether a waiting sequence could be admitted now."""
        return self._next(()) is not None

    def reserve(self, steps: int, drafts: Mapping[Sequence, Draft]) -> int:
        """How many of the next `steps` steps need no further plan: 0 unless everyone running has
        one token left, nobody waiting could be admitted, and there are blocks for one. Blocks for
        them are allocated, for `drafts` too, without anybody giving way."""
        if any(s.left != 1 for s in self.running) or self.idle_waiting:
            return 0
        needed = self.blocks.needed
        tokens = [drafts[s].rows if s in drafts else (1, steps) for s in self.running]
        while steps:
            wanted = [
                needed(s.computed + min(steps * width, most)) - len(s.blocks)
                for s, (width, most) in zip(self.running, tokens, strict=True)
            ]
            fresh = self.blocks.allocate(sum(w for w in wanted if w > 0))
            if fresh is not None:
                for sequence, want in zip(self.running, wanted, strict=True):
                    for _ in range(want):
                        sequence.blocks.append(fresh.pop())
                return steps
            have = min(
                (len(s.blocks) * self.blocks.block_size - s.computed) // width
                for s, (width, _) in zip(self.running, tokens, strict=True)
            )
            steps = min(max(steps // 2, have), steps - 1)
        return 0

    def room(self, sequence: Sequence, tokens: int) -> int:
        """How many of a running sequence's next `tokens` tokens, drafted ones for example, its
        blocks can take. Allocates what is free for them; nobody gives way."""
        need = self.blocks.needed(sequence.computed + tokens) - len(sequence.blocks)
        if need > 0:
            sequence.blocks += self.blocks.allocate(min(need, self.blocks.free)) or ()
        return min(tokens, len(sequence.blocks) * self.blocks.block_size - sequence.computed)

    def _grow(self, full: list[Sequence]) -> bool:
        """One more block for each of `full`; False if somebody had to give way for it."""
        fresh = self.blocks.allocate(len(full))
        if fresh is not None:
            for sequence, block in zip(full, fresh, strict=True):
                sequence.blocks.append(block)
            return True
        while self.blocks.free < len(full):
            assert len(self.running) > 1, "a sequence outgrows the whole cache"
            victim = self.running.pop()
            if victim in full:
                full.remove(victim)
            self._charge(victim)
            self.tree.release(victim)
            self.waiting.add(victim, first=True)
        return False

    def _read(self, pieces: list[Piece], prompts: list[Sequence]) -> None:
        """Adds pieces of prompts, of newly admitted ones too, within the budget."""
        budget = self._pace.budget(len(pieces))
        wanted = sum(sequence.left for sequence in prompts)
        readers = {sequence.job.tenant for sequence in prompts}
        while True:
            # One tenant's long prompt doesn't keep another's waiting: they share the budget.
            room = budget - wanted
            if room <= 0 and (len(readers) + 1) * SMALLEST > budget:
                break
            admitted = self._admit(skip=readers if room <= 0 else ())
            if admitted is None:
                break
            prompts.append(admitted)
            readers.add(admitted.job.tenant)
            wanted += admitted.left
        share = max(budget // max(len(readers), 1), 1)
        lengths = dict.fromkeys(readers, share)
        made: list[Piece] = []
        for sequence in prompts:
            tenant = sequence.job.tenant
            length = min(sequence.left, lengths[tenant], budget)
            lengths[tenant] -= length
            budget -= length
            made.append(Piece(sequence, sequence.computed, length))
        for piece in made:  # what some tenants left over, others take
            more = min(piece.sequence.left - piece.length, budget)
            piece.length += more
            budget -= more
        pieces += [piece for piece in made if piece.length]

    def _admit(self, skip: set[str] | tuple[()]) -> Sequence | None:
        """Moves the next waiting sequence that may start to the running ones."""
        chosen = self._next(skip)
        if chosen is None:
            return None
        sequence, nodes = chosen
        self.waiting.remove(sequence)
        self.tree.admit(sequence, nodes)
        if not sequence.charged:
            sequence.cached = sequence.computed
        sequence.charged = len(sequence.tokens)
        self.waiting.charge(sequence.job.tenant, sequence.left)
        self.running.append(sequence)
        return sequence

    def _next(self, skip: set[str] | tuple[()]) -> tuple[Sequence, list[Node]] | None:
        """The waiting sequence whose turn it is, with what the tree knows of it; None if it must
        wait for memory, or everyone for what is being computed."""
        if self._stuck or not self.waiting or len(self.running) >= self.max_running:
            return None
        if self.waiting.tenants > 1:
            for sequence in self.running:
                self._charge(sequence)
        for sequence in self.waiting.turns(skip):
            if sequence.awaits is not None and sequence.awaits.pending:
                continue
            nodes = self.tree.find(sequence)
            if nodes is None:
                continue
            # Each running stream may need a block soon: without that reserve an admission would
            # be undone by the next step.
            need = self.blocks.needed(len(sequence.tokens)) - len(nodes) + self.tree.idle(nodes)
            if self.running and self.blocks.free < need + len(self.running):
                break
            return sequence, nodes
        self._stuck = not skip
        return None

    def _charge(self, sequence: Sequence) -> None:
        """Books what a sequence has written since it was last charged."""
        tokens = len(sequence.tokens)
        if tokens > sequence.charged:
            self.waiting.charge(sequence.job.tenant, tokens - sequence.charged)
            sequence.charged = tokens
