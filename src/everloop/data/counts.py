"""What a packing tells: what happened to the rows of each source, and how far it is."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

from everloop.data.split import SPLITS

_BY_SPLIT = ("documents", "pieces", "tokens", "targets", "bytes")


@dataclass(slots=True, kw_only=True)
class Counts:
    """What happened to the rows of one source; pairs are (train, validation)."""

    rows: int = 0
    text_bytes: int = 0
    refused: int = 0
    subset_bytes: int = 0
    """Text of the subset that `max_bytes` asks for, before cleaning."""
    not_in_subset: int = 0
    too_short: int = 0
    exact_duplicates: int = 0
    near_duplicates: int = 0
    fim_pieces: int = 0
    noisy: int = 0
    """Examples with noise in them."""
    documents: list[int] = field(default_factory=lambda: [0, 0])
    pieces: list[int] = field(default_factory=lambda: [0, 0])
    tokens: list[int] = field(default_factory=lambda: [0, 0])
    targets: list[int] = field(default_factory=lambda: [0, 0])
    bytes: list[int] = field(default_factory=lambda: [0, 0])
    languages: Counter[str] = field(default_factory=Counter)
    cleaned: Counter[str] = field(default_factory=Counter)

    def state(self) -> dict[str, Any]:
        """Its JSON form, which `load` reads."""
        state = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            k: dict(sorted(v.items())) if isinstance(v, Counter) else v for k, v in state.items()
        }

    @classmethod
    def load(cls, state: dict[str, Any]) -> Counts:
        """From its JSON form."""
        values: dict[str, Any] = {
            k: Counter(v) if isinstance(v, dict) else v for k, v in state.items()
        }
        return cls(**values)

    def described(self) -> dict[str, Any]:
        """As the manifest has it: pairs by the names of the splits."""
        state = self.state()
        return state | {k: dict(zip(SPLITS, state[k], strict=True)) for k in _BY_SPLIT}


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a pack is; `text_bytes` of `total_bytes` are read."""

    source: str
    text_bytes: int
    total_bytes: int
    tokens: int
    documents: int
    seconds: float
    """Since this process began; `resumed_bytes` were read by an earlier one."""
    resumed_bytes: int

    @property
    def eta(self) -> float | None:
        """Seconds left, or None before there is a rate."""
        done = self.text_bytes - self.resumed_bytes
        return (self.total_bytes - self.text_bytes) * self.seconds / done if done else None
