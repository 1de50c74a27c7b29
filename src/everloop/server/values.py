"""Checks of the parameters whose shape pydantic can't say: each returns the value in our own form
or raises InvalidRequest naming the exact place.
"""

from __future__ import annotations

from typing import Any

from everloop.engine.interface import Message, Prompt
from everloop.errors import InvalidRequest
from everloop.server.explain import clipped, empty, missing, too_many, unknown, wrong_type

MAX_STOP_CHARS = 1024
MAX_BIASES = 1024
MAX_INPUTS = 2048  # OpenAI's limit for embeddings
MAX_TOKEN_ID = 2**31 - 1
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

# What an assistant message of an earlier reply carries along; empty, it asks for nothing.
_ASSISTANT_EXTRAS = ("refusal", "audio", "annotations", "function_call", "tool_calls")


def stop(value: Any) -> tuple[str, ...]:
    """A string or a list of them; none may be empty."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list):
        raise wrong_type("stop", "a string or an array of strings", value)
    for i, item in enumerate(items):
        path = "stop" if isinstance(value, str) else f"stop[{i}]"
        if not isinstance(item, str):
            raise wrong_type(path, "a string", item)
        if not item:
            raise empty(path, "string")
        if len(item) > MAX_STOP_CHARS:
            raise InvalidRequest(
                f"Invalid '{path}': string too long. Expected a string with maximum length "
                f"{MAX_STOP_CHARS}, but got a string with length {len(item)} instead.",
                param=path,
                code="string_above_max_length",
            )
    return tuple(items)


def logit_bias(value: Any) -> dict[int, float]:
    """{"token id": bias in −100 … 100}."""
    if not isinstance(value, dict):
        raise wrong_type("logit_bias", "an object", value)
    if len(value) > MAX_BIASES:
        raise InvalidRequest(
            f"Invalid 'logit_bias': at most {MAX_BIASES} tokens, but got {len(value)}.",
            param="logit_bias",
        )
    biases = {}
    for key, bias in value.items():
        path = f"logit_bias.{clipped(key, 20)}"
        if not (key.isascii() and key.isdigit() and len(key) <= 10):
            raise InvalidRequest(
                f"Invalid key in '{path}': keys are token ids of this model.", param="logit_bias"
            )
        if isinstance(bias, bool) or not isinstance(bias, int | float):
            raise wrong_type(path, "a decimal", bias)
        if not -100 <= bias <= 100:
            raise InvalidRequest(
                f"Invalid '{path}': expected a value from -100 to 100, but got {bias} instead.",
                param="logit_bias",
            )
        biases[int(key)] = float(bias)
    return biases


def prompts(value: Any) -> tuple[Prompt, ...]:
    """A string, a list of strings, token ids, or a list of lists of token ids."""
    if isinstance(value, str):
        return (_prompt(value, "prompt"),)
    if not isinstance(value, list):
        raise wrong_type("prompt", "a string, or an array of strings or of token ids", value)
    if not value:
        raise empty("prompt", "array")
    if isinstance(value[0], int):
        return (_prompt(value, "prompt"),)
    return tuple(_prompt(item, f"prompt[{i}]") for i, item in enumerate(value))


def _prompt(value: Any, path: str) -> Prompt:
    if isinstance(value, str):
        if not value:
            raise empty(path, "string")
        return value
    if not isinstance(value, list):
        raise wrong_type(path, "a string or an array of token ids", value)
    if not value:
        raise empty(path, "array")
    for i, token in enumerate(value):
        if type(token) is not int:
            raise wrong_type(f"{path}[{i}]", "an integer", token)
        if not 0 <= token <= MAX_TOKEN_ID:
            raise InvalidRequest(
                f"Invalid '{path}[{i}]': {token} is no token id.",
                param=f"{path}[{i}]",
                code="invalid_value",
            )
    return tuple(value)


def texts(value: Any) -> tuple[str, ...]:
    """`input` of embeddings: a string or a list of them."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list):
        raise wrong_type("input", "a string or an array of strings", value)
    if not items:
        raise empty("input", "array")
    if len(items) > MAX_INPUTS:
        raise too_many("input", MAX_INPUTS, len(items))
    for i, item in enumerate(items):
        path = "input" if isinstance(value, str) else f"input[{i}]"
        if isinstance(item, int | list) and not isinstance(item, bool):
            raise InvalidRequest(
                f"Invalid '{path}': token ids are not supported here, because another model's "
                "mean nothing to this one. Send the text (in LangChain: "
                "check_embedding_ctx_length=False).",
                param=path,
                code="unsupported_value",
            )
        if not isinstance(item, str):
            raise wrong_type(path, "a string", item)
        if not item:
            raise empty(path, "string")
    return tuple(items)


