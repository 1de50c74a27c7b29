"""Which side of the train/validation split a document falls on: decided by a hash of its text
alone, so that it never changes when other data is added, and exact copies stay together."""

from __future__ import annotations

import hashlib
import unicodedata

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


VALIDATION_FRACTION = 0.08


def is_validation(text: str, fraction: float = VALIDATION_FRACTION, seed: int = 0) -> bool:
    """Whether a row of a task set is kept out of all training to evaluate on.

    `text` is what the row asks about, so that no answer to it can leak: the text to classify,
    correct or summarize, the passage to read, the English side to translate. Only its letters and
    digits count, in one width and case, so that near copies in other sets stay on the same side.
    A smaller fraction gives a subset of a larger one's rows.
    """
    letters = "".join(c for c in unicodedata.normalize("NFKC", text).lower() if c.isalnum())
    return split_of(document_hash(letters, seed), fraction) == SPLITS.index("validation")
