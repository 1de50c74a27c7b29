"""What the scheduler moves: one row of tokens with its blocks, and what is wanted of it."""

from __future__ import annotations

import collections.abc as abc
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from everloop.engine.native.backend import Exit
    from everloop.engine.native.jobs import Job
    from everloop.engine.native.prefix import Node


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """Tokens of one prompt (and its output so far), with the blocks that hold their keys."""

    job: Job
    tokens: list[int]
    number: int = 0  # among the sequences of its job
    samples: bool = False  # wants a next token when all are computed
    score_from: int = 0  # wants log p(targets[i]) after the token at score_from + i
    targets: abc.Sequence[int] = ()
    scored: int = 0  # targets done
    pools: bool = False  # wants the mean of its hidden states
    computed: int = 0  # tokens whose keys are in the cache
    cached: int = 0  # of these, how many were there when it first started
    charged: int = 0  # tokens that its tenant has been charged for; 0: it never started
    ended: bool = False  # computed and removed, while its job may go on
    blocks: list[int] = field(default_factory=list)  # none: it waits
    path: list[Node] = field(default_factory=list)  # its first blocks' nodes in the prefix tree
    filled: int = 0  # of these, how many are computed
    awaits: Node | None = None  # begins with a block that another sequence is computing
    exit: Exit | None = None  # what it writes may leave the model early

    @property
    def left(self) -> int:
        """Tokens still to be computed."""
        return len(self.tokens) - self.computed

    @property
    def reusable(self) -> int:
        """First tokens that needn't be computed for this sequence where their keys are known:
        neither the last one nor any whose hidden state is wanted."""
        if self.pools:
            return 0
        if self.scored < len(self.targets):
            return min(self.score_from + self.scored, len(self.tokens) - 1)
        return min(self.exact, len(self.tokens) - 1)

    @property
    def exact(self) -> int:
        """First tokens whose keys are what anybody would compute for them; the keys of others are
        this sequence's alone."""
        return len(self.tokens) if self.exit is None else min(self.exit.start, len(self.tokens))


@dataclass(frozen=True, slots=True)
class Draft:
    """What may come after a sequence's last token: `tokens`, of which `width` are verified in each
    step."""

    tokens: abc.Sequence[int]
    width: int

    @property
    def rows(self) -> tuple[int, int]:
        """Tokens to compute in a step, the sequence's last one among them, and in all."""
        return self.width + 1, len(self.tokens) + 1


@dataclass(slots=True)
class Piece:
    """The next `length` uncomputed tokens of a sequence, planned for one step, and `draft`, what
    may come after them."""

    sequence: Sequence
    start: int
    length: int
    draft: abc.Sequence[int] = ()

    @property
    def rows(self) -> int:
        """Tokens to compute."""
        return self.length + len(self.draft)
