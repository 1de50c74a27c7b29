"""The three lines of OpenAI's own client, unmodified, in processes of their own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests import sdk
from tests.server.process import KEY, Running

OLDEST, MIDDLE = sdk.OLD
BOTH_NEW = [MIDDLE, sdk.NEW]


def output(version: str, script: str, server: Running, base: str = "/v1") -> Any:
    """What the script puts into `out`, by JSON."""
    if not sdk.installed(version):
        pytest.skip(f"openai {version} is not installed: run `python -m tests.sdk`")
    whole = f"import json\nout = {{}}\n{script}\nprint(json.dumps(out))"
    return json.loads(sdk.run(version, whole, url=server.url + base, key=KEY).splitlines()[-1])


@pytest.mark.parametrize("base", ["/v1", "/v1/"])
def test_oldest_line_completions(server: Running, base: str) -> None:
    script = """
import asyncio, openai
assert openai.version.VERSION == "0.28.1"
one = openai.Completion.create(engine="davinci", prompt="say:hello", max_tokens=100)
out["engine"] = one.choices[0].text
two = openai.Completion.create(model="gpt-3.5-turbo-instruct", prompt=["say:a", "say:b"], n=2,
                               logprobs=2)
out["model"] = [c.text for c in two.choices]
out["offsets"] = two.choices[0].logprobs.text_offset
out["usage"] = two.usage.total_tokens
out["request_id"] = two.openai_id is None or two.openai_id
parts = openai.Completion.create(engine="gpt-4", prompt="say:流式", stream=True)
out["stream"] = "".join(p.choices[0].text for p in parts)
async def later():
    reply = await openai.Completion.acreate(engine="davinci", prompt="say:async")
    parts = await openai.Completion.acreate(engine="davinci", prompt="say:xyz", stream=True)
    return reply.choices[0].text, "".join([p.choices[0].text async for p in parts])
out["async"] = asyncio.run(later())
"""
    out = output(OLDEST, script, server, base)
    assert out["engine"] == "hello"
    assert out["model"] == ["a", "a", "b", "b"]
    assert out["offsets"] == [5]
    assert out["usage"] == 14
    assert out["stream"] == "流式"
    assert out["async"] == ["async", "xyz"]


def test_oldest_line_chat_edits_engines_models(server: Running) -> None:
    script = """
import openai
say = [{"role": "user", "content": "say:hi"}]
out["chat"] = openai.ChatCompletion.create(model="gpt-4", messages=say).choices[0].message.content
reply = openai.ChatCompletion.create(engine="gpt-4", messages=say)
out["chat_engine"] = reply["choices"][0]["message"]["content"]
parts = openai.ChatCompletion.create(model="gpt-3.5-turbo", messages=say, stream=True)
out["stream"] = [p.choices[0].delta.get("content", "") for p in parts]
edit = openai.Edit.create(model="text-davinci-edit-001", input="say:fixed", instruction="Fix")
out["edit"] = edit.choices[0].text
edit = openai.Edit.create(engine="text-davinci-edit-001", input="say:too", instruction="Fix", n=2)
out["edit_engine"] = [c.text for c in edit.choices]
out["engines"] = [e.id for e in openai.Engine.list().data]
out["engine"] = openai.Engine.retrieve("davinci").id
out["models"] = [m.id for m in openai.Model.list().data]
out["retrieved"] = openai.Model.retrieve("org/other").id
embedding = openai.Embedding.create(engine="text-embedding-ada-002", input="a",
                                    encoding_format="float")
out["embedding"] = embedding.data[0].embedding
"""
    out = output(OLDEST, script, server)
    assert out["chat"] == out["chat_engine"] == "hi"
    assert "".join(out["stream"]) == "hi"
    assert out["edit"] == "fixed"
    assert out["edit_engine"] == ["too", "too"]
    assert {"tiny", "davinci", "gpt-4"} <= set(out["engines"]) & set(out["models"])
    assert out["engine"] == "davinci"
    assert out["retrieved"] == "org/other"
    assert out["embedding"] == [0.6, -0.8]


def test_oldest_line_errors(server: Running) -> None:
    script = """
import openai
def tried(**options):
    try:
        list(openai.Completion.create(**{"engine": "davinci", "prompt": "say:a", **options}))
    except openai.error.OpenAIError as error:
        return [type(error).__name__, error.http_status, error.code,
                getattr(error, "param", None), bool(error.request_id)]
out["parameter"] = tried(temperature=5)
out["unknown"] = tried(foo=1)
out["model"] = tried(engine="nope")
out["long"] = tried(prompt="x" * 500)
out["full"] = tried(prompt="refuse:full")
out["down"] = tried(prompt="refuse:down")
out["key"] = tried(api_key="sk-wrong")
out["mid"] = tried(prompt="die:2", stream=True)
"""
    out = output(OLDEST, script, server)
    invalid = "InvalidRequestError"
    assert out["parameter"] == [invalid, 400, "integer_above_max_value", "temperature", True]
    assert out["unknown"] == [invalid, 400, "unknown_parameter", "foo", True]
    assert out["model"] == [invalid, 404, "model_not_found", None, True]
    assert out["long"] == [invalid, 400, "context_length_exceeded", "prompt", True]
    assert out["full"] == ["RateLimitError", 429, None, None, True]  # it drops the code
    assert out["down"][:2] == ["ServiceUnavailableError", 503]
    assert out["key"] == ["AuthenticationError", 401, None, None, True]
    assert out["mid"][0] == "APIError"


@pytest.mark.parametrize("version", BOTH_NEW)
def test_newer_lines_chat(server: Running, version: str) -> None:
    script = """
