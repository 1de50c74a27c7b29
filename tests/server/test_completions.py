"""/v1/completions, its logprobs above all, and /v1/edits and /v1/embeddings."""

from __future__ import annotations

import base64
import struct

import httpx2
import pytest

from tests.server.ask import complete, error, stream

PATH = "/v1/completions"


def texts(body: dict) -> list[str]:  # type: ignore[type-arg]
    return [choice["text"] for choice in body["choices"]]


def test_answer_has_openai_shape(http: httpx2.Client) -> None:
    body = complete(http, "say:hello")
    assert body["id"].startswith("cmpl-")
    assert body["object"] == "text_completion"
    assert body["choices"] == [
        {"text": "hello", "index": 0, "logprobs": None, "finish_reason": "stop"}
    ]
    assert body["usage"]["total_tokens"] == 14


def test_sixteen_tokens_unless_told(http: httpx2.Client) -> None:
    choice = complete(http, "say:" + "x" * 40)["choices"][0]
    assert choice["text"] == "x" * 16
    assert choice["finish_reason"] == "length"


def test_every_form_of_prompt(http: httpx2.Client) -> None:
    ids = [ord(c) for c in "say:x"]
    assert texts(complete(http, "say:x")) == ["x"]
    assert texts(complete(http, ["say:x", "say:y"])) == ["x", "y"]
    assert texts(complete(http, ids)) == ["x"]
    assert texts(complete(http, [ids, ids])) == ["x", "x"]


def test_n_answers_follow_their_prompt(http: httpx2.Client) -> None:
    body = complete(http, ["say:a", "say:b"], n=2)
    assert [(c["index"], c["text"]) for c in body["choices"]] == [
        (0, "a"),
        (1, "a"),
        (2, "b"),
        (3, "b"),
    ]
    assert body["usage"]["prompt_tokens"] == 10
    assert body["usage"]["completion_tokens"] == 4


def test_best_of_counts_every_candidate(http: httpx2.Client) -> None:
    body = complete(http, "say:ab", n=1, best_of=3)
    assert texts(body) == ["ab"]
    assert body["choices"][0]["logprobs"] is None
    assert body["usage"]["completion_tokens"] == 6


def test_logprobs_with_offsets_from_the_prompt_on(http: httpx2.Client) -> None:
    logprobs = complete(http, "say:a你b", logprobs=1)["choices"][0]["logprobs"]
    assert logprobs == {
        "tokens": ["a", "bytes:\\xe4", "bytes:\\xbd", "bytes:\\xa0", "b"],
        "token_logprobs": [-1.0] * 5,
        "top_logprobs": [
            {" yes": -0.5, name: -1.0}
            for name in ("a", "bytes:\\xe4", "bytes:\\xbd", "bytes:\\xa0", "b")
        ],
        "text_offset": [7, 8, 8, 8, 9],  # the prompt has 7 characters; 你 is one
    }


def test_offsets_after_token_ids_count_their_text(http: httpx2.Client) -> None:
    ids = [ord(c) for c in "say:ab"]
    logprobs = complete(http, ids, logprobs=0)["choices"][0]["logprobs"]
    assert logprobs["text_offset"] == [6, 7]
    assert logprobs["top_logprobs"] is None
    assert logprobs["token_logprobs"] == [-1.0, -1.0]


def test_echo_begins_with_the_prompt_and_null(http: httpx2.Client) -> None:
    choice = complete(http, "say:a", echo=True, logprobs=1)["choices"][0]
    assert choice["text"] == "say:aa"
    logprobs = choice["logprobs"]
    assert logprobs["tokens"] == ["s", "a", "y", ":", "a", "a"]
    assert logprobs["token_logprobs"] == [None, -1, -1, -1, -1, -1]
    assert logprobs["top_logprobs"][0] is None
    assert logprobs["text_offset"] == [0, 1, 2, 3, 4, 5]


def test_echo_with_no_tokens_scores_the_prompt(http: httpx2.Client) -> None:
    body = complete(http, "say:a", echo=True, logprobs=1, max_tokens=0)
    assert texts(body) == ["say:a"]
    assert len(body["choices"][0]["logprobs"]["tokens"]) == 5
    assert body["usage"]["completion_tokens"] == 0


def test_stream_pieces_add_up_to_the_answer(http: httpx2.Client) -> None:
    body = {"prompt": ["say:a你", "say:bc"], "n": 2, "logprobs": 1, "echo": True}
    whole = complete(http, body["prompt"], n=2, logprobs=1, echo=True)
    options = {"stream_options": {"include_usage": True}}
    *chunks, last = stream(http, PATH, {**body, **options})
    assert last["choices"] == []
    assert last["usage"] == whole["usage"]
    assert all(c["usage"] is None for c in chunks)
    assert {c["object"] for c in chunks} == {"text_completion"}
    for choice in whole["choices"]:
        own = [p for c in chunks for p in c["choices"] if p["index"] == choice["index"]]
        assert "".join(p["text"] for p in own) == choice["text"]
        assert [p["finish_reason"] for p in own][-1] == choice["finish_reason"]
        assert all(p["finish_reason"] is None for p in own[:-1])
        pieces = [p["logprobs"] for p in own if p["logprobs"]]
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            assert [x for p in pieces for x in p[name]] == choice["logprobs"][name]


def test_too_long_a_prompt_names_prompt(http: httpx2.Client) -> None:
    response = http.post(PATH, json={"model": "tiny", "prompt": "x" * 190, "max_tokens": 20})
    assert response.status_code == 400
    assert error(response)["code"] == "context_length_exceeded"
    assert error(response)["param"] == "prompt"


def test_edits_have_the_old_shape(http: httpx2.Client) -> None:
    body = {"model": "text-davinci-edit-001", "instruction": "Fix it", "input": "say:helo", "n": 2}
    reply = http.post("/v1/edits", json=body).json()
    assert reply["object"] == "edit"
    assert set(reply) == {"object", "created", "choices", "usage"}
    assert reply["choices"] == [{"text": "helo", "index": 0}, {"text": "helo", "index": 1}]
    assert error(http.post("/v1/edits", json={"model": "tiny"}))["param"] == "instruction"


def test_embeddings_as_numbers_and_as_base64(http: httpx2.Client) -> None:
    body = {"model": "text-embedding-3-small", "input": ["ab", "cde"]}
    reply = http.post("/v1/embeddings", json=body).json()
    assert reply["object"] == "list"
    assert reply["usage"] == {"prompt_tokens": 5, "total_tokens": 5}
    assert [d["index"] for d in reply["data"]] == [0, 1]
    assert reply["data"][1] == {"object": "embedding", "index": 1, "embedding": [0.6, -0.8]}
    packed = http.post("/v1/embeddings", json={**body, "encoding_format": "base64"}).json()
    raw = base64.b64decode(packed["data"][0]["embedding"])
    assert struct.unpack("<2f", raw) == pytest.approx((0.6, -0.8))


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("input", "", "input"),
        ("input", [], "input"),
        ("input", ["a", ""], "input[1]"),
        ("input", [1, 2], "input[0]"),
        ("input", [[1, 2]], "input[0]"),
        ("input", ["a"] * 2049, "input"),
        ("dimensions", 1, "dimensions"),
        ("encoding_format", "int8", "encoding_format"),
    ],
)
def test_embeddings_refuse_by_name(
    http: httpx2.Client, field: str, value: object, param: str
) -> None:
    response = http.post("/v1/embeddings", json={"model": "tiny", "input": "a", field: value})
    assert response.status_code == 400
    assert error(response)["param"] == param
