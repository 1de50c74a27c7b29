"""pydantic's findings in OpenAI's words: the parameter, what was expected, what came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from everloop.errors import InvalidRequest

_EXPECTED = {
    "string_type": "a string",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a decimal",
    "bool_type": "a boolean",
    "list_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}

_BOUNDS = {
    "greater_than_equal": ("below minimum", "below_min", ">=", "ge"),
    "greater_than": ("below minimum", "below_min", ">", "gt"),
    "less_than_equal": ("above maximum", "above_max", "<=", "le"),
    "less_than": ("above maximum", "above_max", "<", "lt"),
}


def name_of(value: object) -> str:
    """What a JSON value is, with its article."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int():
            return "an integer"
        case float():
            return "a decimal"
        case str():
            return "a string"
        case list() | tuple():
            return "an array"
        case _:
            return "an object"


def path_of(location: Sequence[int | str]) -> str:
    """`messages[0].content`."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def wrong_type(path: str, expected: str, value: object) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid type for '{path}': expected {expected}, but got {name_of(value)} instead.",
        param=path,
        code="invalid_type",
    )


def missing(path: str) -> InvalidRequest:
    return InvalidRequest(
        f"Missing required parameter: '{path}'.", param=path, code="missing_required_parameter"
    )


def unknown(path: str, hint: str = "") -> InvalidRequest:
    message = f"Unknown parameter: '{clipped(path)}'.{hint}"
    return InvalidRequest(message, param=clipped(path), code="unknown_parameter")


def out_of_bounds(path: str, value: float, finding: str, bound: object) -> InvalidRequest:
    words, code, sign, _ = _BOUNDS[finding]
    kind = "integer" if isinstance(value, int) else "decimal"
    return InvalidRequest(
        f"Invalid '{path}': {kind} {words} value. Expected a value {sign} {bound}, "
        f"but got {value} instead.",
        param=path,
        code=f"{kind}_{code}_value",
    )


def too_many(path: str, most: int, got: int, setting: str = "") -> InvalidRequest:
    why = f" ({setting})" if setting else ""
    return InvalidRequest(
        f"Invalid '{path}': array too long. Expected an array with maximum length {most}{why}, "
        f"but got an array with length {got} instead.",
        param=path,
        code="array_above_max_length",
    )


def empty(path: str, what: str) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid '{path}': empty {what}. Expected something, but got nothing instead.",
        param=path,
        code=f"empty_{what}",
    )


def clipped(text: str, most: int = 60) -> str:
    return text if len(text) <= most else text[:most] + "…"


def explained(error: ValidationError) -> InvalidRequest:
    """The first finding as an error of ours."""
    finding: Any = error.errors(include_url=False)[0]
    kind, value = finding["type"], finding["input"]
    path = clipped(path_of(finding["loc"]), 120)
    if kind == "missing":
        return missing(path)
    if kind == "extra_forbidden":
        return unknown(path)
    if kind in _EXPECTED:
        return wrong_type(path, _EXPECTED[kind], value)
    if kind in _BOUNDS:
        return out_of_bounds(path, value, kind, f"{finding['ctx'][_BOUNDS[kind][3]]:g}")
    if kind == "string_too_short":
        return empty(path, "string")
    if kind == "literal_error":
        got = clipped(value) if isinstance(value, str) else name_of(value)
        return InvalidRequest(
            f"Invalid value: '{got}'. Supported values are: {finding['ctx']['expected']}.",
            param=path,
            code="invalid_value",
        )
    return InvalidRequest(
        f"Invalid value for '{path}': {finding['msg']}.", param=path, code="invalid_value"
    )