import asyncio, openai
from openai import OpenAI, AsyncOpenAI
client = OpenAI(max_retries=0)
say = [{"role": "user", "content": "say:你好"}]
reply = client.chat.completions.create(model="gpt-4o-mini", messages=say, logprobs=True,
                                       top_logprobs=2, n=2, seed=1, stop=["###"])
out["version"] = openai.__version__
out["content"] = [c.message.content for c in reply.choices]
out["tokens"] = len(reply.choices[0].logprobs.content)
out["usage"] = reply.usage.completion_tokens_details.reasoning_tokens
out["request_id"] = reply._request_id
parts = client.chat.completions.create(model="gpt-4", messages=say, stream=True,
                                       stream_options={"include_usage": True})
parts = list(parts)
out["stream"] = "".join(p.choices[0].delta.content or "" for p in parts if p.choices)
out["role"] = parts[0].choices[0].delta.role
out["total"] = parts[-1].usage.total_tokens
say.append(reply.choices[0].message)
say.append({"role": "user", "content": "say:again"})
again = client.chat.completions.create(model="gpt-4", messages=say)
out["again"] = again.choices[0].message.content
with client.chat.completions.stream(model="gpt-4", messages=say) as helper:
    out["helper"] = helper.get_final_completion().choices[0].message.content
async def later():
    async with AsyncOpenAI() as own:
        replies = await asyncio.gather(*(
            own.chat.completions.create(
                model="gpt-4", messages=[{"role": "user", "content": f"say:{i}"}])
            for i in range(20)))
        parts = await own.chat.completions.create(model="gpt-4", messages=say, stream=True)
        text = "".join([p.choices[0].delta.content or "" async for p in parts])
        return [r.choices[0].message.content for r in replies], text
out["async"] = asyncio.run(later())
"""
    out = output(version, script, server)
    assert out["version"] == version
    assert out["content"] == ["你好", "你好"]
    assert out["tokens"] == 6
    assert out["usage"] == 0
    assert out["request_id"].startswith("req_")
    assert out["stream"] == "你好"
    assert out["role"] == "assistant"
    assert out["total"] == 8
    assert out["again"] == out["helper"] == "again"
    assert out["async"] == [[str(i) for i in range(20)], "again"]


@pytest.mark.parametrize("version", BOTH_NEW)
def test_newer_lines_completions_models_embeddings(server: Running, version: str) -> None:
    script = """
from openai import OpenAI
client = OpenAI(_strict_response_validation=True)
reply = client.completions.create(model="gpt-3.5-turbo-instruct", prompt="say:hello",
                                  logprobs=1, best_of=2, user="me")
out["text"] = reply.choices[0].text
loose = OpenAI()  # its types foresee no null, which echo and streams have on the real API too
echo = loose.completions.create(model="gpt-4", prompt="say:a", echo=True, logprobs=1)
out["echo"] = echo.choices[0].logprobs.token_logprobs
out["tokens"] = reply.choices[0].logprobs.tokens
parts = loose.completions.create(model="davinci-002", prompt="say:hello", stream=True)
out["stream"] = "".join(p.choices[0].text for p in parts)
out["models"] = [m.id for m in client.models.list()]
out["model"] = client.models.retrieve("org/other").id
reply = loose.embeddings.create(model="text-embedding-3-small", input=["a", "b"])
out["embeddings"] = [d.embedding for d in reply.data]
"""
    out = output(version, script, server)
    assert out["text"] == "hello"
    assert out["echo"] == [None, -1, -1, -1, -1, -1]
    assert "".join(out["tokens"]) == out["text"]
    assert out["stream"] == "hello"
    assert {"tiny", "gpt-4"} <= set(out["models"])
    assert out["model"] == "org/other"
    assert out["embeddings"] == [pytest.approx([0.6, -0.8])] * 2


@pytest.mark.parametrize("version", BOTH_NEW)
def test_newer_lines_errors(server: Running, version: str) -> None:
    script = """
import openai, time
client = openai.OpenAI(max_retries=0)
def tried(content="say:a", client=client, **options):
    say = [{"role": "user", "content": content}]
    try:
        reply = client.chat.completions.create(**{"model": "gpt-4", "messages": say, **options})
        if options.get("stream"):
            list(reply)
    except openai.APIError as error:
        return [type(error).__name__, getattr(error, "status_code", None), error.code,
                error.param]
out["parameter"] = tried(temperature=5)
out["tools"] = tried(tools=[{"type": "function", "function": {"name": "f"}}])
out["model"] = tried(model="nope")
out["long"] = tried("x" * 500)
out["full"] = tried("refuse:full")
out["down"] = tried("refuse:down", stream=True)
out["key"] = tried(client=client.with_options(api_key="sk-wrong"))
out["mid"] = tried("die:2", stream=True)
began = time.monotonic()
tried("refuse:full", client=client.with_options(max_retries=1))
out["waited"] = time.monotonic() - began
"""
    out = output(version, script, server)
    assert out["parameter"] == ["BadRequestError", 400, "integer_above_max_value", "temperature"]
    assert out["tools"] == ["BadRequestError", 400, "unsupported_parameter", "tools"]
    assert out["model"] == ["NotFoundError", 404, "model_not_found", None]
    assert out["long"] == ["BadRequestError", 400, "context_length_exceeded", "messages"]
    assert out["full"] == ["RateLimitError", 429, "rate_limit_exceeded", None]
    assert out["down"] == ["InternalServerError", 503, "engine_unavailable", None]
    assert out["key"] == ["AuthenticationError", 401, "invalid_api_key", None]
    assert out["mid"] == ["APIError", None, "engine_unavailable", None]
    assert out["waited"] >= 1.0  # the client waited as long as retry-after said
