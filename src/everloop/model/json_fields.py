"""Checked values out of a `config.json` object; a complaint names the field and what it needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from everloop.errors import InvalidRequest


def integer(
    value: Mapping[str, Any],
    name: str,
    default: int | None = None,
    *,
    least: int = 1,
    most: int = 2**31 - 1,
) -> int:
    """A whole number within bounds."""
    found = value.get(name)
    if found is None:
        found = default
    if type(found) is not int or not least <= found <= most:
        raise InvalidRequest(
            f"config.json: {name} is {found!r}, an integer from {least} to {most} is needed.",
            param=name,
        )
    return found


def number(value: Mapping[str, Any], name: str, default: float | None = None) -> float:
    """A positive finite number."""
    found = value.get(name, default)
    # JSON as Python reads it may hold NaN and Infinity; they fail the comparison.
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found < 1e30:
        raise InvalidRequest(
            f"config.json: {name} is {found!r}, a positive number is needed.", param=name
        )
    return float(found)


def token_id(value: Mapping[str, Any], name: str) -> int | None:
    """One token id, the first of a list, or None."""
    found = token_ids(value, name)
    return found[0] if found else None


def token_ids(value: Mapping[str, Any], name: str) -> tuple[int, ...]:
    """Token ids, given as one, as a list or not at all."""
    found = value.get(name)
    ids = found if isinstance(found, list) else [] if found is None else [found]
    if not all(type(i) is int and i >= 0 for i in ids):
        raise InvalidRequest(
            f"config.json: {name} is {found!r}, an id or a list is needed.", param=name
        )
    return tuple(ids)
