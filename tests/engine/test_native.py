"""The engine with its child process: what callers see, and what happens when the child dies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from everloop.engine.interface import (
    Chunk,
    GenerateRequest,
    Generation,
    Message,
    Sampling,
    ScoreRequest,
)
from everloop.engine.native import NativeEngine, NativeOptions
from everloop.engine.native.prompts import Prompts
from everloop.errors import (
    ContextLengthExceeded,
    EverloopError,
    InvalidRequest,
    Overloaded,
)
from everloop.model.tokenizer import Tokenizer
from tests.engine.conftest import CONTEXT

PROMPT = "今天天气怎么样？"
HELLO: tuple[Message, ...] = ({"role": "user", "content": "你好"},)


def options(**changes: object) -> NativeOptions:
    values: dict[str, object] = {"threads": 1, "block_size": 16, **changes}
    return NativeOptions(**values)  # type: ignore[arg-type]


Shared = Callable[[Callable[[NativeEngine], Awaitable[None]]], None]


@pytest.fixture(scope="module")
def shared(model_dir: Path) -> Iterator[Shared]:
    """Runs a test's body on an engine that many tests share; it must be idle afterwards."""
    with asyncio.Runner() as runner:
        engine = NativeEngine(model_dir, "small", options(max_running=8, max_queue=120))
        runner.run(engine.start())

        def run(body: Callable[[NativeEngine], Awaitable[None]]) -> None:
            async def whole() -> None:
                await body(engine)
                await until(lambda: engine.status().kv_blocks_used == 0)
                status = engine.status()
                assert (status.running, status.waiting, status.restarts) == (0, 0, 0)
                assert not engine._pending

            runner.run(whole())

        yield run
        runner.run(engine.close())


def with_engine(
    model_dir: Path, body: Callable[[NativeEngine], Awaitable[None]], **changes: object
) -> None:
    async def run() -> None:
        engine = NativeEngine(model_dir, "small", options(**changes))
        await engine.start()
        try:
            await body(engine)
        finally:
            await engine.close()

    asyncio.run(run())


async def collect(generation: Generation) -> list[Chunk]:
    return [chunk async for chunk in generation]


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def greedy(**changes: object) -> GenerateRequest:
    values: dict[str, object] = {
        "prompt": PROMPT,
        "max_tokens": 12,
        "sampling": Sampling(temperature=0),
        "ignore_eos": True,
        **changes,
    }
    return GenerateRequest(**values)  # type: ignore[arg-type]


LONG = greedy(max_tokens=200, sampling=Sampling(seed=1))


def test_generate_score_embed(shared: Shared, tokenizer: Tokenizer) -> None:
    async def body(engine: NativeEngine) -> None:
        assert (engine.info.id, engine.info.context_length) == ("small", CONTEXT)
        assert engine.info.fills_middle
        assert engine.status().ready
        count = await engine.count_tokens(PROMPT)
        assert count == len(tokenizer.encode(PROMPT))

        generation = await engine.generate(greedy(logprobs=2, echo=True))
        assert generation.prompt_tokens == count
        chunks = await collect(generation)
        assert text_of(chunks).startswith(PROMPT)
        tokens = [t for c in chunks for t in c.tokens]
        assert len(tokens) == count + 12
        assert b"".join(t.bytes for t in tokens[:count]).decode() == PROMPT
        assert all(len(t.top) == 2 and t.top[0][2] == t.logprob for t in tokens[count:])
        assert [c.finish_reason for c in chunks][-1] == "length"
        usage = chunks[-1].usage
        assert usage is not None
        assert (usage.prompt_tokens, usage.completion_tokens) == (count, 12)
        assert all(c.usage is None for c in chunks[:-1])
        assert await generation.cancel() == usage  # harmless afterwards

        scores = await engine.score(
            ScoreRequest(prompt=PROMPT, continuations=("好", (5, 6), "", "rain"))
        )
        assert [len(s.tokens) for s in scores] == [len(s.logprobs) for s in scores]
        assert scores[1].tokens == (5, 6)
        assert scores[2].total == 0
        assert await engine.score(ScoreRequest(prompt=PROMPT, continuations=())) == []

        one, two = await engine.embed(["好", "The weather"])
        assert sum(x * x for x in one.vector) == pytest.approx(1)
        assert two.tokens == len(tokenizer.encode("The weather"))
        assert await engine.embed([]) == []

    shared(body)