def messages(value: Any) -> tuple[Message, ...]:
    """The conversation with `developer` as `system` and text parts joined by line breaks."""
    if not isinstance(value, list):
        raise wrong_type("messages", "an array of objects", value)
    if not value:
        raise empty("messages", "array")
    turns = tuple(_message(item, f"messages[{i}]") for i, item in enumerate(value))
    if not any(turn["content"].strip() for turn in turns):
        raise InvalidRequest(
            "Invalid 'messages': every message is empty. Say something.",
            param="messages",
            code="invalid_value",
        )
    return turns


def _message(value: Any, path: str) -> Message:
    if not isinstance(value, dict):
        raise wrong_type(path, "an object", value)
    for name in ("role", "content"):
        if name not in value:
            raise missing(f"{path}.{name}")
    role = value["role"]
    if not isinstance(role, str):
        raise wrong_type(f"{path}.role", "a string", role)
    if role not in ROLES:
        tools = " This model calls no tools." if role in ("tool", "function") else ""
        raise InvalidRequest(
            f"Invalid value: '{clipped(role)}'. Supported values are: "
            f"{', '.join(repr(r) for r in ROLES)}.{tools}",
            param=f"{path}.role",
            code="invalid_value",
        )
    for name, extra in value.items():
        if name == "name":  # no effect: templates know no names
            if extra is not None and not isinstance(extra, str):
                raise wrong_type(f"{path}.name", "a string", extra)
        elif name not in ("role", "content"):
            if name not in _ASSISTANT_EXTRAS:
                raise unknown(f"{path}.{name}")
            if extra not in (None, []):
                raise InvalidRequest(
                    f"Unsupported parameter: '{path}.{name}'. This model knows text only.",
                    param=f"{path}.{name}",
                    code="unsupported_parameter",
                )
    return Message(role=ROLES[role], content=_content(value["content"], f"{path}.content"))


def _content(value: Any, path: str) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise wrong_type(path, "a string or an array of text parts", value)
    parts = []
    for i, part in enumerate(value):
        where = f"{path}[{i}]"
        if not isinstance(part, dict):
            raise wrong_type(where, "an object", part)
        kind = part.get("type")
        if kind != "text":
            got = clipped(kind) if isinstance(kind, str) else "none"
            raise InvalidRequest(
                f"Invalid value: '{got}'. The only supported value is 'text'.",
                param=f"{where}.type",
                code="invalid_value",
            )
        for name in part:
            if name not in ("type", "text"):
                raise unknown(f"{where}.{name}")
        if not isinstance(part.get("text"), str):
            raise wrong_type(f"{where}.text", "a string", part.get("text"))
        parts.append(part["text"])
    return "\n".join(parts)


def prediction(value: Any) -> str:
    """{"type": "content", "content": text or text parts}."""
    if not isinstance(value, dict):
        raise wrong_type("prediction", "an object", value)
    if value.get("type") != "content" or "content" not in value:
        raise InvalidRequest(
            'Invalid \'prediction\': expected {"type": "content", "content": …}.',
            param="prediction",
        )
    for name in value:
        if name not in ("type", "content"):
            raise unknown(f"prediction.{name}")
    return _content(value["content"], "prediction.content")
