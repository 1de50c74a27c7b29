"""The shapes of OpenAI's answers: JSON, ids, usage and log-probabilities."""

from __future__ import annotations

import codecs
import secrets
from collections.abc import Iterable
from typing import Any

import orjson
from starlette.responses import Response

from everloop.engine.interface import TokenLogprob, Usage

LEAST = -9999.0
"""Log-probability of what can't happen: JSON has no −∞."""


class JSON(Response):
    """A JSON answer."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content)


def new_id(prefix: str) -> str:
    return f"{prefix}-{secrets.token_hex(16)}"


def usage(used: Usage) -> dict[str, Any]:
    """`usage` of chat and completions."""
    told: dict[str, Any] = {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.prompt_tokens + used.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": used.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": used.accepted_prediction_tokens,
            "rejected_prediction_tokens": used.rejected_prediction_tokens,
        },
    }
    exits = used.early_exit
    if exits is not None:
        tokens = used.completion_tokens
        saved = exits.exited * (exits.layers - exits.layer) / max(tokens, 1)
        told["everloop"] = {
            "early_exit": {
                "agreement": round(exits.agreement, 4),
                "tokens": tokens,
                "exited": exits.exited,
                "layers": exits.layers,
                "mean_layers": round(exits.layers - saved, 2),
            }
        }
    return told


def headers(early_exit: float | None) -> dict[str, str] | None:
    """What tells that an answer is not what the whole model would say, also in a stream without
    usage."""
    return None if early_exit is None else {"x-everloop-approximate": "early_exit"}


def chat_logprobs(tokens: Iterable[TokenLogprob], top: int) -> dict[str, Any]:
    """`logprobs` of a chat choice: `top` alternatives per token."""
    return {
        "content": [
            {
                **_chat_token(token.text, token.bytes, token.logprob),
                "top_logprobs": [_chat_token(*other) for other in token.top[:top]],
            }
            for token in tokens
        ],
        "refusal": None,
    }


def _chat_token(text: str, raw: bytes, logprob: float | None) -> dict[str, Any]:
    return {
        "token": text if _whole(raw) else escaped(raw),
        "logprob": _finite(logprob),
        "bytes": list(raw),
    }


class CompletionLogprobs:
    """`logprobs` of a completion choice, piece by piece: offsets run on from piece to piece.

    `text_offset` counts characters from the start of the prompt, whether it is echoed or not.
    """

    def __init__(self, *, top: int, offset: int) -> None:
        self._top = top
        self._offset = offset
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def piece(self, tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
        """The object for these tokens."""
        names, values, tops, offsets = [], [], [], []
        for token in tokens:
            name = _legacy(token.text, token.bytes)
            names.append(name)
            values.append(None if token.logprob is None else _finite(token.logprob))
            tops.append(self._alternatives(name, token))
            offsets.append(self._offset)
            self._offset += len(self._decode(token.bytes))
        return {
            "tokens": names,
            "token_logprobs": values,
            "top_logprobs": tops if self._top else None,
            "text_offset": offsets,
        }

    def _alternatives(self, name: str, token: TokenLogprob) -> dict[str, float] | None:
        if token.logprob is None:
            return None
        best = {_legacy(text, raw): _finite(value) for text, raw, value in token.top[: self._top]}
        best.setdefault(name, _finite(token.logprob))  # the chosen one is always there
        return best


def _legacy(text: str, raw: bytes) -> str:
    return text if _whole(raw) else "bytes:" + escaped(raw)


def _whole(raw: bytes) -> bool:
    """Whether the bytes are whole characters."""
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def escaped(raw: bytes) -> str:
    """`\\xe4\\xbb`: bytes that are a part of a character."""
    return "".join(f"\\x{byte:02x}" for byte in raw)


def _finite(value: float | None) -> float:
    return LEAST if value is None else max(value, LEAST)
