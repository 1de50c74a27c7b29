"""Hostile and mistaken requests: each gets a 4xx in OpenAI's shape that names what is wrong, the
server lives, and the next request works.
"""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from tests.server.ask import complete, error
from tests.server.process import KEY, Running

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HI = [{"role": "user", "content": "say:hi"}]

# (what, path, raw body, status, param or None, code or None, words in the message)
RAW: list[tuple[str, bytes, int, str]] = [
    ("no body", b"", 400, "not valid JSON"),
    ("broken JSON", b'{"model": "tiny", "prompt": ', 400, "not valid JSON"),
    ("trailing comma", b'{"model": "tiny",}', 400, "line 1, column"),
    ("not an object", b"[1, 2]", 400, "object"),
    ("a number", b"5", 400, "object"),
    ("NaN", b'{"model": "tiny", "prompt": "a", "temperature": NaN}', 400, "not valid JSON"),
    ("200k deep", b'{"prompt": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", 400, "not valid JSON"),
    ("1000 deep", b'{"prompt": ' + b"[" * 1000 + b"]" * 1000 + b"}", 400, ""),
    ("deep objects", b'{"a":' * 100_000 + b"1" + b"}" * 100_000, 400, "not valid JSON"),
    ("lone surrogate", b'{"model": "tiny", "prompt": "a\\ud800b"}', 400, "surrogate"),
    ("surrogates swapped", b'{"model": "tiny", "prompt": "\\ude00\\ud83d"}', 400, "surrogate"),
    ("invalid UTF-8", b'{"model": "tiny", "prompt": "\xff\xfe"}', 400, "not valid JSON"),
    ("UTF-16", '{"model": "tiny"}'.encode("utf-16"), 400, "not valid JSON"),
    ("NUL", b'{"model": "tiny", "prompt": "a\\u0000b"}', 400, "NUL"),
    ("raw NUL", b'{"model": "tiny", "prompt": "a\x00b"}', 400, "not valid JSON"),
    ("NUL in a key", b'{"model": "tiny", "prompt": "a", "x\\u0000": 1}', 400, "NUL"),
    ("form data", b"model=tiny&prompt=a", 400, "not valid JSON"),
]


@pytest.mark.parametrize(
    ("body", "status", "words"), [case[1:] for case in RAW], ids=[case[0] for case in RAW]
)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, "/v1/edits", "/v1/embeddings"])
def test_bodies_that_are_no_request(
    http: httpx2.Client, path: str, body: bytes, status: int, words: str
) -> None:
    response = http.post(path, content=body, headers={"content-type": "application/json"})
    assert response.status_code == status
    assert words in error(response)["message"]
    assert complete(http, "say:ok")["choices"][0]["text"] == "ok"


