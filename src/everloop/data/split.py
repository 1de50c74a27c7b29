"""Which side of the train/validation split a document falls on: decided by a hash of its text
alone, so that it never changes when other data is added, and exact copies stay together."""

from __future__ import annotations

import hashlib

SPLITS = ("train", "validation")


def document_hash(text: str, seed: int = 0) -> int:
    """64 uniform bits of the text; another `seed` gives independent ones."""
    digest = hashlib.blake2b(
        text.encode("utf-8", "surrogatepass"), digest_size=8, key=seed.to_bytes(8, "little")
    )
    return int.from_bytes(digest.digest(), "little")


def mix(value: int, salt: int) -> int:
    """Another 64 uniform bits from `value`, for a decision independent of the split.

    The finalizer of splitmix64 (Steele, Lea, Flood 2014).
    """
    z = (value + (salt + 1) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return z ^ (z >> 31)


def share(value: int) -> float:
    """The hash as a number in [0, 1)."""
    return (value >> 11) / float(1 << 53)


def split_of(value: int, val_fraction: float) -> int:
    """0 train, 1 validation, for a document hash."""
    return int(share(mix(value, 0)) < val_fraction)
