"""The remote engine over our own server says what the native engine behind it says."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from everloop.engine.interface import (
    Chunk,
    Engine,
    GenerateRequest,
    Message,
    Sampling,
    ScoreRequest,
)
from everloop.engine.native import NativeEngine, NativeOptions
from everloop.engine.remote import RemoteEngine
from everloop.errors import ContextLengthExceeded, InvalidRequest, NotFound
from tests.server.process import KEY, native

PROMPT = "今天天气怎么样？"
HELLO: tuple[Message, ...] = ({"role": "user", "content": "你好"},)
SEEDED = Sampling(temperature=0.9, top_k=40, min_p=0.01, seed=4)

REQUESTS = [
    GenerateRequest(prompt=PROMPT, max_tokens=25, sampling=SEEDED, ignore_eos=True),
    GenerateRequest(prompt=HELLO, max_tokens=25, sampling=SEEDED, logprobs=2, ignore_eos=True),
    GenerateRequest(prompt=(5, 6, 300), max_tokens=9, sampling=Sampling(temperature=0), logprobs=0),
    GenerateRequest(
        prompt=PROMPT, max_tokens=20, sampling=SEEDED, logprobs=3, echo=True, ignore_eos=True
    ),
    GenerateRequest(
        prompt=HELLO, max_tokens=25, sampling=SEEDED, prediction=PROMPT, ignore_eos=True
    ),
    GenerateRequest(prompt="天", suffix="。", max_tokens=9, sampling=SEEDED, ignore_eos=True),
]


async def run(engine: Engine, request: GenerateRequest) -> tuple[object, ...]:
    chunks: list[Chunk] = [chunk async for chunk in await engine.generate(request)]
    tokens = [t for chunk in chunks for t in chunk.tokens] if request.logprobs is not None else []
    told = [
        (
            t.bytes,
            None if t.logprob is None else round(t.logprob, 4),
            {data: round(value, 4) for _, data, value in t.top},
        )
        for t in tokens
    ]
    text = "".join(chunk.text for chunk in chunks)
    return text, told, chunks[-1].finish_reason, chunks[-1].usage


def test_the_same_answers_scores_and_vectors(model_dir: Path, tmp_path: Path) -> None:
    async def body(url: str) -> None:
        remote = RemoteEngine(url, KEY, "tiny")
        local = NativeEngine(model_dir, "tiny", NativeOptions(threads=1))
        await asyncio.gather(remote.start(), local.start())
        try:
            for request in REQUESTS:
                assert await run(remote, request) == await run(local, request)

            question = ScoreRequest(prompt=PROMPT, continuations=((5, 6), (7,)))
            ids = ScoreRequest(prompt=(5, 6, 7, 8), continuations=((5, 6), (7,)))
            with pytest.raises(InvalidRequest):
                await remote.score(question)
            for one, two in zip(await remote.score(ids), await local.score(ids), strict=True):
                assert one.tokens == two.tokens
                assert one.logprobs == pytest.approx(two.logprobs, abs=1e-4)

            texts = ["好", "The weather is fine"]
            for a, b in zip(await remote.embed(texts), await local.embed(texts), strict=True):
                assert a.vector == pytest.approx(b.vector, abs=1e-6)
            assert await remote.count_tokens(HELLO) == await local.count_tokens(HELLO)

            with pytest.raises(InvalidRequest) as caught:
                await remote.generate(GenerateRequest(prompt="x", sampling=Sampling(top_p=7)))
            assert caught.value.param == "top_p"
            with pytest.raises(ContextLengthExceeded):
                await remote.generate(GenerateRequest(prompt="天 " * 500, max_tokens=5))
            nobody = RemoteEngine(url, KEY, "nobody")
            await nobody.start()
            with pytest.raises(NotFound):
                await nobody.generate(GenerateRequest(prompt="x"))
            await nobody.close()
        finally:
            await asyncio.gather(remote.close(), local.close())

    with native(tmp_path, model_dir) as server:
        asyncio.run(body(f"{server.url}/v1"))
