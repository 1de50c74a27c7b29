"""Short ways to ask, for tests."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx2


def error(response: httpx2.Response) -> dict[str, Any]:
    """The error object, checked for its shape."""
    body = response.json()
    assert list(body) == ["error"], body
    found: dict[str, Any] = body["error"]
    assert list(found) == ["message", "type", "param", "code"], found
    assert isinstance(found["message"], str)
    assert isinstance(found["type"], str)
    assert found["code"] is None or isinstance(found["code"], str)
    assert found["param"] is None or isinstance(found["param"], str)
    assert response.headers["content-type"] == "application/json"
    return found


def complete(http: httpx2.Client, prompt: Any, **options: Any) -> Any:
    body = {"model": "gpt-4", "prompt": prompt, **options}
    response = http.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def chat(http: httpx2.Client, content: str, **options: Any) -> Any:
    body = {"model": "gpt-4", "messages": [{"role": "user", "content": content}], **options}
    response = http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def events(response: httpx2.Response) -> list[dict[str, Any]]:
    """The events of a complete stream, which has to end with [DONE]."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = response.text.split("\n\n")
    assert lines.pop() == ""
    assert lines.pop() == "data: [DONE]"
    assert all(line.startswith("data: {") and "\n" not in line for line in lines)
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def stream(http: httpx2.Client, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    return events(http.post(path, json={"model": "gpt-4", "stream": True, **body}))


def idle(http: httpx2.Client) -> bool:
    """Whether the engine soon has nothing left to do and no memory in use."""
    for _ in range(300):
        lines = http.get("/metrics").text.splitlines()
        names = ("running", "waiting", "kv_blocks_used")
        gauges = [x for x in lines if x.startswith(tuple(f"everloop_engine_{n}{{" for n in names))]
        assert len(gauges) == 3
        if all(float(line.split()[-1]) == 0 for line in gauges):
            return True
        time.sleep(0.02)
    return False
