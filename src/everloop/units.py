"""Numbers as people write them: sizes such as 10MiB, times such as 20s."""

from __future__ import annotations

import re


def whole(raw: str | float) -> int:
    """A whole number. Raises ValueError."""
    if isinstance(raw, float):
        raise ValueError
    return int(raw)


def size(raw: str | float) -> int:
    """Bytes: a number, or one with K, M, G (1000) or Ki, Mi, Gi (1024). Raises ValueError."""
    match = re.fullmatch(r"(\d+)\s*([KMG]?)(i?)B?", str(raw).strip(), re.IGNORECASE)
    if match is None:
        raise ValueError
    thousands = 1 if not match[2] else "kmg".index(match[2].lower()) + 2
    unit: int = (1024 if match[3] else 1000) ** (thousands - 1)
    return int(match[1]) * unit


def seconds(raw: str | float) -> float:
    """Seconds: a number, or one with ms, s, m or h. Raises ValueError."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?)\s*(|ms|s|m|h)", str(raw).strip())
    if match is None:
        raise ValueError
    return float(match[1]) * {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}[match[2]]


def show_size(count: int) -> str:
    """The shortest exact way to write a size."""
    if count % 1024:
        return str(count)
    return f"{count // 2**20}MiB" if count % 2**20 == 0 else f"{count // 2**10}KiB"
