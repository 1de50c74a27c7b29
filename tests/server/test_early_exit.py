"""Early exit on the wire: asked for by number, told in usage and header, refused by name."""

from __future__ import annotations

import json

import httpx2
import pytest

from tests import sdk
from tests.server.ask import error
from tests.server.process import KEY, Running

SCRIPT = """
import json
from openai import OpenAI
client = OpenAI()
def ask(early_exit, **o):
    extra = {"ignore_eos": True, "repetition_penalty": 1}
    if early_exit is not None:
        extra["early_exit"] = early_exit
    return client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "今天天气怎么样？"}], max_tokens=30,
        temperature=0, extra_body=extra, **o)
plain, careful, half, all_, two = ask(None), ask(0.999), ask(0.9), ask(0.2), ask(0.2, n=2)
stream = list(ask(0.2, stream=True, stream_options={"include_usage": True}))
said = "".join(c.choices[0].delta.content or "" for c in stream if c.choices)
print(json.dumps({
    "texts": [r.choices[0].message.content for r in (plain, careful, half, all_)] + [said],
    "told": [getattr(r.usage, "everloop", None) for r in (plain, careful, half, all_, two)]
    + [stream[-1].usage.everloop],
}))
"""


def test_usage_tells_who_left(native_server: Running) -> None:
    found = json.loads(sdk.run(sdk.NEW, SCRIPT, url=f"{native_server.url}/v1", key=KEY))
    plain, careful, half, everyone, streamed = found["texts"]
    none, *told = (t and t["early_exit"] for t in found["told"])
    assert none is None
    assert plain == careful != everyone
    assert half != everyone == streamed
    most = {"agreement": 0.5, "tokens": 30, "exited": 29, "layers": 3, "mean_layers": 1.07}
    assert told[0] == {
        "agreement": 0.999, "tokens": 30, "exited": 0, "layers": 3, "mean_layers": 3.0,
    }  # fmt: skip
    assert told[1]["agreement"] == 0.97
    assert 0 < told[1]["exited"] < 30
    assert told[1]["mean_layers"] == round(3 - told[1]["exited"] / 30, 2)
    assert told[2] == told[4] == most
    assert told[3] == {**most, "tokens": 60, "exited": 58}


@pytest.fixture
def http(native_server: Running) -> httpx2.Client:
    return native_server.client()


CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body"),
    [("chat/completions", CHAT), ("completions", {"model": "tiny", "prompt": "hi"})],
)
def test_a_header_says_that_the_answer_is_approximate(
    http: httpx2.Client, path: str, body: dict[str, object], stream: bool
) -> None:
    body = {**body, "stream": stream}
    name = "x-everloop-approximate"
    with http:
        assert http.post(f"/v1/{path}", json={**body, "early_exit": 0.9}).headers[name]
        assert name not in http.post(f"/v1/{path}", json=body).headers


@pytest.mark.parametrize("value", [0, 1, 1.5, -0.1, "0.9", True, [0.9]])
def test_shares_of_tokens_only(http: httpx2.Client, value: object) -> None:
    with http:
        answer = http.post("/v1/chat/completions", json={**CHAT, "early_exit": value})
    assert answer.status_code == 400
    assert error(answer)["param"] == "early_exit"


def test_more_agreement_than_measured_is_refused(http: httpx2.Client) -> None:
    with http:
        answer = http.post("/v1/chat/completions", json={**CHAT, "early_exit": 0.9999})
    assert answer.status_code == 400
    assert error(answer)["param"] == "early_exit"
    assert "0.999 at most" in error(answer)["message"]
