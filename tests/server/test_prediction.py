"""Predicted outputs on the wire, with OpenAI's client and the real engine."""

from __future__ import annotations

import json
from pathlib import Path

from everloop.model.tokenizer import Tokenizer
from tests import sdk
from tests.server.ask import error
from tests.server.process import KEY, Running

SCRIPT = """
import json
from openai import OpenAI
client = OpenAI()
def ask(content=None, **o):
    if content is not None:
        o["prediction"] = {"type": "content", "content": content}
    return client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "今天天气怎么样？"}], max_tokens=60,
        temperature=0, extra_body={"ignore_eos": True, "repetition_penalty": 1}, **o)
def told(reply):
    details = reply.usage.completion_tokens_details
    return [[c.message.content for c in reply.choices], reply.usage.completion_tokens,
            details.accepted_prediction_tokens, details.rejected_prediction_tokens]
plain = ask()
text = plain.choices[0].message.content
parts = [{"type": "text", "text": text}]
found = [told(r) for r in (plain, ask(text), ask(parts), ask("雨" * 20), ask(text, n=2),
                           ask(text, logprobs=True))]
stream = list(ask(text, stream=True, stream_options={"include_usage": True}))
said = "".join(c.choices[0].delta.content or "" for c in stream if c.choices)
details = stream[-1].usage.completion_tokens_details
print(json.dumps([found, [said, details.accepted_prediction_tokens]]))
"""


def test_usage_tells_what_of_the_prediction_appeared(native_server: Running, model: Path) -> None:
    found, streamed = json.loads(sdk.run(sdk.NEW, SCRIPT, url=f"{native_server.url}/v1", key=KEY))
    plain, right, parts, wrong, two, scored = found
    [text] = plain[0]
    assert plain[1:] == [60, 0, 0]
    for reply in (right, parts, wrong, scored):
        assert reply[:2] == plain[:2]
    tokenizer = Tokenizer.load(model)
    # What is predicted is text: the tokens of a random model's text may be others than its own.
    predicted = len(tokenizer.encode(text))
    assert right == parts == scored
    assert right[2] > 0
    assert right[2] + right[3] == predicted
    assert wrong[2:] == [0, len(tokenizer.encode("雨" * 20))]
    assert two == [[text, text], 120, 2 * right[2], 2 * right[3]]
    assert streamed == [text, right[2]]


def test_an_edit_predicts_its_own_input(native_server: Running, model: Path) -> None:
    body = {"model": "tiny", "input": "今天天气很好", "instruction": "Fix it.", "temperature": 0}
    with native_server.client() as http:
        details = http.post("/v1/edits", json=body).json()["usage"]["completion_tokens_details"]
    counted = details["accepted_prediction_tokens"] + details["rejected_prediction_tokens"]
    assert counted == len(Tokenizer.load(model).encode("今天天气很好"))


def test_a_prediction_longer_than_any_answer_is_refused_by_name(native_server: Running) -> None:
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "hi"}],
        "prediction": {"type": "content", "content": "x" * 300_000},
    }
    with native_server.client() as http:
        response = http.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert error(response)["param"] == "prediction"
    assert "256" in error(response)["message"]
