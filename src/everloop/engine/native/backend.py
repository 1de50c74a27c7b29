"""What computes a step: one interface, in compiled kernels (`compiled`) or in PyTorch (`eager`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from everloop.model.early_exit import EarlyExits

Floats: TypeAlias = npt.NDArray[np.float32]

Top: TypeAlias = list[tuple[int, float]]
"""Most likely tokens with their log-probabilities, best first."""


@dataclass(frozen=True, slots=True)
class Exit:
    """Tokens of one sequence may leave after `layer` layers, those at positions from `start` on,
    where the gate there judges their state to be at least `threshold`."""

    layer: int
    threshold: float
    start: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Consecutive tokens of one sequence to compute: `ids` at positions start, start + 1, …; their
    keys go to the blocks of `table`, which covers at least start + len(ids) tokens."""

    ids: Sequence[int]
    start: int
    table: Sequence[int]
    exit: Exit | None = None


@dataclass(slots=True, kw_only=True)
class Choice:
    """How one request is sampled: `interface.Sampling`, and what penalties need to know."""

    temperature: float
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    prompt: frozenset[int] = frozenset()  # for repetition_penalty
    output: dict[int, int] = field(default_factory=dict)  # counts, for all three penalties

    @property
    def penalizes(self) -> bool:
        """Whether output counts matter."""
        return bool(
            self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1.0
        )

    @property
    def filters(self) -> bool:
        """Whether a part of the vocabulary is cut off."""
        return self.top_k > 0 or self.top_p < 1.0 or self.min_p > 0.0


TRUSTED, EACH = 6, 4
"""After a draft was wrong in one token, what comes after it is tried a little at a time, so much
for each token that agreed since, until so many have. It is given up if it is wrong again before."""


class Sampler:
    """One request's rules, noise and memory of its output; each backend has its own kind."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """One sequence that writes several tokens in one go: its last token `id` at `position`, block
    table, sampler, and the tokens that end it; what it may write, and how much of that is verified
    in each step."""

    id: int
    position: int
    table: Sequence[int]
    sampler: Sampler
    ends: frozenset[int]
    draft: Sequence[int] = ()
    width: int = 0
    exit: Exit | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What the writers wrote, each its own tokens; a last one of -1: its numbers are not finite.
    `broken` are writers whose numbers became so by a draft, after the tokens that they have.
    `left` says of each token whether its state left early, nothing where none might. `rows` is what
    all `steps` computed."""

    tokens: list[list[int]]
    left: list[list[bool]]
    broken: list[int]
    steps: int
    rows: int


class Backend(ABC):
    """A loaded model over its block cache. Rows are float32 NumPy arrays, valid until the next
    call. Not thread-safe; one per process.

    What is computed for a token depends on its sequence alone, bit for bit: not on its neighbours
    in the batch, on how its text was cut in pieces, or on what the cache held before. (On a GPU
    only within rounding: see `device`.)
    """

    name: str  # for logs and `doctor`
    threads: int
    vocab_size: int
    block_size: int
    blocks: int
    _left: list[bool]

    @abstractmethod
    def open_exits(self, exits: EarlyExits) -> None:
        """Loads the gates that an `Exit` needs."""

    def left(self) -> list[bool]:
        """Of every row of the last `forward`, in order, whether it left early; empty where nobody
        might."""
        return self._left

    @abstractmethod
    def forward(self, batch: Sequence[Rows]) -> list[bool]:
        """Computes all tokens of `batch` and puts their keys and values into the cache; for each
        entry whether its numbers are finite."""

    @abstractmethod
    def hidden(self, rows: Sequence[int]) -> Floats:
        """States after the final norm (len(rows), C) of tokens of the last batch, which are
        numbered in the order of `batch`."""

    @abstractmethod
    def logits(self, rows: Sequence[int]) -> Floats:
        """Logits (len(rows), V) of tokens of the last batch."""

    @abstractmethod
    def logprobs(
        self, logits: Floats, targets: Sequence[int], tops: Sequence[int]
    ) -> list[tuple[float, Top]]:
        """log p of each row's target under the model itself, and the row's best tokens; NaN where
        the row is not finite."""

    @abstractmethod
    def sampler(self, choice: Choice, seed: int) -> Sampler:
        """A sampler at the start of its output."""

    @abstractmethod
    def verify(
        self, logits: Floats, samplers: Sequence[Sampler], drafts: Sequence[Sequence[int]]
    ) -> list[list[int]]:
        """Samples for each sampler the token after its last one, and as long as what was drawn is
        what was drafted, the token after that: 1 to len(draft) + 1 tokens, all of them final. The
        rows of one sampler, len(draft) + 1 of them, follow those of the one before. A token of -1:
        the logits are not finite, and nothing follows."""

    @abstractmethod
    def clear(self, blocks: Sequence[int]) -> None:
        """Zeroes blocks that may hold NaN or infinity: a masked value is multiplied by zero, which
        would spread them to the block's next holder."""

    def write(self, writers: Sequence[Writer], steps: int) -> Written:
        """Up to `steps` steps that write a token for each writer, and its drafted ones as far as
        they are what it writes; until one ends, or departs from its draft for good or comes to its
        end. The tables cover what they may write."""
        tokens: list[list[int]] = [[] for _ in writers]
        left: list[list[bool]] = [[] for _ in writers]
        broken: list[int] = []
        agreed = [TRUSTED] * len(writers)
        done = rows = 0
        going = True
        while going and done < steps:
            batch = []
            for w, own, n in zip(writers, tokens, agreed, strict=True):
                end = len(own) + (w.width if n >= TRUSTED else min(w.width, EACH * n))
                ids = [own[-1] if own else w.id, *w.draft[len(own) : end]]
                start = w.position + len(own)
                batch.append(Rows(ids=ids, start=start, table=w.table, exit=w.exit))
            fine = self.forward(batch)
            wanted: list[int] = []
            made = 0
            for i, one in enumerate(batch):
                if fine[i]:
                    wanted += range(made, made + len(one.ids))
                elif len(one.ids) > 1:
                    broken.append(i)
                else:
                    tokens[i].append(-1)
                made += len(one.ids)
            alive = [i for i, good in enumerate(fine) if good]
            drawn: list[list[int]] = []
            if alive:
                samplers = [writers[i].sampler for i in alive]
                drafts = [batch[i].ids[1:] for i in alive]
                drawn = self._draw(wanted, samplers, drafts)
            flags, at = self.left(), 0
            done, rows, going = done + 1, rows + made, all(fine)
            for i, new in zip(alive, drawn, strict=True):
                own, draft = tokens[i], writers[i].draft
                own += new
                left[i] += [flags[row] for row in wanted[at : at + len(new)]] if flags else ()
                at += len(batch[i].ids)
                if new[-1] < 0 or not writers[i].ends.isdisjoint(new):
                    going = False
                elif draft:
                    right = draft[len(own) - 1 : len(own)] == own[-1:]
                    going &= (right or agreed[i] >= TRUSTED) and len(own) < len(draft)
                    agreed[i] = agreed[i] + len(new) if right else 0
        return Written(tokens=tokens, left=left, broken=broken, steps=done, rows=rows)

    def _draw(
        self, rows: Sequence[int], samplers: Sequence[Sampler], drafts: Sequence[Sequence[int]]
    ) -> list[list[int]]:
        """`verify` after tokens of the last batch."""
        return self.verify(self.logits(rows), samplers, drafts)
