"""Replies of OpenAI-compatible servers as the engine's own types; ValueError for wrong shapes."""

from __future__ import annotations

import re
from typing import Any

from everloop.engine.interface import Chunk, FinishReason, TokenLogprob, TopToken, Usage

Json = dict[str, Any]


def chat_chunk(event: Json) -> Chunk | None:
    """A chat completion chunk; None if it has no choice (the usage that closes a stream)."""
    choice = _choice(event)
    if choice is None:
        return None
    delta = choice.get("delta") or {}
    found = choice.get("logprobs") or {}
    tokens = tuple(_chat_token(t) for t in found.get("content") or ())
    return Chunk(text=_string(delta.get("content")), tokens=tokens, finish_reason=_finish(choice))


def completion_chunk(event: Json, alternatives: int) -> Chunk | None:
    """A text completion chunk; None if it has no choice."""
    choice = _choice(event)
    if choice is None:
        return None
    return Chunk(
        text=_string(choice.get("text")),
        tokens=completion_tokens(choice.get("logprobs"), alternatives),
        finish_reason=_finish(choice),
    )


def completion_tokens(found: object, alternatives: int) -> tuple[TokenLogprob, ...]:
    """The four parallel lists of a text completion's logprobs. A server adds the chosen token to
    the `alternatives` asked for where it isn't among them: left out here."""
    if not found:
        return ()
    if not isinstance(found, dict):
        raise ValueError("logprobs that are no object")
    texts, values = found.get("tokens") or [], found.get("token_logprobs") or []
    tops = found.get("top_logprobs") or [None] * len(texts)
    if not len(texts) == len(values) == len(tops):
        raise ValueError("logprobs of different lengths")
    return tuple(
        _completion_token(text, value, top, alternatives)
        for text, value, top in zip(texts, values, tops, strict=True)
    )


def usage(event: Json) -> Usage | None:
    """The usage object of a reply, if it has one."""
    found = event.get("usage")
    if not isinstance(found, dict):
        return None
    prompt, output = (
        found.get(f"{kind}_tokens_details") or {} for kind in ("prompt", "completion")
    )
    return Usage(
        prompt_tokens=_count(found.get("prompt_tokens")),
        completion_tokens=_count(found.get("completion_tokens")),
        cached_tokens=_count(prompt.get("cached_tokens")),
        accepted_prediction_tokens=_count(output.get("accepted_prediction_tokens")),
        rejected_prediction_tokens=_count(output.get("rejected_prediction_tokens")),
    )


def _choice(event: Json) -> Json | None:
    choices = event.get("choices")
    if not isinstance(choices, list):
        raise ValueError("an event without choices")
    if not choices:
        return None
    if not isinstance(choices[0], dict):
        raise ValueError("a choice that is no object")
    return choices[0]


def _finish(choice: Json) -> FinishReason | None:
    reason = choice.get("finish_reason")
    if reason is None:
        return None
    return "length" if reason == "length" else "stop"


def _chat_token(token: Json) -> TokenLogprob:
    text, data = _piece(token["token"], token.get("bytes"))
    top: list[TopToken] = [
        (*_piece(t["token"], t.get("bytes")), float(t["logprob"]))
        for t in token.get("top_logprobs") or ()
    ]
    return TokenLogprob(
        text=text, bytes=data, id=None, logprob=float(token["logprob"]), top=tuple(top)
    )


def _completion_token(
    text: str, value: float | None, top: dict[str, float] | None, alternatives: int
) -> TokenLogprob:
    shown, data = _piece(text, None)
    best = sorted((top or {}).items(), key=lambda item: -item[1])[:alternatives]
    return TokenLogprob(
        text=shown,
        bytes=data,
        id=int(text[9:]) if re.fullmatch(r"token_id:\d+", text) else None,
        logprob=None if value is None else float(value),
        top=tuple((*_piece(t, None), float(v)) for t, v in best),
    )


def _piece(text: str, data: list[int] | None) -> tuple[str, bytes]:
    """A token's text and bytes. OpenAI spells bytes that are no text `bytes:\\xe5\\xa4`."""
    if data is not None:
        found = bytes(data)
    elif re.fullmatch(r"bytes:(\\x[0-9a-f]{2})+", text):
        found = bytes.fromhex(text[6:].replace("\\x", ""))
    else:
        found = text.encode(errors="replace")
    return found.decode(errors="replace"), found


def _string(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError("text that is no string")
    return value


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0
