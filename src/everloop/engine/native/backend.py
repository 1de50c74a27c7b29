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


class Sampler:
    """One request's rules, noise and memory of its output; each backend has its own kind."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """One sequence that writes several tokens in one go: its last token `id` at `position`, block
    table, sampler, and the tokens that end it."""

    id: int
    position: int
    table: Sequence[int]
    sampler: Sampler
    ends: frozenset[int]
    exit: Exit | None = None


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
        """Of every row of the last `forward`, or of every writer in every step of the last
        `write`, in order, whether it left early; empty where nobody might."""
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

    @abstractmethod
    def write(self, writers: Sequence[Writer], steps: int) -> list[list[int]]:
        """Up to `steps` tokens for every writer, in as many steps, until one of them ends; the
        tables cover them. Returns the tokens of each step; -1 as in `verify`."""
