"""Counter-based noise: the draw for one output token depends on nothing but the request's seed and
the token's number, never on the batch, on other requests or on how often the step was run."""

from __future__ import annotations

_MASK = 2**64 - 1


def uniform(seed: int, counter: int) -> float:
    """A number in [0, 1) with 40 random bits.

    SplitMix64's output function (Steele, Lea and Flood 2014) over the seed and, mixed again, over
    the counter, so that neighbouring seeds give unrelated streams. 40 bits leave room below 1 for
    a product with any double to stay strictly below that double.
    """
    mixed = _mix(_mix(seed & _MASK) ^ (counter * 0x9E3779B97F4A7C15 & _MASK))
    return (mixed >> 24) / 2.0**40


def _mix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)
