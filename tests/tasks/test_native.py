"""The tasks over a real engine: a small model with random weights in a child process."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from everloop.data.instructions import instruction
from everloop.engine.interface import Engine, GenerateRequest, Message, Sampling, ScoreRequest
from everloop.engine.native import NativeEngine, NativeOptions
from everloop.tasks import answer, classify, complete, converse, correct, edit, translate

PROMPT = (Message(role="user", content="今天天气怎么样？"),)


Over = Callable[[Callable[[Engine], Awaitable[None]]], None]


@pytest.fixture(scope="module")
def over(model_dir: Path) -> Iterator[Over]:
    """Runs a check over one engine, which all checks of this file share."""
    with asyncio.Runner() as runner:
        engine = NativeEngine(model_dir, "small", NativeOptions(threads=1, block_size=16))
        runner.run(engine.start())
        yield lambda check: runner.run(check(engine))
        runner.run(engine.close())


def request(**fields: object) -> GenerateRequest:
    given: dict[str, object] = {
        "prompt": "今天天气",
        "max_tokens": 24,
        "ignore_eos": True,
        "sampling": Sampling(seed=5, temperature=0.9),
        **fields,
    }
    return GenerateRequest(**given)  # type: ignore[arg-type]


def test_answers_of_one_call(over: Over) -> None:
    async def check(engine: Engine) -> None:
        texts = ["", "", ""]
        choices = await converse(engine, request(prompt=PROMPT), n=3)
        async for index, chunk in choices:
            texts[index] += chunk.text
        collected = await (await converse(engine, request(prompt=PROMPT), n=3)).collect()
        assert [choice.text for choice in collected.choices] == texts
        assert len(set(texts)) == 3
        assert collected.usage == choices.usage
        assert collected.usage.completion_tokens == 72
        assert collected.usage.prompt_tokens == await engine.count_tokens(PROMPT)
        alone = await (await converse(engine, request(prompt=PROMPT))).collect()
        assert alone.choices[0].text == texts[0]

        asked = request(logprobs=0)
        several = await (await complete(engine, asked, n=5)).collect()
        best = await (await complete(engine, asked, n=2, best_of=5)).collect()
        echoed = await (await complete(engine, request(echo=True), n=2, best_of=5)).collect()

        def mean(choice) -> float:
            return sum(t.logprob for t in choice.tokens) / len(choice.tokens)

        ranked = sorted(several.choices, key=mean, reverse=True)
        assert [c.text for c in best.choices] == [c.text for c in ranked[:2]]
        assert [c.text for c in echoed.choices] == ["今天天气" + c.text for c in ranked[:2]]

    over(check)


def test_leaving_frees_the_engine(over: Over) -> None:
    async def check(engine: Engine) -> None:
        choices = await complete(engine, request(max_tokens=200), n=4)
        async with choices, aclosing(choices.__aiter__()) as stream:
            async for _ in stream:
                break
        assert 0 < choices.usage.completion_tokens < 800
        for _ in range(200):  # the worker tells when it has let go
            if engine.status().kv_blocks_used == 0:
                break
            await asyncio.sleep(0.02)
        assert (engine.status().running, engine.status().kv_blocks_used) == (0, 0)

    over(check)


def test_many_labels_are_ranked_as_if_all_were_scored(over: Over) -> None:
    words = ["today", "weather", "park", "rain", "walk", "fine", "hello", "language", "model"]
    labels = [*words, *(f"{word} {other}" for word in words[:4] for other in words[4:8]), "天气"]

    async def check(engine: Engine) -> None:
        for text in ("The weather is fine today.", "Take an umbrella.", "Hello, I am a model."):
            chosen = await classify(engine, text, labels, task="intent")
            content = instruction("intent", "en", text=text)
            prompt = (Message(role="user", content=content),)
            scores = await engine.score(ScoreRequest(prompt=prompt, continuations=tuple(labels)))
            exact = {label: s.total for label, s in zip(labels, scores, strict=True)}
            assert chosen.label == max(exact, key=lambda label: exact[label])
            assert sum(chosen.probabilities.values()) == pytest.approx(1)
            scored = {x for x, p in chosen.probabilities.items() if p}
            total = sum(math.exp(exact[label]) for label in scored)
            for label in scored:
                expected = math.exp(exact[label]) / total
                assert chosen.probabilities[label] == pytest.approx(expected, rel=1e-3)

    over(check)


def test_every_task_gives_a_reply_of_its_kind(over: Over) -> None:
    async def check(engine: Engine) -> None:
        translated = await translate(engine, "你好", max_tokens=8)
        assert translated.usage.completion_tokens <= 8
        corrected = await correct(engine, " 天汽很好 ", max_tokens=8)
        assert corrected.text.startswith(" ")
        answered = await answer(engine, "几点？", "九点开门。", max_tokens=8)
        assert 0 <= answered.support <= 1
        edited = await edit(engine, text="teh cat", instruction="Fix it.", max_tokens=5, n=2)
        assert [c.index for c in (await edited.collect()).choices] == [0, 1]

    over(check)
