"""/v1/chat/completions as OpenAI's clients read it."""

from __future__ import annotations

import time
from typing import Any

import httpx2
import pytest

from tests.server.ask import chat, error, stream

PATH = "/v1/chat/completions"


def say(text: str, **options: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"say:{text}"}], **options}


def test_answer_has_openai_shape(http: httpx2.Client) -> None:
    before = int(time.time())
    body = chat(http, "say:你好")
    assert body["id"].startswith("chatcmpl-")
    assert body["object"] == "chat.completion"
    assert before <= body["created"] <= time.time()
    assert body["model"] == "tiny"  # the model that answered, not the alias
    assert body["system_fingerprint"].startswith("fp_")
    assert body["choices"] == [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "你好",
                "refusal": None,
                "annotations": [],
            },
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert body["usage"] == {
        "prompt_tokens": 6,
        "completion_tokens": 2,
        "total_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def test_n_answers_count_the_prompt_once(http: httpx2.Client) -> None:
    body = chat(http, "say:ab", n=3)
    assert [c["index"] for c in body["choices"]] == [0, 1, 2]
    assert body["usage"]["prompt_tokens"] == 6
    assert body["usage"]["completion_tokens"] == 6


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_limit_ends_with_length(http: httpx2.Client, name: str) -> None:
    choice = chat(http, "say:abcdef", **{name: 3})["choices"][0]
    assert choice["message"]["content"] == "abc"
    assert choice["finish_reason"] == "length"


def test_stream_begins_with_the_role_and_ends_with_done(http: httpx2.Client) -> None:
    chunks = stream(http, PATH, say("你好"))
    assert {c["object"] for c in chunks} == {"chat.completion.chunk"}
    assert len({(c["id"], c["created"], c["model"]) for c in chunks}) == 1
    assert all("usage" not in c for c in chunks)
    choices = [c["choices"][0] for c in chunks]
    assert choices[0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert [c["delta"] for c in choices[1:]] == [{"content": "你"}, {"content": "好"}, {}]
    assert [c["finish_reason"] for c in choices] == [None, None, None, "stop"]
    assert all(c["logprobs"] is None for c in choices)


def test_stream_of_n_answers_gives_each_its_role_and_end(http: httpx2.Client) -> None:
    chunks = stream(http, PATH, say("ab", n=2))
    for index in (0, 1):
        own = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        assert own[0]["delta"]["role"] == "assistant"
        assert "".join(c["delta"].get("content", "") for c in own) == "ab"
        assert own[-1]["finish_reason"] == "stop"


def test_include_usage_adds_one_chunk_without_choices(http: httpx2.Client) -> None:
    options = {"include_usage": True, "include_obfuscation": False}
    chunks = stream(http, PATH, say("abc", stream_options=options))
    *others, last = chunks
    assert all(c["usage"] is None and len(c["choices"]) == 1 for c in others)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 3
    assert last["usage"]["total_tokens"] == 10


def test_logprobs_are_objects_with_bytes(http: httpx2.Client) -> None:
    content = chat(http, "say:a你", logprobs=True, top_logprobs=2)["choices"][0]["logprobs"]
    assert content["refusal"] is None
    first, second = content["content"][:2]
    assert first["token"] == "a"
    assert first["bytes"] == [97]
    assert first["logprob"] == -1.0
    assert first["top_logprobs"] == [
        {"token": " yes", "logprob": -0.5, "bytes": [32, 121, 101, 115]},
        {"token": "\\xe4", "logprob": -9999.0, "bytes": [228]},  # −∞ is no JSON
    ]
    assert second["token"] == "\\xe4"
    raw = b"".join(bytes(t["bytes"]) for t in content["content"])
    assert raw.decode() == "a你"


def test_logprobs_without_alternatives(http: httpx2.Client) -> None:
    content = chat(http, "say:a", logprobs=True)["choices"][0]["logprobs"]["content"]
    assert content[0]["top_logprobs"] == []
    assert chat(http, "say:a", logprobs=False)["choices"][0]["logprobs"] is None


def test_stream_carries_logprobs_with_their_text(http: httpx2.Client) -> None:
    chunks = stream(http, PATH, say("ab", logprobs=True, top_logprobs=1))
    spoken = [c["choices"][0] for c in chunks if c["choices"][0]["delta"].get("content")]
    assert [c["logprobs"]["content"][0]["token"] for c in spoken] == ["a", "b"]


def test_text_parts_developers_and_earlier_answers(http: httpx2.Client) -> None:
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}], "name": "Ann"},
        {
            "role": "assistant",
            "content": "hello",
            "refusal": None,
            "annotations": [],
            "tool_calls": None,
            "function_call": None,
            "audio": None,
        },
        {
            "role": "user",
            "content": [{"type": "text", "text": "first"}, {"type": "text", "text": "say:ok"}],
        },
    ]
    response = http.post(PATH, json={"model": "tiny", "messages": messages})
    assert response.json()["choices"][0]["message"]["content"] == "ok"


def test_parameters_without_effect_are_accepted(http: httpx2.Client) -> None:
    options = {
        "user": "u1",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "safety_identifier": "s",
        "prompt_cache_key": "p",
        "response_format": {"type": "text"},
        "modalities": ["text"],
        "tools": [],
        "tool_choice": "none",
        "parallel_tool_calls": True,
        "functions": None,
        "audio": None,
        "reasoning_effort": None,
        "stop": None,
        "seed": None,
        "temperature": None,
        "max_tokens": None,
        "prediction": {"type": "content", "content": "ok"},
        "stream_options": {"include_usage": True},
    }
    assert chat(http, "say:ok", **options)["choices"][0]["message"]["content"] == "ok"


def test_engine_gone_before_the_stream_is_a_503(http: httpx2.Client) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "refuse:down"}]}
    for streams in (False, True):
        response = http.post(PATH, json={**body, "stream": streams})
        assert response.status_code == 503
        assert error(response)["code"] == "engine_unavailable"
        assert response.headers["retry-after"] == "3"  # whole seconds, not less than 2.5
        assert response.headers["retry-after-ms"] == "2500"
        assert response.headers["x-should-retry"] == "true"


def test_engine_dying_in_mid_stream_is_an_event(http: httpx2.Client) -> None:
    messages = [{"role": "user", "content": "die:2"}]
    response = http.post(PATH, json={"model": "tiny", "messages": messages, "stream": True})
    assert response.status_code == 200
    last = response.text.strip().split("\n\n")[-1]
    assert last.startswith('data: {"error":{"message":"The engine died."')
    assert "[DONE]" not in response.text


def test_engine_dying_in_mid_wait_is_a_503(http: httpx2.Client) -> None:
    messages = [{"role": "user", "content": "die:2"}]
    response = http.post(PATH, json={"model": "tiny", "messages": messages})
    assert response.status_code == 503
    assert response.headers["retry-after"] == "3"


def test_full_queue_is_a_429(http: httpx2.Client) -> None:
    messages = [{"role": "user", "content": "refuse:full"}]
    response = http.post(PATH, json={"model": "tiny", "messages": messages})
    assert response.status_code == 429
    assert error(response) == {
        "message": "The queue is full.",
        "type": "requests",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    assert response.headers["retry-after"] == "1"


def test_too_long_a_conversation_names_messages(http: httpx2.Client) -> None:
    messages = [{"role": "user", "content": "x" * 300}]
    for streams in (False, True):
        response = http.post(PATH, json={"model": "tiny", "messages": messages, "stream": streams})
        assert response.status_code == 400
        found = error(response)
        assert found["code"] == "context_length_exceeded"
        assert found["param"] == "messages"