def test_seeds_make_answers_repeat_and_their_lack_makes_them_differ(shared: Shared) -> None:
    async def body(engine: NativeEngine) -> None:
        async def run(seed: int | None) -> str:
            request = greedy(max_tokens=30, sampling=Sampling(seed=seed))
            return text_of(await collect(await engine.generate(request)))

        texts = await asyncio.gather(*[run(s) for s in (1, 2, 1, None, None, -1, 2**70)])
        assert texts[0] == texts[2]
        assert len(set(texts)) == 6

    shared(body)


def test_a_prompt_is_remembered_for_its_own_tenant(shared: Shared) -> None:
    async def body(engine: NativeEngine) -> None:
        async def cached(**changes: object) -> int:
            request = greedy(prompt=(*range(5, 205),), max_tokens=3, **changes)
            usage = (await collect(await engine.generate(request)))[-1].usage
            assert usage is not None
            return usage.cached_tokens

        assert [await cached(tenant=t) for t in ("a", "a", "b", "b", "a")] == [0, 192, 0, 192, 192]
        assert await cached(tenant="b", echo=True, logprobs=0) == 0
        await engine.score(
            ScoreRequest(prompt=(*range(5, 205),), continuations=((1,),), tenant="c")
        )
        assert [await cached(tenant=t) for t in "cd"] == [192, 0]

    shared(body)


def test_messages_token_ids_and_the_middle(
    shared: Shared, model_dir: Path, tokenizer: Tokenizer
) -> None:
    async def body(engine: NativeEngine) -> None:
        from everloop.model.template import ChatTemplate

        ids = tuple(ChatTemplate.load(model_dir).encode(HELLO))
        as_messages = await collect(await engine.generate(greedy(prompt=HELLO)))
        as_ids = await collect(await engine.generate(greedy(prompt=ids)))
        assert text_of(as_messages) == text_of(as_ids)

        marks = tokenizer.fill_in_middle
        assert marks is not None
        middle = await engine.generate(greedy(prompt="天气", suffix="。"))
        spelled = (
            marks.prefix,
            *tokenizer.encode("天气"),
            marks.suffix,
            *tokenizer.encode("。"),
            marks.middle,
        )
        assert text_of(await collect(middle)) == text_of(
            await collect(await engine.generate(greedy(prompt=spelled)))
        )
        empty = await engine.generate(greedy(prompt=""))
        assert empty.prompt_tokens == 1
        assert (await collect(empty))[-1].finish_reason == "length"

    shared(body)


