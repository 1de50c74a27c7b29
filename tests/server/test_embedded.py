"""The embedded model answers what the README promises, through the clients it promises it for."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from everloop.store.registry import EMBEDDED_DIR
from tests import sdk
from tests.server.process import KEY, Running, free_port, started

NAME = "everloop-small"
WEATHER = ("天气", "晴", "雨", "阴", "云", "风", "雪", "度", "气温", "天")

pytestmark = pytest.mark.skipif(
    not (EMBEDDED_DIR / NAME / "model.safetensors").is_file(),
    reason="the embedded model is not in this checkout",
)

ARTICLE = """
import openai
response = openai.Completion.create(engine='gpt-4', prompt="今天天气怎么样？", max_tokens=100)
print(response.choices[0].text.strip())
"""
CHAT = """
from openai import OpenAI
client = OpenAI()
question = [{"role": "user", "content": "今天天气怎么样？"}]
answer = client.chat.completions.create(model="gpt-4", messages=question)
print(answer.choices[0].message.content)
"""
STREAM = """
from openai import OpenAI
client = OpenAI()
question = [{"role": "user", "content": "今天天气怎么样？"}]
for chunk in client.chat.completions.create(model="gpt-4", messages=question, stream=True):
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="")
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """`everloop serve`, as a user starts it."""
    import sys

    folder, port = tmp_path_factory.mktemp("embedded"), free_port()
    command = [sys.executable, "-m", "everloop", "serve", "--port", str(port)]
    home = str(folder / "home")
    env = {"EVERLOOP_HOME": home, "EVERLOOP_API_KEY": KEY, "EVERLOOP_THREADS": "1"}
    with started(command, port, folder, **env) as running:
        yield running


def is_chinese(text: str) -> bool:
    """Mostly Chinese, and no broken character."""
    count = sum("\u4e00" <= char <= "\u9fff" for char in text)
    return count >= len(text.strip()) / 2 > 0 and "\ufffd" not in text


@pytest.mark.parametrize(
    ("version", "script"),
    [(sdk.OLD[0], ARTICLE)] + [(v, s) for v in (sdk.OLD[1], sdk.NEW) for s in (CHAT, STREAM)],
)
def test_the_snippets_run_as_they_are(server: Running, version: str, script: str) -> None:
    if not sdk.installed(version):
        pytest.skip(f"openai {version} is not installed: run `python -m tests.sdk`")
    said = sdk.run(version, script, url=f"{server.url}/v1", key=KEY)
    assert is_chinese(said), said


def test_it_speaks_of_the_weather(server: Running) -> None:
    with server.client() as http:
        ask = {"model": "gpt-4", "temperature": 0, "max_tokens": 100}
        raw = http.post("/v1/completions", json={**ask, "prompt": "今天天气怎么样？"}).json()
        question = [{"role": "user", "content": "今天天气怎么样？"}]
        told = http.post("/v1/chat/completions", json={**ask, "messages": question}).json()
    for said in (raw["choices"][0]["text"], told["choices"][0]["message"]["content"]):
        assert is_chinese(said), said
        assert any(word in said for word in WEATHER), said
    assert raw["model"] == NAME
    assert told["choices"][0]["finish_reason"] == "stop", json.dumps(told, ensure_ascii=False)