BOTH: list[tuple[dict[str, Any], str, str]] = [  # (change, param, code)
    ({"model": 5}, "model", "invalid_type"),
    ({"model": None}, "model", "invalid_type"),
    ({"model": ""}, "model", "empty_string"),
    ({"n": 0}, "n", "integer_below_min_value"),
    ({"n": 10**6}, "n", "integer_above_max_value"),
    ({"n": 10**30}, "n", "invalid_type"),
    ({"n": 1.5}, "n", "invalid_type"),
    ({"n": True}, "n", "invalid_type"),
    ({"n": "3"}, "n", "invalid_type"),
    ({"temperature": 2.1}, "temperature", "decimal_above_max_value"),
    ({"temperature": -0.1}, "temperature", "decimal_below_min_value"),
    ({"temperature": "hot"}, "temperature", "invalid_type"),
    ({"temperature": [1]}, "temperature", "invalid_type"),
    ({"top_p": 1.5}, "top_p", "decimal_above_max_value"),
    ({"presence_penalty": 3}, "presence_penalty", "integer_above_max_value"),
    ({"frequency_penalty": -3}, "frequency_penalty", "integer_below_min_value"),
    ({"max_tokens": -1}, "max_tokens", "integer_below_min_value"),
    ({"max_tokens": 10**9}, "CONTEXT", "context_length_exceeded"),
    ({"max_tokens": 10**18}, "CONTEXT", "context_length_exceeded"),
    ({"max_tokens": 10**30}, "max_tokens", "invalid_type"),
    ({"max_tokens": 2.5}, "max_tokens", "invalid_type"),
    ({"stop": ["x"] * 100_000}, "stop", "array_above_max_length"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "array_above_max_length"),
    ({"stop": ["a", 5]}, "stop[1]", "invalid_type"),
    ({"stop": {"a": 1}}, "stop", "invalid_type"),
    ({"stop": ""}, "stop", "empty_string"),
    ({"stop": ["a", ""]}, "stop[1]", "empty_string"),
    ({"stop": "x" * 2000}, "stop", "string_above_max_length"),
    ({"logit_bias": {"a": 1}}, "logit_bias", ""),
    ({"logit_bias": {"-5": 1}}, "logit_bias", ""),
    ({"logit_bias": {"5": 101}}, "logit_bias", ""),
    ({"logit_bias": {"5": "x"}}, "logit_bias.5", "invalid_type"),
    ({"logit_bias": {str(i): 1 for i in range(5000)}}, "logit_bias", ""),
    ({"logit_bias": [5]}, "logit_bias", "invalid_type"),
    ({"seed": 2**63}, "seed", "integer_above_max_value"),
    ({"seed": "a"}, "seed", "invalid_type"),
    ({"stream": "yes"}, "stream", "invalid_type"),
    ({"stream": 1}, "stream", "invalid_type"),
    ({"stream_options": {"x": 1}}, "stream_options.x", "unknown_parameter"),
    ({"stream_options": [1]}, "stream_options", "invalid_type"),
    ({"user": 5}, "user", "invalid_type"),
    ({"foo": 1}, "foo", "unknown_parameter"),
    ({"temprature": 1}, "temprature", "unknown_parameter"),
    ({"x" * 100_000: 1}, "x" * 60 + "…", "unknown_parameter"),
    ({"top_k": -1}, "top_k", "integer_below_min_value"),
    ({"min_p": 2}, "min_p", "integer_above_max_value"),
    ({"repetition_penalty": 0}, "repetition_penalty", "integer_below_min_value"),
]
CHAT_ONLY: list[tuple[dict[str, Any], str, str]] = [
    ({"messages": None}, "messages", "invalid_type"),
    ({"messages": []}, "messages", "empty_array"),
    ({"messages": "hi"}, "messages", "invalid_type"),
    ({"messages": {"role": "user"}}, "messages", "invalid_type"),
    ({"messages": ["hi"]}, "messages[0]", "invalid_type"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
    ({"messages": [{"content": "a"}]}, "messages[0].role", "missing_required_parameter"),
    ({"messages": [*HI, {"role": "x", "content": "a"}]}, "messages[1].role", "invalid_value"),
    ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role", "invalid_value"),
    ({"messages": [{"role": 5, "content": "a"}]}, "messages[0].role", "invalid_type"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_type"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "invalid_type"),
    ({"messages": [{"role": "user", "content": ""}]}, "messages", "invalid_value"),
    ({"messages": [{"role": "user", "content": " \n"}]}, "messages", "invalid_value"),
    ({"messages": [{"role": "user", "content": []}]}, "messages", "invalid_value"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content[0].type",
        "invalid_value",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "messages[0].content[0].text",
        "invalid_type",
    ),
    (
        {"messages": [{"role": "user", "content": "a", "foo": 1}]},
        "messages[0].foo",
        "unknown_parameter",
    ),
    (
        {"messages": [{"role": "assistant", "content": "a", "tool_calls": [{}]}]},
        "messages[0].tool_calls",
        "unsupported_parameter",
    ),
    ({"messages": HI * 3000}, "messages", "array_above_max_length"),
    ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", ""),
    ({"logprobs": 3}, "logprobs", "invalid_type"),
    ({"top_logprobs": 3}, "top_logprobs", ""),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "integer_above_max_value"),
    ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter"),
    ({"tool_choice": "required"}, "tool_choice", "unsupported_value"),
    ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
    ({"function_call": {"name": "f"}}, "function_call", "unsupported_value"),
    ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_value"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {}}},
        "response_format",
        "unsupported_value",
    ),
    ({"modalities": ["text", "audio"]}, "modalities", "unsupported_value"),
    ({"audio": {"voice": "x"}}, "audio", "unsupported_parameter"),
    ({"reasoning_effort": "high"}, "reasoning_effort", "unsupported_value"),
    ({"verbosity": "low"}, "verbosity", "unsupported_value"),
    ({"store": True}, "store", "unsupported_value"),
    ({"store": 0}, "store", "unsupported_value"),
    ({"service_tier": "flex"}, "service_tier", "unsupported_value"),
    ({"web_search_options": {}}, "web_search_options", "unsupported_parameter"),
    ({"metadata": "x"}, "metadata", "invalid_type"),
    ({"prediction": "x"}, "prediction", "invalid_type"),
    ({"prediction": {"type": "x"}}, "prediction", ""),
    ({"echo": True}, "echo", "unknown_parameter"),
]
COMPLETION_ONLY: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": ""}, "prompt", "empty_string"),
    ({"prompt": []}, "prompt", "empty_array"),
    ({"prompt": [""]}, "prompt[0]", "empty_string"),
    ({"prompt": [[]]}, "prompt[0]", "empty_array"),
    ({"prompt": None}, "prompt", "invalid_type"),
    ({"prompt": 5}, "prompt", "invalid_type"),
    ({"prompt": {"a": 1}}, "prompt", "invalid_type"),
    ({"prompt": ["a", 5]}, "prompt[1]", "invalid_type"),
    ({"prompt": [1, "a"]}, "prompt[1]", "invalid_type"),
    ({"prompt": [1, True]}, "prompt[1]", "invalid_type"),
    ({"prompt": [1.5]}, "prompt[0]", "invalid_type"),
    ({"prompt": [True]}, "prompt[0]", "invalid_type"),
    ({"prompt": [-1]}, "prompt[0]", "invalid_value"),
    ({"prompt": [2**40]}, "prompt[0]", "invalid_value"),
    ({"prompt": [[1], [[2]]]}, "prompt[1][0]", "invalid_type"),
    ({"prompt": ["a"] * 200}, "prompt", "array_above_max_length"),
    ({"prompt": ["a"] * 100, "n": 8}, "prompt", ""),  # more than the queue will ever hold
    ({"logprobs": 6}, "logprobs", "integer_above_max_value"),
    ({"logprobs": True}, "logprobs", "invalid_type"),
    ({"logprobs": -1}, "logprobs", "integer_below_min_value"),
    ({"best_of": 0}, "best_of", "integer_below_min_value"),
    ({"best_of": 100, "stream": False}, "best_of", "integer_above_max_value"),
    ({"best_of": 1, "n": 2}, "best_of", ""),
    ({"best_of": 2, "stream": True}, "best_of", ""),
    ({"echo": 1}, "echo", "invalid_type"),
    ({"echo": True, "suffix": "x"}, "suffix", ""),
    ({"suffix": 5}, "suffix", "invalid_type"),
    ({"messages": HI}, "messages", "unknown_parameter"),
    ({"tools": []}, "tools", "unknown_parameter"),
]


