"""Several answers to one call: order, ranking, seeds, and nothing left running."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.engine.interface import GenerateRequest, Sampling
from everloop.errors import EngineUnavailable, InvalidRequest, Overloaded
from everloop.tasks import complete, converse, edit
from everloop.tasks.choices import nth_seed
from tests.tasks.small_engine import SmallEngine


def request(prompt: str = "once", **fields: object) -> GenerateRequest:
    given: dict[str, object] = {"max_tokens": 12, "sampling": Sampling(seed=7), **fields}
    return GenerateRequest(prompt=prompt, **given)  # type: ignore[arg-type]


def test_stream_and_collect_are_equal() -> None:
    async def run() -> None:
        engine = SmallEngine()
        texts = {0: "", 1: "", 2: ""}
        ends = []
        async for index, chunk in await complete(engine, request(), n=3):
            texts[index] += chunk.text
            if chunk.finish_reason:
                ends.append(index)
        whole = await (await complete(engine, request(), n=3)).collect()
        assert [c.text for c in whole.choices] == [texts[i] for i in range(3)]
        assert [c.index for c in whole.choices] == [0, 1, 2]
        assert sorted(ends) == [0, 1, 2]
        assert len(set(texts.values())) == 3
        assert whole.usage.prompt_tokens == len("once")  # once, however many answers
        assert whole.usage.completion_tokens == 36
        assert engine.running == 0

    asyncio.run(run())


def test_the_first_answer_does_not_depend_on_n() -> None:
    async def run() -> None:
        engine = SmallEngine()
        alone = await (await complete(engine, request())).collect()
        among = await (await complete(engine, request(), n=4)).collect()
        assert among.choices[0].text == alone.choices[0].text

    asyncio.run(run())


def test_prompts_of_a_list_are_numbered_in_order() -> None:
    async def run() -> None:
        engine = SmallEngine()
        both = [request("once"), request("twice")]
        listed = await (await complete(engine, both, n=2)).collect()
        single = [await (await complete(engine, r, n=2)).collect() for r in both]
        expected = [c.text for collected in single for c in collected.choices]
        assert [c.text for c in listed.choices] == expected
        assert listed.usage.prompt_tokens == len("once") + len("twice")

    asyncio.run(run())


def test_best_of_returns_the_highest_log_probability_per_token() -> None:
    async def run() -> None:
        engine = SmallEngine()
        all_ = await (await complete(engine, request(logprobs=0), n=6)).collect()
        best = await (await complete(engine, request(), n=2, best_of=6)).collect()

        def mean(choice) -> float:
            return sum(t.logprob for t in choice.tokens) / len(choice.tokens)

        ranked = sorted(all_.choices, key=mean, reverse=True)
        assert [c.text for c in best.choices] == [c.text for c in ranked[:2]]
        assert best.usage.completion_tokens == 72  # all candidates are paid for
        assert all(t.logprob is None for c in best.choices for t in c.tokens)  # not asked for

    asyncio.run(run())


def test_best_of_ranks_what_was_written_not_the_echoed_prompt() -> None:
    async def run() -> None:
        engine = SmallEngine()
        plain = await (await complete(engine, request(), n=1, best_of=5)).collect()
        echo = await (await complete(engine, request(echo=True), n=1, best_of=5)).collect()
        assert echo.choices[0].text == "once" + plain.choices[0].text
        nothing = request(echo=True, max_tokens=0, logprobs=0)
        scored = await (await complete(engine, nothing, n=1, best_of=2)).collect()
        assert scored.choices[0].text == "once"

    asyncio.run(run())


def test_best_of_needs_log_probabilities() -> None:
    async def run() -> None:
        engine = SmallEngine()
        engine.hides_logprobs = True
        with pytest.raises(InvalidRequest) as caught:
            await (await complete(engine, request(), n=1, best_of=2)).collect()
        assert caught.value.param == "best_of"
        assert engine.running == 0

    asyncio.run(run())


def test_leaving_early_cancels_and_tells_what_was_used() -> None:
    async def run() -> None:
        engine = SmallEngine()
        choices = await complete(engine, request(max_tokens=1000), n=3)
        async with choices:
            async with aclosing(choices.__aiter__()) as stream:
                async for _ in stream:
                    break
            assert engine.running == 0
        usage = await choices.aclose()
        assert 1 <= usage.completion_tokens < 3000
        assert usage == choices.usage

    asyncio.run(run())


def test_never_iterated_is_cancelled_too() -> None:
    async def run() -> None:
        engine = SmallEngine()
        usage = await (await complete(engine, request(), n=2)).aclose()
        assert engine.running == 0
        assert usage.prompt_tokens == 4
        assert usage.completion_tokens == 0

    asyncio.run(run())


@pytest.mark.parametrize("n", [1, 3])
def test_a_cancelled_caller_leaves_nothing_running(n: int) -> None:
    async def run() -> None:
        engine = SmallEngine()
        choices = await complete(engine, request(max_tokens=10**6), n=n)
        task = asyncio.create_task(choices.collect())
        for _ in range(20):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()  # cancelled again while it cleans up, as anyio's scopes do
        with pytest.raises(asyncio.CancelledError):
            await task
        await choices.aclose()
        assert engine.running == 0

    asyncio.run(run())


def test_one_refusal_stops_all() -> None:
    async def run() -> None:
        engine = SmallEngine()
        engine.refuses_after = 2
        with pytest.raises(Overloaded):
            await complete(engine, request(), n=4)
        assert engine.running == 0

    asyncio.run(run())


@pytest.mark.parametrize("n", [1, 3])
def test_a_dying_engine_is_told_and_leaves_nothing_running(n: int) -> None:
    async def run() -> None:
        engine = SmallEngine()
        engine.dies_after = 5
        choices = await complete(engine, request(), n=n)
        with pytest.raises(EngineUnavailable):
            await choices.collect()
        assert engine.running == 0

    asyncio.run(run())


def test_wrong_n_and_best_of_are_named() -> None:
    async def run() -> None:
        engine = SmallEngine()
        for n, best_of, param in [(0, None, "n"), (3, 2, "best_of")]:
            with pytest.raises(InvalidRequest) as caught:
                await complete(engine, request(), n=n, best_of=best_of)
            assert caught.value.param == param
        with pytest.raises(InvalidRequest):
            await complete(engine, [])
        with pytest.raises(InvalidRequest):
            await converse(engine, request("not a conversation"))
        with pytest.raises(InvalidRequest) as caught:
            await edit(engine, text="teh", instruction=" ")
        assert caught.value.param == "instruction"
        assert engine.started == []

    asyncio.run(run())


def test_edit_asks_with_instruction_and_text() -> None:
    async def run() -> None:
        engine = SmallEngine()
        edited = await edit(engine, text="teh cat", instruction="Fix the spelling.", n=2)
        assert len((await edited.collect()).choices) == 2
        (turn,) = engine.started[0].prompt
        assert turn == {"role": "user", "content": "Fix the spelling.\n\nteh cat"}
        assert [request.prediction for request in engine.started] == ["teh cat"] * 2
        await (await edit(engine, text="", instruction="Write a line.")).collect()
        assert engine.started[-1].prompt[0]["content"] == "Write a line."
        await (await edit(engine, text="a", instruction="Fix.", prediction="b")).collect()
        assert [request.prediction for request in engine.started[-2:]] == ["", "b"]

    asyncio.run(run())


@given(st.integers(-(2**63), 2**63 - 1), st.integers(1, 200))
def test_seeds_of_one_call_differ(seed: int, n: int) -> None:
    seeds = [nth_seed(seed, i) for i in range(n)]
    assert len(set(seeds)) == n
    assert seeds[0] == seed
    assert all(0 <= s < 2**63 for s in seeds[1:])