def bias(token: int, value: float) -> Sampling:
    return Sampling(logit_bias={token: value})


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"max_tokens": -1}, "max_tokens"),
        ({"stop": ("",)}, "stop"),
        ({"stop": ("\ud800",)}, "stop"),
        ({"logprobs": -1}, "logprobs"),
        ({"logprobs": 10**6}, "logprobs"),
        ({"prompt": "a\ud800"}, "prompt"),
        ({"prompt": ({"role": "user", "content": "\ud800"},)}, "messages"),
        ({"prompt": (1, -1)}, "prompt"),
        ({"prompt": (1, 330)}, "prompt"),
        ({"prompt": (1, 10**30)}, "prompt"),
        ({"prompt": HELLO, "suffix": "x"}, "suffix"),
        ({"suffix": "x", "echo": True}, "echo"),
        ({"sampling": Sampling(temperature=-0.1)}, "temperature"),
        ({"sampling": Sampling(temperature=float("nan"))}, "temperature"),
        ({"sampling": Sampling(temperature=float("inf"))}, "temperature"),
        ({"sampling": Sampling(top_p=1.1)}, "top_p"),
        ({"sampling": Sampling(top_k=-1)}, "top_k"),
        ({"sampling": Sampling(min_p=2)}, "min_p"),
        ({"sampling": Sampling(repetition_penalty=0)}, "repetition_penalty"),
        ({"sampling": Sampling(presence_penalty=float("-inf"))}, "presence_penalty"),
        ({"sampling": bias(330, 1)}, "logit_bias"),
        ({"sampling": bias(-1, 1)}, "logit_bias"),
        ({"sampling": bias(1, float("nan"))}, "logit_bias"),
    ],
)
def test_bad_requests_name_the_parameter(
    prompts: Prompts, changes: dict[str, object], param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        asyncio.run(prompts.request(greedy(**changes)))
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"prompt": (5,) * (CONTEXT + 1)}, "prompt"),
        ({"prompt": (5,) * CONTEXT, "max_tokens": None}, "prompt"),
        ({"prompt": (5,) * 200, "max_tokens": 57}, "prompt"),
        ({"max_tokens": 10**12}, "prompt"),
        ({"prompt": ({"role": "user", "content": "天 " * 200},)}, "messages"),
        ({"prompt": "好" * 10**6}, "prompt"),
        ({"prompt": ({"role": "user", "content": "a" * 10**6},)}, "messages"),
    ],
)
def test_too_long_is_told_never_cut(
    prompts: Prompts, changes: dict[str, object], param: str
) -> None:
    with pytest.raises(ContextLengthExceeded, match=f"{CONTEXT} tokens") as caught:
        asyncio.run(prompts.request(greedy(**changes)))
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", param)


def test_what_just_fits(prompts: Prompts) -> None:
    exact = greedy(prompt=(5,) * 200, max_tokens=CONTEXT - 200)
    assert asyncio.run(prompts.request(exact)) == ([5] * 200, CONTEXT - 200)
    whole = greedy(prompt=(5,) * CONTEXT, max_tokens=0)
    assert asyncio.run(prompts.request(whole))[1] == 0
    open_end = greedy(prompt=(5,) * 200, max_tokens=None)
    assert asyncio.run(prompts.request(open_end))[1] == CONTEXT - 200


@pytest.fixture
def prompts(model_dir: Path) -> Prompts:
    return Prompts(model_dir)


def test_bad_scores_and_embeddings(shared: Shared) -> None:
    async def body(engine: NativeEngine) -> None:
        for continuation in ((330,), (5,) * CONTEXT, "\ud800"):
            with pytest.raises(InvalidRequest):
                await engine.score(ScoreRequest(prompt=PROMPT, continuations=(continuation,)))
        with pytest.raises(ContextLengthExceeded):
            await engine.embed(["好", "天 " * 300])

    shared(body)


def test_cancel_in_mid_stream_frees_its_memory(model_dir: Path) -> None:
    async def body(engine: NativeEngine) -> None:
        generation = await engine.generate(LONG)
        chunks = []
        async for chunk in generation:
            chunks.append(chunk)
            if len(chunks) == 3:
                break
        usage = await generation.cancel()
        assert 3 <= usage.completion_tokens < 200
        assert await generation.cancel() == usage
        await until(lambda: engine.status().kv_blocks_used == 0)

    with_engine(model_dir, body, quantization="none")  # slow enough to be in mid-stream


def test_cancel_ends_whoever_still_iterates(shared: Shared) -> None:
    async def body(engine: NativeEngine) -> None:
        before = [await engine.generate(LONG) for _ in range(60)]  # far more than run together
        generation = await engine.generate(LONG)
        reading = asyncio.create_task(collect(generation))
        await asyncio.sleep(0)
        await generation.cancel()
        async with asyncio.timeout(5):
            chunks = await reading
        assert all(c.finish_reason is None for c in chunks)
        await asyncio.gather(*[g.cancel() for g in before])

    shared(body)


