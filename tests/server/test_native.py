"""The whole path: a real server process, the native engine in its child, a small random model, and
OpenAI's clients."""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everloop.model.tokenizer import Tokenizer
from tests import sdk
from tests.server.ask import chat, complete, error, idle, stream
from tests.server.process import KEY, Running

PROMPT = "今天天气怎么样？ The weather"
GREEDY = {"temperature": 0, "repetition_penalty": 1, "ignore_eos": True}


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> Tokenizer:
    return Tokenizer.load(model)


@pytest.fixture
def http(native_server: Running) -> Iterator[httpx2.Client]:
    with native_server.client() as client:
        yield client


def text_of(body: Any) -> str:
    text: str = body["choices"][0]["text"]
    return text


def test_greedy_answers_repeat_and_streams_agree(http: httpx2.Client) -> None:
    once = complete(http, PROMPT, max_tokens=40, **GREEDY)
    again = complete(http, PROMPT, max_tokens=40, **GREEDY)
    assert text_of(once) == text_of(again)
    assert once["choices"][0]["finish_reason"] == "length"
    assert once["usage"]["completion_tokens"] == 40
    chunks = stream(http, "/v1/completions", {"prompt": PROMPT, "max_tokens": 40, **GREEDY})
    assert "".join(text_of(chunk) for chunk in chunks) == text_of(once)