def cases() -> list[Any]:
    rows = [(CHAT, *case) for case in BOTH + CHAT_ONLY]
    rows += [(COMPLETIONS, *case) for case in BOTH + COMPLETION_ONLY]
    return [pytest.param(*row, id=f"{row[0][4:8]}-{str(row[1])[:50]}") for row in rows]


@pytest.mark.parametrize(("path", "change", "param", "code"), cases())
def test_parameters_refused_by_name(
    http: httpx2.Client, path: str, change: dict[str, Any], param: str, code: str
) -> None:
    if path == CHAT:
        good: dict[str, Any] = {"model": "tiny", "messages": HI}
    else:
        good = {"model": "tiny", "prompt": "say:hi"}
    if param == "CONTEXT":
        param = "messages" if path == CHAT else "prompt"
    for streams in (False, True):
        # Before the first byte: a stream is refused with the same 400.
        response = http.post(path, json={**good, "stream": streams, **change})
        assert response.status_code == 400, response.text[:300]
        found = error(response)
        assert found["param"] == param
        assert (found["code"] or "") == code
        assert found["type"] == "invalid_request_error"
        assert len(found["message"]) < 500
    assert http.post(path, json=good).status_code == 200


@pytest.mark.parametrize(("path", "name"), [(CHAT, "messages"), (COMPLETIONS, "prompt")])
def test_missing_parameters(http: httpx2.Client, path: str, name: str) -> None:
    assert error(http.post(path, json={}))["param"] in ("model", name)
    response = http.post(path, json={"model": "tiny"})
    assert error(response) == {
        "message": f"Missing required parameter: '{name}'.",
        "type": "invalid_request_error",
        "param": name,
        "code": "missing_required_parameter",
    }


def test_too_large_a_body(http: httpx2.Client) -> None:
    for megabytes in (11, 50):
        body = {"model": "tiny", "prompt": "x" * (megabytes * 2**20)}
        response = http.post(COMPLETIONS, json=body)
        assert response.status_code == 413
        assert "max_body_bytes" in error(response)["message"]
    assert complete(http, "say:ok")["choices"][0]["text"] == "ok"


def test_too_large_a_body_in_chunks_of_unknown_length(http: httpx2.Client) -> None:
    pieces = (b"x" * 2**20 for _ in range(20))
    response = http.post(COMPLETIONS, content=pieces)
    assert response.status_code == 413
    assert complete(http, "say:ok")["choices"][0]["text"] == "ok"


def test_absurd_content_length_is_refused_at_once(server: Running) -> None:
    with server.connect() as raw:
        head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        raw.sendall(f"{head}Content-Length: 99999999999\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_large_and_valid_body_reaches_the_engine(http: httpx2.Client) -> None:
    response = http.post(COMPLETIONS, json={"model": "tiny", "prompt": "x" * (9 * 2**20)})
    assert response.status_code == 400
    assert error(response)["code"] == "context_length_exceeded"


def test_compressed_body_is_refused(http: httpx2.Client) -> None:
    headers = {"content-encoding": "gzip"}
    response = http.post(COMPLETIONS, content=b"\x1f\x8b", headers=headers)
    assert response.status_code == 415
    assert error(response)["param"] == "content-encoding"


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET /health HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 200_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"X-A: b\r\n" * 20_000 + b"\r\n",
        b"NONSENSE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100 + b"\r\n\r\n",  # TLS
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    ],
    ids=["header", "path", "headers", "nonsense", "tls", "length", "lengths"],
)
def test_bad_heads(server: Running, http: httpx2.Client, request_head: bytes) -> None:
    with server.connect() as raw:
        raw.sendall(request_head)
        raw.settimeout(10)
        answer = b""
        try:
            while part := raw.recv(65536):
                answer += part
                if b"}}" in answer:
                    break
        except ConnectionResetError:  # it closed while we were still sending: fine too
            pass
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 ")), answer[:200]
    _, _, body = answer.partition(b"\r\n\r\n")
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
    assert complete(http, "say:ok")["choices"][0]["text"] == "ok"
