"""Models and aliases, in the words of today's clients and of those from 2021."""

from __future__ import annotations

from typing import get_args

import httpx2
import pytest

from tests.server.ask import error
from tests.server.process import KEY, Running


def test_models_and_aliases_are_listed(http: httpx2.Client) -> None:
    body = http.get("/v1/models").json()
    assert body["object"] == "list"
    rows = {row["id"]: row for row in body["data"]}
    assert len(rows) == len(body["data"])
    assert {"tiny", "org/other", "gpt-4", "davinci", "default"} <= set(rows)
    assert not any("*" in name for name in rows)
    assert rows["gpt-4"]["root"] == "tiny"
    for row in rows.values():
        assert row["object"] == "model"
        assert row["owned_by"] == "everloop"
        assert row["created"] > 0


@pytest.mark.parametrize("path", ["gpt-4", "org/other", "org%2Fother", "gpt-5.4-mini", "tiny"])
def test_one_model(http: httpx2.Client, path: str) -> None:
    body = http.get(f"/v1/models/{path}").json()
    assert body["id"] == path.replace("%2F", "/")
    assert body["object"] == "model"


def test_unknown_model_is_a_404_everywhere(http: httpx2.Client) -> None:
    message = [{"role": "user", "content": "say:a"}]
    for response in (
        http.get("/v1/models/nope"),
        http.get("/v1/engines/nope"),
        http.post("/v1/completions", json={"model": "nope", "prompt": "a"}),
        http.post("/v1/chat/completions", json={"model": "nope", "messages": message}),
        http.post("/v1/engines/nope/completions", json={"prompt": "a"}),
    ):
        assert response.status_code == 404
        found = error(response)
        assert found["code"] == "model_not_found"
        assert found["message"].startswith(
            "The model `nope` does not exist or you do not have access to it."
        )


def test_engines(http: httpx2.Client) -> None:
    rows = http.get("/v1/engines").json()["data"]
    davinci = next(row for row in rows if row["id"] == "davinci")
    assert davinci["object"] == "engine"
    assert davinci["ready"] is True
    assert http.get("/v1/engines/davinci").json() == davinci


@pytest.mark.parametrize("engine", ["davinci", "org%2Fother", "org/other"])
def test_engine_paths_take_the_model_from_the_path(http: httpx2.Client, engine: str) -> None:
    base = f"/v1/engines/{engine}"
    reply = http.post(f"{base}/completions", json={"prompt": "say:hi"})
    assert reply.json()["choices"][0]["text"] == "hi"
    message = [{"role": "user", "content": "say:hi"}]
    reply = http.post(f"{base}/chat/completions", json={"messages": message})
    assert reply.json()["choices"][0]["message"]["content"] == "hi"
    reply = http.post(f"{base}/edits", json={"instruction": "x", "input": "say:hi"})
    assert reply.json()["choices"][0]["text"] == "hi"
    reply = http.post(f"{base}/embeddings", json={"input": "hi"})
    assert reply.json()["data"][0]["embedding"] == [0.6, -0.8]


def test_path_and_body_must_agree(http: httpx2.Client) -> None:
    body = {"prompt": "say:a", "model": "tiny"}
    assert http.post("/v1/engines/tiny/completions", json=body).status_code == 200
    response = http.post("/v1/engines/davinci/completions", json=body)
    assert response.status_code == 400
    assert error(response)["param"] == "model"


def test_slashes_more_or_fewer(server: Running) -> None:
    for path in ("//v1/models", "/v1//models/", "//v1//models//tiny", "/v1/models/tiny/"):
        with server.connect() as raw:
            head = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
            raw.sendall(f"{head}Connection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda raw=raw: raw.recv(65536), b""))  # type: ignore[misc]
        assert answer.startswith(b"HTTP/1.1 200 "), (path, answer)


def test_no_such_path_and_wrong_method(http: httpx2.Client) -> None:
    response = http.post("/v1/x", json={})
    assert response.status_code == 404
    assert error(response)["message"] == "Invalid URL (POST /v1/x)"
    response = http.get("/v1/chat/completions")
    assert response.status_code == 405
    assert error(response)["message"] == (
        "Not allowed to GET on /v1/chat/completions "
        "(HINT: Perhaps you meant to use a different HTTP method?)"
    )
    assert "/v1" in error(http.post("/chat/completions", json={}))["message"]


def test_status_pages(http: httpx2.Client, server: Running) -> None:
    assert http.get("/health").json() == {"status": "ok"}
    assert http.get("/ready").json() == {"status": "ready"}
    assert set(http.get("/version").json()) == {"version"}
    page = http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert f"{server.url}/v1" in page.text
    evil = http.get("/", headers={"host": "<script>alert(1)</script>"})
    assert "<script>" not in evil.text
    http.post("/v1/completions", json={"model": "tiny", "prompt": "say:abc"})
    numbers = http.get("/metrics").text
    assert 'everloop_requests_total{route="/v1/completions",status="200"}' in numbers
    assert 'everloop_tokens_total{kind="completion",model="tiny"}' in numbers
    assert 'everloop_engine_ready{model="tiny"} 1.0' in numbers


def test_openapi_describes_every_parameter(http: httpx2.Client) -> None:
    document = http.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    operation = document["paths"]["/v1/chat/completions"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["model", "messages"]
    assert {"temperature", "stop", "logit_bias", "tools", "user"} <= set(schema["properties"])
    assert "$ref" not in str(schema)


def test_openai_headers_on_every_answer(http: httpx2.Client) -> None:
    for response in (http.get("/v1/models"), http.get("/v1/nothing"), http.get("/health")):
        identity = response.headers["x-request-id"]
        assert identity.startswith("req_")
        assert response.headers["request-id"] == identity
        assert int(response.headers["openai-processing-ms"]) >= 0
        assert response.headers["openai-version"] == "2020-10-01"


def test_every_text_model_of_the_newest_client_is_an_alias(http: httpx2.Client) -> None:
    from openai.types import chat_model, embedding_model

    names = [*get_args(chat_model.ChatModel), *get_args(embedding_model.EmbeddingModel)]
    names = [name for name in names if "audio" not in name]
    assert len(names) > 50
    unknown = [name for name in names if http.get(f"/v1/models/{name}").status_code != 200]
    assert unknown == []