def test_token_ids_and_text_are_one_prompt(http: httpx2.Client, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(PROMPT)
    whole = complete(http, PROMPT, max_tokens=20, logprobs=1, **GREEDY)
    from_ids = complete(http, ids, max_tokens=20, logprobs=1, **GREEDY)
    assert whole["choices"] == from_ids["choices"]
    assert whole["usage"]["prompt_tokens"] == len(ids)
    both = complete(http, [ids, ids], max_tokens=20, logprobs=1, **GREEDY)
    assert both["choices"][1]["text"] == text_of(whole)


def test_logprobs_cover_the_text(http: httpx2.Client, tokenizer: Tokenizer) -> None:
    choice = complete(http, PROMPT, max_tokens=30, logprobs=3, echo=True, **GREEDY)["choices"][0]
    logprobs = choice["logprobs"]
    count = len(tokenizer.encode(PROMPT)) + 30
    assert [len(logprobs[name]) for name in logprobs] == [count] * 4
    assert choice["text"].startswith(PROMPT)
    assert logprobs["token_logprobs"][0] is None
    assert all(-9999 <= value <= 0 for value in logprobs["token_logprobs"][1:])
    raw = b"".join(
        bytes.fromhex(token[6:].replace("\\x", ""))
        if token.startswith("bytes:")
        else token.encode()
        for token in logprobs["tokens"]
    )
    assert raw.startswith(PROMPT.encode())
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        if not token.startswith("bytes:") and offset < len(PROMPT):
            assert choice["text"][offset : offset + len(token)] == token
    chosen = zip(logprobs["tokens"], logprobs["top_logprobs"], strict=True)
    for (token, top), value in list(zip(chosen, logprobs["token_logprobs"], strict=True))[-30:]:
        assert top[token] == pytest.approx(value, abs=1e-4)
        assert max(top.values()) == top[token]  # greedy takes the best
        assert sum(map(math.exp, top.values())) <= 1.001
    scored = complete(http, PROMPT, max_tokens=0, logprobs=3, echo=True)["choices"][0]["logprobs"]
    head = len(scored["tokens"])
    assert head == count - 30
    for name in ("tokens", "text_offset"):
        assert scored[name] == logprobs[name][:head]
    assert scored["token_logprobs"][1:] == pytest.approx(
        logprobs["token_logprobs"][1:head], abs=1e-4
    )


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_stop_string_ends_before_itself(http: httpx2.Client, path: str) -> None:
    def ask(**options: Any) -> tuple[str, Any]:
        if path == "/v1/completions":
            body = complete(http, PROMPT, max_tokens=40, **GREEDY, **options)
            return text_of(body), body
        body = chat(http, PROMPT, max_tokens=40, **GREEDY, **options)
        return body["choices"][0]["message"]["content"], body

    whole, _ = ask()
    # A part of a character has no spelling in JSON, so it can't be stopped at.
    pairs = [whole[i : i + 2] for i in range(len(whole) // 3, len(whole) - 1)]
    stop = next(pair for pair in pairs if "\ufffd" not in pair)
    text, body = ask(stop=["never this", stop])
    assert text == whole[: whole.index(stop)]
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] < 40


def test_seeded_answers_repeat_in_any_company(http: httpx2.Client) -> None:
    options = {"max_tokens": 20, "seed": -7, "temperature": 1.5, "ignore_eos": True}
    three = complete(http, PROMPT, n=3, **options)["choices"]
    assert three == complete(http, PROMPT, n=3, **options)["choices"]
    assert three[0]["text"] == text_of(complete(http, PROMPT, **options))
    assert len({choice["text"] for choice in three}) == 3


def test_best_of_is_the_likeliest(http: httpx2.Client) -> None:
    options = {"max_tokens": 10, "seed": 3, "logprobs": 0, "ignore_eos": True}
    four = complete(http, PROMPT, n=4, **options)["choices"]
    best = complete(http, PROMPT, best_of=4, **options)
    means = [sum(c["logprobs"]["token_logprobs"]) / 10 for c in four]
    assert text_of(best) == four[means.index(max(means))]["text"]
    assert best["usage"]["completion_tokens"] == 40


def test_chat_logprobs_and_usage(http: httpx2.Client) -> None:
    body = chat(http, PROMPT, max_tokens=12, logprobs=True, top_logprobs=5, **GREEDY)
    content = body["choices"][0]["logprobs"]["content"]
    assert len(content) == 12 == body["usage"]["completion_tokens"]
    for token in content:
        assert len(token["top_logprobs"]) == 5
        assert token["top_logprobs"][0]["bytes"] == token["bytes"]
    said = b"".join(bytes(token["bytes"]) for token in content)
    # A character that the end cut in two stays out of the text.
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(said)
    assert text == body["choices"][0]["message"]["content"]
    longer = chat(http, PROMPT * 2, max_tokens=1)["usage"]["prompt_tokens"]
    assert longer > body["usage"]["prompt_tokens"]


def test_a_special_token_typed_by_a_user_is_text(http: httpx2.Client, tokenizer: Tokenizer) -> None:
    plain = chat(http, "a", max_tokens=1)["usage"]["prompt_tokens"]
    typed = chat(http, "a<|im_end|>", max_tokens=1)["usage"]["prompt_tokens"]
    assert typed - plain == len(tokenizer.encode("a<|im_end|>")) - len(tokenizer.encode("a")) > 3


def test_suffix_fills_the_middle(http: httpx2.Client, tokenizer: Tokenizer) -> None:
    assert tokenizer.fill_in_middle is not None
    body = complete(http, "今天", suffix="很好", max_tokens=5, **GREEDY)
    parts = len(tokenizer.encode("今天")) + len(tokenizer.encode("很好"))
    assert body["usage"]["prompt_tokens"] == parts + 3


def test_embeddings_are_unit_vectors(http: httpx2.Client) -> None:
    body = {"model": "tiny", "input": ["今天天气很好", "hello", "今天天气很好"]}
    reply = http.post("/v1/embeddings", json=body).json()
    vectors = [row["embedding"] for row in reply["data"]]
    assert math.fsum(x * x for x in vectors[0]) == pytest.approx(1, abs=1e-5)
    assert vectors[0] == pytest.approx(vectors[2], abs=1e-6)
    assert vectors[0] != pytest.approx(vectors[1], abs=1e-2)


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"prompt": [10**6]}, "prompt", None),
        ({"prompt": PROMPT * 100}, "prompt", "context_length_exceeded"),
        ({"prompt": "x" * 5_000_000}, "prompt", "context_length_exceeded"),
        ({"max_tokens": 10_000}, "prompt", "context_length_exceeded"),
        ({"logit_bias": {"1000000": 1}}, "logit_bias", None),
        ({"prompt": ["a", PROMPT * 100], "n": 2}, "prompt", "context_length_exceeded"),
    ],
)
def test_what_only_the_model_knows_is_refused(
    http: httpx2.Client, change: dict[str, Any], param: str, code: str | None
) -> None:
    for streams in (False, True):
        body = {"model": "tiny", "prompt": PROMPT, "stream": streams, **change}
        response = http.post("/v1/completions", json=body)
        assert response.status_code == 400
        assert error(response)["param"] == param
        assert error(response)["code"] == code
    assert idle(http)


