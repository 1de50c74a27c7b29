"""What the scheduler moves: one row of tokens with its blocks, and what is wanted of it."""

from __future__ import annotations

import collections.abc as abc
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from everloop.engine.native.jobs import Job


@dataclass(slots=True, kw_only=True, eq=False)
class Prefix:
    """Tokens that several sequences of one job begin with, computed once.

    The first sequence admitted fills it; the others wait, then share its blocks. `length` is a
    multiple of the block size, so that nobody writes into a shared block.
    """

    length: int
    waiting: int = 0  # sequences that have yet to take it
    filler: Sequence | None = None
    blocks: list[int] | None = None  # held by the prefix itself once they are filled


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
    prefix: Prefix | None = None
    computed: int = 0  # tokens whose keys are in the cache
    cached: int = 0  # of these, how many were shared and not computed here
    ended: bool = False  # computed and removed, while its job may go on
    blocks: list[int] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Tokens still to be computed."""
        return len(self.tokens) - self.computed


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """The next `length` uncomputed tokens of a sequence, planned for one step."""

    sequence: Sequence
    start: int
    length: int