def test_a_hundred_callers_that_vanish_leave_no_block(shared: Shared) -> None:
    async def body(engine: NativeEngine) -> None:
        async def vanish(i: int) -> None:
            generation = await engine.generate(LONG)
            if i % 3 == 0:
                await generation.cancel()
                return
            async for _ in generation:
                break  # gone without a word: the closed iterator cancels
            if i % 3 == 1:
                await generation.cancel()

        async def embed_and_vanish() -> None:
            task = asyncio.create_task(engine.embed(["好" * 50] * 20))
            await asyncio.sleep(0.01)
            task.cancel()

        await asyncio.gather(*[vanish(i) for i in range(100)], embed_and_vanish())
        await until(lambda: engine.status().kv_blocks_used == 0)
        status = engine.status()
        assert (status.running, status.waiting) == (0, 0)
        assert not engine._pending
        assert len(text_of(await collect(await engine.generate(greedy())))) > 0

    shared(body)


def test_a_full_queue_is_refused(shared: Shared) -> None:
    async def body(engine: NativeEngine) -> None:
        running = [await engine.generate(LONG) for _ in range(128)]
        with pytest.raises(Overloaded) as caught:
            await engine.generate(LONG)
        assert caught.value.retry_after > 0
        with pytest.raises(Overloaded):
            await engine.embed(["x"])
        await asyncio.gather(*[g.cancel() for g in running])
        await collect(await engine.generate(greedy()))

    shared(body)


def test_a_model_with_nan_answers_with_an_error_and_lives_on(
    model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import torch

    from everloop.model import checkpoint

    config, model = checkpoint.load(model_dir)
    with torch.no_grad():
        model.model.embed_tokens.weight[7] = torch.nan
    checkpoint.save(tmp_path / "nan", model, config, tokenizer_dir=model_dir)

    async def body(engine: NativeEngine) -> None:
        good = await engine.generate(greedy(prompt=(5, 6)))
        bad = await engine.generate(greedy(prompt=(5, 7), request_id="req-9"))
        with pytest.raises(EverloopError, match="not finite") as caught:
            await collect(bad)
        assert caught.value.status == 500
        assert (await collect(good))[-1].finish_reason == "length"
        with pytest.raises(EverloopError, match="not finite"):
            await engine.score(ScoreRequest(prompt=(5,), continuations=((7, 5),)))
        assert engine.status().restarts == 0

    with_engine(tmp_path / "nan", body, quantization="none")
    assert "req-9" in caplog.text


def test_weights_that_are_no_numbers_are_refused_when_packed(
    model_dir: Path, tmp_path: Path
) -> None:
    import torch

    from everloop.model import checkpoint

    config, model = checkpoint.load(model_dir)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] = torch.inf
    checkpoint.save(tmp_path / "inf", model, config, tokenizer_dir=model_dir)

    async def body(engine: NativeEngine) -> None:
        raise AssertionError("such a model must not start")

    with pytest.raises(EverloopError, match=r"up_proj.*row 83, column 5"):
        with_engine(tmp_path / "inf", body, quantization="int8")


def test_pieces_come_in_groups_or_as_one(shared: Shared) -> None:
    async def body(engine: NativeEngine) -> None:
        request = greedy(max_tokens=40)
        want = await collect(await engine.generate(request))
        groups = [list(group) async for group in (await engine.generate(request)).groups()]
        assert all(groups)
        pieces = [chunk for group in groups for chunk in group]
        assert text_of(pieces) == text_of(want)
        assert [c.finish_reason is None for c in pieces] == [True] * (len(pieces) - 1) + [False]

        late = await engine.generate(request)
        await until(lambda: engine.status().running == 0 and not engine._pending)
        once = [list(group) async for group in late.groups()]
        assert len(once) == 1  # all that has come, at once
        assert text_of(once[0]) == text_of(want)

        for options in ({}, {"logprobs": 1}, {"echo": True}):
            streamed = await collect(await engine.generate(replace(request, **options)))
            options["stream"] = False
            whole = await collect(await engine.generate(replace(request, **options)))
            assert len(whole) == 1
            assert whole[0].text == text_of(streamed)
            assert whole[0].tokens == tuple(t for c in streamed for t in c.tokens)
            assert whole[0].usage == streamed[-1].usage
            assert bool(whole[0].tokens) == ("logprobs" in options)  # told to who asks only

    shared(body)