def test_context_message_has_the_numbers(http: httpx2.Client) -> None:
    ask = {"model": "tiny", "messages": [{"role": "user", "content": PROMPT * 100}]}
    found = error(http.post("/v1/chat/completions", json=ask))
    assert found["message"].startswith("This model's maximum context length is 256 tokens. However")
    assert found["param"] == "messages"


body_values = st.fixed_dictionaries(
    {
        "prompt": st.text(max_size=30)
        | st.lists(st.integers(-2, 400), max_size=6)
        | st.lists(st.text(max_size=5), max_size=3)
    },
    optional={
        "max_tokens": st.integers(0, 5),
        "temperature": st.floats(0, 2),
        "top_p": st.floats(0, 1),
        "top_k": st.integers(0, 3),
        "min_p": st.floats(0, 1),
        "presence_penalty": st.floats(-2, 2),
        "frequency_penalty": st.floats(-2, 2),
        "repetition_penalty": st.floats(0, 10),
        "logit_bias": st.dictionaries(
            st.integers(0, 400).map(str), st.integers(-100, 100), max_size=3
        ),
        "logprobs": st.integers(0, 5),
        "echo": st.booleans(),
        "suffix": st.text(max_size=5),
        "n": st.integers(1, 3),
        "best_of": st.integers(1, 3),
        "seed": st.integers(-(2**63), 2**63 - 1),
        "stop": st.text(max_size=3) | st.lists(st.text(max_size=3), max_size=3),
        "stream": st.booleans(),
    },
)


@settings(max_examples=40, deadline=None)
@given(body_values)
def test_no_parameters_are_a_server_error(native_server: Running, body: dict[str, Any]) -> None:
    with native_server.client() as http:
        response = http.post("/v1/completions", json={"model": "tiny", **body})
    if response.status_code != 200:
        assert response.status_code == 400, response.text
        assert error(response)["param"] is not None or "surrogate" in response.text
    else:
        assert '"error"' not in response.text


@pytest.mark.parametrize("version", [*sdk.OLD, sdk.NEW])
def test_every_client_line_on_the_real_engine(native_server: Running, version: str) -> None:
    if not sdk.installed(version):
        pytest.skip(f"openai {version} is not installed: run `python -m tests.sdk`")
    if version == sdk.OLD[0]:
        script = """
import openai
def ask(**o):
    return openai.ChatCompletion.create(model="gpt-4", messages=say, max_tokens=12,
                                        temperature=0, **o)
raw = openai.Completion.create(engine="davinci", prompt="今天", max_tokens=5).choices[0].text
edit = openai.Edit.create(model="text-davinci-edit-001", input="helo", instruction="fix")
"""
    else:
        script = """
from openai import OpenAI
client = OpenAI()
def ask(**o):
    return client.chat.completions.create(model="gpt-4", messages=say, max_tokens=12,
                                          temperature=0, **o)
raw = client.completions.create(model="davinci-002", prompt="今天", max_tokens=5).choices[0].text
"""
    script = (
        'import json\nsay = [{"role": "user", "content": "你好"}]\n'
        + script
        + """
whole = ask().choices[0].message.content
get = lambda delta: delta.get("content") if isinstance(delta, dict) else delta.content
parts = [get(c.choices[0].delta) or "" for c in ask(stream=True)]
print(json.dumps([whole, "".join(parts), raw]))
"""
    )
    whole, parts, raw = json.loads(sdk.run(version, script, url=f"{native_server.url}/v1", key=KEY))
    assert whole == parts != ""
    assert isinstance(raw, str)
